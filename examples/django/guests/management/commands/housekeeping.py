"""Deletes expired sessions, at once and then every hour, until it is stopped."""
import time

from django.contrib.sessions.models import Session
from django.core.management.base import BaseCommand
from django.db import close_old_connections
from django.utils import timezone


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser):
        parser.add_argument("--every", type=float, default=3600, metavar="SECONDS")

    def handle(self, *, every, **options):
        while True:
            count, _ = Session.objects.filter(expire_date__lt=timezone.now()).delete()
            self.stdout.write(f"expired sessions deleted: {count}")
            close_old_connections()  # those beyond CONN_MAX_AGE, as at the end of a request
            time.sleep(every)
