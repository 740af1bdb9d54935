"""Which view answers which path."""
from django.urls import path
from guests import views

urlpatterns = [
    path("", views.book, name="book"),
    path("name/", views.name, name="name"),
    path("whoami/", views.whoami, name="whoami"),
]
