"""The forms of the book."""
from django import forms

from .models import Entry

MAX_ATTACHMENT = 10 << 20  # bytes


class EntryForm(forms.ModelForm):
    """An entry; the name is remembered by the session."""

    class Meta:
        model = Entry
        fields = ["message", "attachment"]

    def clean_attachment(self):
        """Refuses what is too large."""
        attachment = self.cleaned_data["attachment"]
        if attachment and attachment.size > MAX_ATTACHMENT:
            raise forms.ValidationError("An attachment has 10 MiB at most.")
        return attachment


class NameForm(forms.Form):
    """Who is writing."""

    name = forms.CharField(max_length=40)
