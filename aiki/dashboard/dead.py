"""What is dead: runs that failed, by their error, and messages that nobody could read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flask import Response, request, url_for

from aiki import ids
from aiki.api import batches as api_batches
from aiki.api import letters as api_letters
from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.api.requests import backend, client, store
from aiki.dashboard.blueprint import blueprint
from aiki.dashboard.views import done, one_of, page, shared, why
from aiki.errors import BrokerUnavailable, RunConflict
from aiki.storage.batches import Operation, Target
from aiki.storage.dead import DeadLetter, FailureGroup

ON_A_PAGE: Final = 50
SHOWN: Final = 64 * 1024
"""Bytes of a letter's body that are shown."""
TYPED_ABOVE: Final = 100


@blueprint.get("/dead")
@needs("look")
@shared
def dead_letters() -> Response:
    """Runs that are failed or dead, by their error."""
    groups = store().failure_groups()
    return page(
        "dead.html",
        parts={"rows": "dead_rows.html"},
        groups=groups,
        total=sum(group.count for group in groups),
        letters=store().dead_letter_count(),
    )


@blueprint.get("/dead/failures/<fingerprint>")
@needs("look")
def failure(fingerprint: str) -> Response:
    """An error, with the runs that failed of it."""
    group = _group(fingerprint)
    after = ids.parse_id(request.args.get("after", ""))
    mark = bytes.fromhex(group.fingerprint)
    found = store().failures_of(mark, limit=ON_A_PAGE + 1, after=None if after is None else str(after))
    following = ""
    if len(found) > ON_A_PAGE:
        following = url_for("dashboard.failure", fingerprint=group.fingerprint, after=found[ON_A_PAGE - 1].id)
    return page("failure.html", group=group, runs=found[:ON_A_PAGE], following=following, active="dashboard.dead_letters")


@blueprint.get("/dead/failures/<fingerprint>/retry")
@needs("runs.operate")
def ask_retry_group(fingerprint: str) -> Response:
    """Ask before all runs of an error are retried."""
    return _retry_form(_group(fingerprint))


@blueprint.post("/dead/failures/<fingerprint>/retry")
@needs("runs.operate")
def retry_group(fingerprint: str) -> Response:
    """Retry all runs of an error, by a batch."""
    group = _group(fingerprint)
    if group.count > TYPED_ABOVE and request.form.get("typed", "").strip() != str(group.count):
        return _retry_form(group, f"Type {group.count} to go on.")
    return _retry(Target(fingerprint=group.fingerprint), lambda text: _retry_form(group, text))


@blueprint.get("/dead/retry")
@needs("runs.operate")
def ask_retry_dead() -> Response:
    """Ask before all that failed is retried."""
    return _retry_all_form()


@blueprint.post("/dead/retry")
@needs("runs.operate")
def retry_dead() -> Response:
    """Retry all runs that are failed or dead, by a batch."""
    if request.form.get("typed", "").strip() != "retry all":
        return _retry_all_form("Type retry all to go on.")
    return _retry(Target(q="status:failed,dead"), _retry_all_form)


def _retry(target: Target, form: object) -> Response:
    assert callable(form)
    try:
        batch_id = ids.parse_id(request.form.get("new_id", ""))
        made, _ = api_batches.begin(
            *(Operation.RETRY, target),
            batch_id=None if batch_id is None else str(batch_id),
            reason=why(),
            confirm=Operation.RETRY.value,
        )
    except RunConflict as error:
        response = form(str(error))
        assert isinstance(response, Response)
        return response
    return done(url_for("dashboard.batch", batch_id=made.id), "batch")


def _retry_form(group: FailureGroup, problem: str = "") -> Response:
    many = f"{group.count:,} {'run' if group.count == 1 else 'runs'}"
    return page(
        "confirm.html",
        title=f"Retry {many}",
        text=f"All that failed of {group.error_type}: they go on, a batch tells how far it is and can be stopped.",
        problem=problem,
        action=url_for("dashboard.retry_group", fingerprint=group.fingerprint),
        button=f"Retry {many}",
        back=url_for("dashboard.failure", fingerprint=group.fingerprint),
        hidden={"new_id": str(ids.new_id())},
        typed=str(group.count) if group.count > TYPED_ABOVE else "",
        active="dashboard.dead_letters",
        status=400 if problem else 200,
    )


def _retry_all_form(problem: str = "") -> Response:
    return page(
        "confirm.html",
        title="Retry all that failed",
        text="All runs that are failed or dead go on, whatever their error; a batch tells how far it is and can be stopped.",
        problem=problem,
        action=url_for("dashboard.retry_dead"),
        button="Retry all",
        back=url_for("dashboard.dead_letters"),
        hidden={"new_id": str(ids.new_id())},
        typed="retry all",
        active="dashboard.dead_letters",
        status=400 if problem else 200,
    )


def _group(fingerprint: str) -> FailureGroup:
    try:
        mark = bytes.fromhex(fingerprint) if len(fingerprint) == 32 else b""
    except ValueError:
        mark = b""
    found = store().failure_group(mark) if len(mark) == 16 else None
    if found is None:
        raise Refused(404, "not_found", "No run is failed of this error any more.")
    return found


# ---------------------------------------------------------------- letters
@blueprint.get("/dead/letters")
@needs("look")
def letters() -> Response:
    """Messages that nobody could read or place."""
    after = request.args.get("after", "")
    found = store().dead_letters(limit=ON_A_PAGE + 1, after=after if _is_letter(after) else None)
    following = url_for("dashboard.letters", after=found[ON_A_PAGE - 1].id) if len(found) > ON_A_PAGE else ""
    count = store().dead_letter_count()
    return page(
        "letters.html", found=found[:ON_A_PAGE], following=following, letters=count, active="dashboard.dead_letters"
    )  # fmt: skip


@blueprint.get("/dead/letters/<letter_id>")
@needs("payloads.unmasked")
def letter(letter_id: str) -> Response:
    """One letter, with what is in it: arguments of runs may be, unmasked."""
    found = _letters([letter_id])[0]
    text = found.body[:SHOWN].decode("utf-8", "backslashreplace")
    return page("letter.html", letter=found, text=text, cut=len(found.body) > SHOWN, active="dashboard.dead_letters")


_LETTER_VERBS: Final = {
    "requeue": ("Requeue", "They are sent again to where they were; nobody executes one whose run is elsewhere by now."),
    "discard": ("Discard", "They are deleted. What they asked for is not done; runs are not touched."),
}


@blueprint.get("/dead/letters/do/<verb>")
@needs("dead.operate")
def ask_letters(verb: str) -> Response:
    """Ask before letters are requeued or discarded."""
    return _letters_form(one_of(verb, _LETTER_VERBS), request.args.getlist("letter"))


@blueprint.post("/dead/letters/do/<verb>")
@needs("dead.operate")
def do_letters(verb: str) -> Response:
    """Requeue or discard letters."""
    verb, found = one_of(verb, _LETTER_VERBS), _letters(request.form.getlist("letter"))
    try:
        if verb == "requeue":
            api_letters.requeue(backend().settings, store(), found, store().namespace)
    except (RunConflict, BrokerUnavailable) as error:
        return _letters_form(verb, [item.id for item in found], str(error))
    client().forget_letters([item.id for item in found], requeued=verb == "requeue", reason=why())
    return done(url_for("dashboard.letters"), f"{verb}ed" if verb == "discard" else "requeued")


def _letters_form(verb: str, chosen: Sequence[str], problem: str = "") -> Response:
    title, text = _LETTER_VERBS[verb]
    if not chosen:
        return page(
            "confirm.html", title="No message is selected", text="Select messages by the boxes before them.",
            action=url_for("dashboard.letters"), button="Go back", back=url_for("dashboard.letters"), reason=False,
            method="get", status=400, active="dashboard.dead_letters",
        )  # fmt: skip
    found = _letters(chosen)
    many = f"{len(found):,} {'message' if len(found) == 1 else 'messages'}"
    return page(
        "confirm.html",
        title=f"{title} {many}",
        text=text,
        problem=problem,
        action=url_for("dashboard.do_letters", verb=verb),
        button=title,
        back=url_for("dashboard.letters"),
        danger=verb == "discard",
        fields="fields_letters.html",
        filled=[item.id for item in found],
        active="dashboard.dead_letters",
        status=400 if problem else 200,
    )


def _letters(chosen: Sequence[str]) -> list[DeadLetter]:
    found = [store().dead_letter(item) if _is_letter(item) else None for item in dict.fromkeys(chosen[:ON_A_PAGE])]
    if not found or None in found:
        raise Refused(404, "not_found", "There is no such message here; it may have been dealt with.")
    return [item for item in found if item is not None]


def _is_letter(text: str) -> bool:
    return len(text) == 32 and all(char in "0123456789abcdef" for char in text)
