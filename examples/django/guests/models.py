"""What the book holds."""
from django.db import models


class Entry(models.Model):
    """One entry of the book."""

    name = models.CharField(max_length=40)
    message = models.CharField(max_length=500)
    attachment = models.FileField(upload_to="%Y/%m/", blank=True)
    signed = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-signed", "-id"]
        verbose_name_plural = "entries"

    def __str__(self):
        return f"{self.name}: {self.message[:40]}"
