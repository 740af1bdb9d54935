"""Which view answers which path."""
from django.contrib import admin
from django.urls import path

from guests import views

urlpatterns = [
    path("", views.book, name="book"),
    path("name/", views.name, name="name"),
    path("files/<path:name>", views.attachment, name="attachment"),
    path("entries.csv", views.export, name="export"),
    path("chat/", views.chat, name="chat"),
    path("whoami/", views.whoami, name="whoami"),
    path("admin/", admin.site.urls),
]
