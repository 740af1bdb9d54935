"""Settings of a small site behind a front on the same machine. Each has a variable of the environment."""
import os
import secrets
from pathlib import Path

from . import database

BASE_DIR = Path(__file__).resolve().parent.parent
# What the site writes: its database, its key, what visitors upload and the collected static files.
BESIDE_DATABASE = os.path.dirname(os.environ.get("DJANGO_DB", ""))
DATA_DIR = Path(os.environ.get("DJANGO_DATA") or BESIDE_DATABASE or BASE_DIR / "var")


def secret_key():
    """The key of this installation, made on its first start."""
    path = DATA_DIR / "secret-key"
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
    except FileExistsError:
        pass
    return path.read_text()


SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY") or secret_key()
DEBUG = os.environ.get("DJANGO_DEBUG") == "1"
# The front passes the client's Host on; name yours here.
ALLOWED_HOSTS = os.environ.get("DJANGO_HOSTS", "127.0.0.1,localhost,[::1]").split(",")
# Where the site is reached by HTTPS, as in "https://example.org".
CSRF_TRUSTED_ORIGINS = [o for o in os.environ.get("DJANGO_ORIGINS", "").split(",") if o]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "guests",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "mysite.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
WSGI_APPLICATION = "mysite.wsgi.application"
# The messages of the chat stay in their worker, so it runs with `--asgi --workers 1`; several need channels_redis.
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
DATABASES = {"default": database.from_environment(DATA_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# `collectstatic` puts them here, and the front serves them.
STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
# A view decides who may read these; the front sends them by X-Accel-Redirect.
MEDIA_URL = "/files/"
MEDIA_ROOT = DATA_DIR / "uploads"

# The front drops what clients say of these and writes its own, so they may be believed here.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
