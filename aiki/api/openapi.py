"""The OpenAPI 3.1 document, made from the routes, the marshmallow schemas and one declaration an endpoint.

An endpoint declares itself between `@needs` and its function; a test fails for one that does not:

    @blueprint.post("/queues/<queue>/pause")
    @needs("queues.operate")
    @describe(body=schemas.ReasonSchema, optional_body=True, answer=answers.Queue, errors=("not_found",))
    def pause(queue: str) -> Response:
        '''Summary in one line.

        More, if there is more to say.'''

`query` and `body` are `Strict` schemas; `answer` is an `answers.Answer` schema for 200, `answers` a mapping of status to schema
(None: no body), `media` what is not JSON (media type to description). `errors` are codes of `problems.CODES`, beyond those that
every endpoint has. `example` is a body that works. Path parameters, action and role, the common errors, `Idempotency-Key` of
POSTs and the headers of answers come by themselves. Fields are described by marshmallow's own types or by the `shape` of a
`Checked` field (`field_checks.shaped`). Answers' names must be unique; they may stand in files of their own, derived from
`Answer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from marshmallow import Schema
from marshmallow import fields as ma
from werkzeug.routing import Rule

import aiki
from aiki.api import answers as answers_
from aiki.api.access import ACTIONS, NAMESPACE_HEADER
from aiki.api.problems import CODES, PROBLEM
from aiki.client import wire

F = TypeVar("F", bound=Callable[..., Any])
Some = type[Schema] | Schema

VERSION: Final = "3.1.0"
PREFIXES: Final = ("/api/v1/", "/healthz", "/readyz")
"""Where the API is; what is elsewhere are pages."""
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_OF_ALL: Final = ("unauthorized", "forbidden", "too_many_requests", "unavailable", "internal")
_OF_BODIES: Final = ("payload_too_large", "unsupported_media_type")
_PATH: Final[Mapping[str, dict[str, Any]]] = {
    "queue": {"description": "The queue's name.", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}},
    "worker_id": {"description": "The id of the worker's incarnation.", "schema": {"type": "string"}},
    "batch_id": {"description": "The batch's id.", "schema": {"type": "string", "format": "uuid"}},
    "letter_id": {"description": "The letter's id.", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
    "fingerprint": {"description": "What the error is known by.", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
    "run_id": {"description": "The run's id.", "schema": {"type": "string", "format": "uuid"}},
}


@dataclass(frozen=True, slots=True)
class Declared:
    """The declaration of an endpoint."""

    query: Schema | None = None
    repeatable: tuple[str, ...] = ()
    body: Schema | None = None
    optional_body: bool = False
    answers: Mapping[int, Schema | None] = field(default_factory=dict)
    media: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    example: Any = None
    conditional: bool = False
    secret: bool = False


def describe(
    *,
    query: Some | None = None,
    repeatable: tuple[str, ...] = (),
    body: Some | None = None,
    optional_body: bool = False,
    answer: Some | None = None,
    answers: Mapping[int, Some | None] | None = None,
    media: Mapping[str, str] | None = None,
    errors: tuple[str, ...] = (),
    example: Any = None,
    conditional: bool = False,
    secret: bool = False,
) -> Callable[[F], F]:
    """Declare an endpoint; see the module. `repeatable` names fields of the query that may be given several times.

    `conditional`: it has an `ETag`, and answers 304 to `If-None-Match`. `secret`: its answer is not kept for
    an `Idempotency-Key`, which then has it done once without telling twice.
    """
    unknown = [code for code in errors if code not in CODES]
    assert not unknown, f"{unknown} are not in problems.CODES"
    found = {200: answer} if answer is not None else dict(answers or {})
    declared = Declared(
        query=_instance(query),
        repeatable=repeatable,
        body=_instance(body),
        optional_body=optional_body,
        answers={status: _instance(schema) for status, schema in found.items()},
        media=dict(media or {}),
        errors=errors,
        example=example,
        conditional=conditional,
        secret=secret,
    )

    def decorate(view: F) -> F:
        marked: Any = view
        marked.declared = declared
        return view

    return decorate


def _instance(schema: Some | None) -> Schema | None:
    return schema() if isinstance(schema, type) else schema


def endpoints(app: Flask) -> Iterator[tuple[Rule, str, Callable[..., Any]]]:
    """The rules, methods and functions of the API."""
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if rule.rule.startswith(PREFIXES):
            for method in _METHODS:
                if method in (rule.methods or ()):
                    yield rule, method, app.view_functions[rule.endpoint]


def undeclared(app: Flask) -> list[str]:
    """The endpoints without a declaration."""
    return sorted({rule.rule for rule, _, view in endpoints(app) if not isinstance(getattr(view, "declared", None), Declared)})


# ---------------------------------------------------------------- the document
def document(app: Flask, *, path: str = "", strict: bool = False) -> dict[str, Any]:
    """The document of an app's endpoints, which are reached under `path`.

    :param strict: answers may have no field that is not described, for tests.
    """
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    spec = APISpec(
        title="Aiki",
        version=aiki.__version__,
        openapi_version=VERSION,
        plugins=[plugin],
        info={"description": _ABOUT, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        servers=[{"url": path or "/"}],
    )
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_shape_of)  # type: ignore[no-untyped-call]
    spec.components.schema("Problem", schema=answers_.Problem)
    for name, scheme in _SECURITY.items():
        spec.components.security_scheme(name, scheme)
    for name, header in _HEADERS.items():
        spec.components.header(name, header)
    for code in CODES:
        spec.components.response(code, _problem(code))
    tags: dict[str, None] = {}
    for rule, method, view in endpoints(app):
        declared = getattr(view, "declared", None)
        if isinstance(declared, Declared):
            operation = _Operation(rule, method, view, declared).made()
            tags.update(dict.fromkeys(operation["tags"]))
            path, _ = _path_of(rule)
            spec.path(path, operations={method.lower(): operation})
    for tag in tags:
        spec.tag({"name": tag})
    out = spec.to_dict()
    return _strict(out) if strict else _with_who(out)


class _Operation:
    """One method of one path."""

    def __init__(self, rule: Rule, method: str, view: Callable[..., Any], declared: Declared) -> None:
        self._rule = rule
        self._method = method
        self._view = view
        self._declared = declared
        self._action: str | None = getattr(view, "action", None)

    def made(self) -> dict[str, Any]:
        """See OpenAPI's operation object."""
        blueprint, _, name = self._rule.endpoint.rpartition(".")
        summary, _, rest = inspect.cleandoc(self._view.__doc__ or "").partition("\n")
        out: dict[str, Any] = {
            "operationId": f"{blueprint}_{name}",
            "tags": [blueprint],
            "summary": summary.strip().rstrip("."),
            "description": self._description(summary, rest),
            "responses": self._responses(),
        }
        if parameters := self._parameters():
            out["parameters"] = parameters
        if self._declared.body is not None:
            out["requestBody"] = self._body(self._declared.body)
        if self._action is None:
            out["security"] = []
        else:
            out["x-action"], out["x-role"] = self._action, ACTIONS[self._action].value
        return out

    def _description(self, summary: str, rest: str) -> str:
        role = f"Needs the role {ACTIONS[self._action]} (`{self._action}`)." if self._action else "Open to everybody."
        return "\n\n".join(part for part in (summary.strip(), rest.strip(), role) if part)

    def _parameters(self) -> list[dict[str, Any]]:
        _, names = _path_of(self._rule)
        plain = {"schema": {"type": "string"}}
        out: list[dict[str, Any]] = [{"in": "path", "name": name, "required": True, **_PATH.get(name, plain)} for name in names]
        if self._declared.query is not None:
            out += [self._query(name, item) for name, item in self._declared.query.fields.items()]
        if self._method == "POST" and self._action is not None:
            out.append(_IDEMPOTENCY_KEY)
        if self._declared.conditional:
            out.append(_IF_NONE_MATCH)
        return out

    def _query(self, name: str, item: ma.Field[Any]) -> dict[str, Any]:
        shape = _CONVERTER.field2property(item)
        out: dict[str, Any] = {"in": "query", "name": item.data_key or name, "required": item.required}
        if "description" in shape:
            out["description"] = shape["description"]
        if name in self._declared.repeatable:
            shape = shape if shape.get("type") == "array" else {"type": "array", "items": shape}
            out |= {"style": "form", "explode": True}
        return {**out, "schema": shape}

    def _body(self, schema: Schema) -> dict[str, Any]:
        media: dict[str, Any] = {"schema": schema}
        if self._declared.example is not None:
            media["example"] = self._declared.example
        return {"required": not self._declared.optional_body, "content": {"application/json": media}}

    def _responses(self) -> dict[str, Any]:
        declared = self._declared
        headers = {name: {"$ref": f"#/components/headers/{name}"} for name in _HEADERS}
        out: dict[str, Any] = {}
        for status, schema in declared.answers.items():
            out[str(status)] = {"description": _STATUS.get(status, "Done."), "headers": headers}
            if schema is not None:
                out[str(status)]["content"] = {"application/json": {"schema": schema}}
        if declared.media:
            ok = out.setdefault("200", {"description": _STATUS[200], "headers": headers})
            kinds = {
                kind: {"schema": {"type": "object" if kind == "application/json" else "string", "description": text}}
                for kind, text in declared.media.items()
            }
            ok["content"] = {**ok.get("content", {}), **kinds}
        if declared.conditional:
            out["200"]["headers"] = {**headers, "ETag": _ETAG}
            out["304"] = {"description": "It is as it was under that `ETag`."}
        by_status: dict[int, list[str]] = {}
        for code in self._codes():
            by_status.setdefault(CODES[code].status, []).append(code)
        for number, codes in by_status.items():
            if str(number) not in out:
                one = {"$ref": f"#/components/responses/{codes[0]}"}
                out[str(number)] = one if len(codes) == 1 else _problem(*codes)
        return dict(sorted(out.items()))

    def _codes(self) -> list[str]:
        declared = self._declared
        out = [*declared.errors]
        if self._action is not None:
            out += _OF_ALL
        if declared.query is not None or declared.body is not None:
            out.append("invalid")
        if declared.query is not None:
            out.append("uri_too_long")
        if declared.body is not None:
            out += _OF_BODIES
        if self._rule.arguments:
            out.append("not_found")
        if self._method == "POST" and self._action is not None:
            out += ["invalid", "idempotency_conflict", "idempotency_mismatch"]
        return list(dict.fromkeys(out))


def _path_of(rule: Rule) -> tuple[str, list[str]]:
    """`/runs/{run_id}` and the names in it."""
    text, names = "", []
    for dynamic, part in rule._trace:
        if dynamic:
            names.append(part)
            text += "{" + part + "}"
        else:
            text += part.lstrip("|")
    return text, names


def _schema_name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    # What is sent and what is answered may have one noun: runs, definitions.
    return str(kind.__name__).removesuffix("Schema") + ("" if issubclass(kind, answers_.Answer) else "Request")


def _shape_of(_converter: Any, item: ma.Field[Any], **_rest: Any) -> dict[str, Any]:
    """The JSON schema of a `Checked` field."""
    shape: Mapping[str, Any] | None = getattr(item, "shape", None)
    if shape is None:
        return {}
    out = dict(shape)
    if item.allow_none and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    elif item.allow_none and "anyOf" in out:
        out["anyOf"] = [*out["anyOf"], {"type": "null"}]
    if item.metadata.get("description"):
        out["description"] = item.metadata["description"]
    return out


def _problem(*codes: str) -> dict[str, Any]:
    """An error's answer: the codes that it may have."""
    told = "; ".join(f"`{code}`: {CODES[code].meaning}" for code in codes)
    return {"description": told, "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


def _strict(document: dict[str, Any]) -> dict[str, Any]:
    names = {_schema_name(kind) for kind in answers_.all_answers()}
    for name, schema in document["components"]["schemas"].items():
        if name in names and schema.get("additionalProperties") is None:
            schema["additionalProperties"] = False
    return document


def _with_who(document: dict[str, Any]) -> dict[str, Any]:
    """Say of all operations who may ask, and for which namespace."""
    document["security"] = [{"key": []}, {"session": [], "csrf": []}, {}]
    document["components"]["parameters"] = {"namespace": _NAMESPACE}
    for operations in document["paths"].values():
        for operation in operations.values():
            if "x-action" in operation:
                operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/namespace"})
            if operation.get("x-action") == "runs.enqueue":
                operation["parameters"] += [_TRACE, _SIGNATURE]
    return document


def _converter() -> Any:
    plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
    APISpec(title="", version="", openapi_version=VERSION, plugins=[plugin])
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_shape_of)  # type: ignore[no-untyped-call]
    return plugin.converter


_CONVERTER: Final = _converter()
_STATUS: Final = {200: "Done.", 201: "Made.", 202: "Taken; it goes on.", 204: "Done; there is nothing to say."}
_SECURITY: Final[Mapping[str, dict[str, Any]]] = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key: `Authorization: Bearer <key>`."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "aiki_session",
        "description": "Somebody who has signed in at `/sign-in`; over HTTPS the cookie's name begins with `__Host-`.",
    },
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": "X-CSRF-Token",
        "description": "With a session, whatever changes something needs the session's token. Keys need none.",
    },
}
_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "X-Request-ID": {
        "description": "The request's id, as it was sent or made here; the server's log has it.",
        "schema": {"type": "string"},
    },
    wire.TIME_HEADER: {
        "description": "The database server's clock, microseconds since the Unix epoch; left out until it is known.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}
_IDEMPOTENCY_KEY: Final[dict[str, Any]] = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "1 to 200 printable ASCII characters. The same request under the same key is done once; for 24 hours its "
    "answer is given again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
}
_IF_NONE_MATCH: Final[dict[str, Any]] = {
    "in": "header",
    "name": "If-None-Match",
    "required": False,
    "description": "The `ETag` of an earlier answer: 304 if it is still that.",
    "schema": {"type": "string"},
}
_ETAG: Final[dict[str, Any]] = {"description": "What tells this state from others.", "schema": {"type": "string"}}
_NAMESPACE: Final[dict[str, Any]] = {
    "in": "header",
    "name": NAMESPACE_HEADER,
    "required": False,
    "description": "Which namespace is asked for, among those that the key or the user may see.",
    "schema": {"type": "string", "maxLength": 64},
}
_TRACE: Final[dict[str, Any]] = {
    "in": "header",
    "name": "traceparent",
    "required": False,
    "description": "The W3C trace that the run is to belong to.",
    "schema": {"type": "string"},
}
_SIGNATURE: Final[dict[str, Any]] = {
    "in": "header",
    "name": wire.SHAPE_HEADER,
    "required": False,
    "description": "A digest of the signature that the caller saw. Workers whose function has another one look at the types of "
    "the arguments before they call it. What is no digest is passed over.",
    "schema": {"type": "string"},
}
_ABOUT: Final = (
    "Tasks and durable workflows: record runs, look at them, steer them. Bodies are JSON; unknown fields are refused; errors "
    "are problem details (RFC 9457) with a `code` and the `request_id`. Times are ISO 8601 in UTC. Lists are paged by `after`, "
    "which takes the `next` of the page before."
)
