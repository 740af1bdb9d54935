"""Settings of a small site behind a front on the same machine."""
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent

# For development. A real site sets the variable, and keeps it to itself.
SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "development-only-not-a-secret-0123456789abcdef")
DEBUG = False
# The front passes the client's Host on; name yours here.
ALLOWED_HOSTS = os.environ.get("DJANGO_HOSTS", "127.0.0.1,localhost").split(",")

INSTALLED_APPS = [
    "django.contrib.sessions",
    "guests",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "mysite.urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
WSGI_APPLICATION = "mysite.wsgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DJANGO_DB", BASE_DIR / "db.sqlite3"),
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# The front drops what clients say of these and writes its own, so they may be believed here.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
