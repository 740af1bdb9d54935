"""The book in the admin."""
from django.contrib import admin

from .models import Entry


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    """Entries, newest first."""

    list_display = ["name", "message", "attachment", "signed"]
    search_fields = ["name", "message"]
