"""The database: SQLite, or PostgreSQL by `DATABASE_URL`."""
import os
from urllib.parse import parse_qsl, unquote, urlsplit

# Names of the URL's scheme that mean PostgreSQL.
POSTGRESQL = {"postgres", "postgresql"}


def from_environment(data_dir):
    """What stands in `DATABASES`."""
    url = os.environ.get("DATABASE_URL")
    if url:
        return from_url(url)
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DB", data_dir / "db.sqlite3"),
        # Several workers write: begin with the lock, and wait for it.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode=WAL"},
        "TEST": {"NAME": os.environ.get("DJANGO_TEST_DB")},
    }


def from_url(url):
    """`postgresql://user:password@host:port/name?sslmode=require`; without a host the local socket."""
    parts = urlsplit(url)
    if parts.scheme not in POSTGRESQL:
        raise ValueError(f"DATABASE_URL has the scheme {parts.scheme!r}; write postgresql://user:password@host/name")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        "OPTIONS": dict(parse_qsl(parts.query)),
        "CONN_MAX_AGE": 60,
        # A connection that a restart of the server has ended is opened again. Otherwise the next request fails.
        "CONN_HEALTH_CHECKS": True,
    }
