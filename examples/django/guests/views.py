"""A guest book with forms and sessions."""
from django.http import JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from .forms import EntryForm, NameForm
from .models import Entry

SHOWN = 50  # entries on the page


def book(request):
    """Shows the book and the form; takes an entry from who has said their name."""
    visits = request.session.get("visits", 0) + 1
    request.session["visits"] = visits
    form = EntryForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        entry = form.save(commit=False)
        entry.name = request.session.get("name", "Somebody")
        entry.save()
        return redirect("book")
    context = {
        "form": form,
        "name_form": NameForm(),
        "name": request.session.get("name"),
        "visits": visits,
        "entries": Entry.objects.all()[:SHOWN],
    }
    return render(request, "guests/book.html", context, status=422 if form.errors else 200)


@require_POST
def name(request):
    """Remembers the visitor's name in the session."""
    form = NameForm(request.POST)
    if form.is_valid():
        request.session["name"] = form.cleaned_data["name"]
    return redirect("book")


def whoami(request):
    """Says how the request looks from here."""
    return JsonResponse(
        {
            "forwarded_for": request.META.get("HTTP_X_FORWARDED_FOR"),
            "forwarded_proto": request.META.get("HTTP_X_FORWARDED_PROTO"),
            "host": request.get_host(),
            "secure": request.is_secure(),
        }
    )
