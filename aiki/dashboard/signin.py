"""The page to sign in, and signing out."""

from __future__ import annotations

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for

from aiki.api import signin
from aiki.api.access import needs
from aiki.api.problems import Refused
from aiki.dashboard import csrf, views
from aiki.dashboard.blueprint import packed, protected

blueprint = Blueprint("signin", __name__)


@blueprint.before_request
def _before() -> None:
    if request.method == "POST":
        csrf.check()


@blueprint.after_request
def _after(response: Response) -> Response:
    protected(response)
    csrf.keep(response)
    return packed(response)


@blueprint.get("/sign-in")
def page() -> Response:
    """The form; open to everybody."""
    return _form(request.args.get("next"), "", 200)


@blueprint.post("/sign-in")
def sign_in() -> Response:
    """Sign in and go on to where one wanted to go; open to everybody."""
    name, wanted = request.form.get("name", ""), request.form.get("next")
    try:
        token = signin.sign_in(name, request.form.get("password", ""))
    except Refused as error:
        response = _form(wanted, error.detail, error.status)
        if "retry_after" in error.more:
            response.headers["Retry-After"] = str(error.more["retry_after"])
        return response
    if token is None:
        return _form(wanted, "The name or the password is wrong.", 401)
    response = make_response(redirect(views.here(wanted), 303))
    signin.remember(response, token)
    return response


@blueprint.post("/sign-out")
@needs("look")
def sign_out() -> Response:
    """End the session."""
    signin.sign_out()
    response = make_response(redirect(url_for("signin.page"), 303))
    signin.forget(response)
    return response


@blueprint.post("/namespace")
@needs("look")
def choose_namespace() -> Response:
    """Be about another namespace from now on."""
    response = make_response(redirect(views.here(request.form.get("next")), 303))
    signin.choose_namespace(response, request.form.get("name", ""))
    return response


def _form(wanted: str | None, problem: str, status: int) -> Response:
    g.pop("principal", None)
    name = request.form.get("name", "")[:64]
    return make_response(render_template("sign_in.html", next=views.here(wanted), problem=problem, name=name), status)
