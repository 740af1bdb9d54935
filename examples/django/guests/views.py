"""A guest book with forms, sessions and private files."""
import csv
import io
import mimetypes
from urllib.parse import quote

from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.http import content_disposition_header
from django.views.decorators.http import require_GET, require_POST

from .forms import EntryForm, NameForm
from .models import Entry

SHOWN = 50  # entries on the page
# A browser shows these; anything else that a visitor uploads is only ever downloaded.
SHOWN_INLINE = {"image/png", "image/jpeg", "image/gif", "image/webp", "text/plain"}


def book(request):
    """Shows the book and the form; takes an entry from who has said their name."""
    visits = request.session.get("visits", 0) + 1
    request.session["visits"] = visits
    form = EntryForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        entry = form.save(commit=False)
        entry.name = request.session.get("name", "Somebody")
        entry.save()
        request.session["entries"] = request.session.get("entries", []) + [entry.pk]
        return redirect("book")
    context = {
        "form": form,
        "name_form": NameForm(),
        "name": request.session.get("name"),
        "visits": visits,
        "entries": Entry.objects.all()[:SHOWN],
        "own": request.session.get("entries", []),
    }
    return render(request, "guests/book.html", context, status=422 if form.errors else 200)


@require_POST
def name(request):
    """Remembers the visitor's name in the session."""
    form = NameForm(request.POST)
    if form.is_valid():
        request.session["name"] = form.cleaned_data["name"]
    return redirect("book")


@require_GET
def attachment(request, name):
    """Lets the staff, and who has uploaded it, read a file. The front sends it: no worker reads it."""
    entry = get_object_or_404(Entry, attachment=name)
    if not request.user.is_staff and entry.pk not in request.session.get("entries", []):
        raise Http404
    kind = mimetypes.guess_type(name)[0]
    is_inline = kind in SHOWN_INLINE
    response = HttpResponse(content_type=kind if is_inline else "application/octet-stream")
    response["X-Accel-Redirect"] = "/private/" + quote(name)
    response["Content-Disposition"] = content_disposition_header(not is_inline, name.rsplit("/", 1)[-1])
    response["Cache-Control"] = "private, no-store"
    return response


@require_GET
def export(request):
    """All entries as a table that is never in memory as a whole."""

    def lines():
        line = io.StringIO()
        writer = csv.writer(line)
        yield "name,message\r\n"
        for entry in Entry.objects.values_list("name", "message").iterator(chunk_size=500):
            writer.writerow(entry)
            yield line.getvalue()
            line.seek(0)
            line.truncate()

    return StreamingHttpResponse(lines(), content_type="text/csv; charset=utf-8")


@require_GET
def chat(request):
    """Shows the chat, whose messages come by WebSocket."""
    return render(request, "guests/chat.html")


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
