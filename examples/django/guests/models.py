"""What the book holds."""
from django.db import models


class Entry(models.Model):
    """One entry of the book."""

    name = models.CharField(max_length=40)
    message = models.CharField(max_length=500)
    signed = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-signed", "-id"]
