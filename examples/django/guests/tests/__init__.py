"""Tests that reach the site through the front, with real worker processes.

    DJANGO_TEST_DB=/tmp/test.sqlite3 VESTIBULE_DJANGO=target/debug/examples/django python manage.py test
"""
