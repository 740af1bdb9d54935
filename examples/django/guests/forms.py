"""The forms of the book."""
from django import forms

from .models import Entry


class EntryForm(forms.ModelForm):
    """An entry; the name is remembered by the session."""

    class Meta:
        model = Entry
        fields = ["message"]


class NameForm(forms.Form):
    """Who is writing."""

    name = forms.CharField(max_length=40)
