"""What goes wrong over HTTP, in the shape that OpenAI's clients read: {"error": {message, type, param, code}}."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from wren.errors import unknown_key

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_SHOWN = 80  # characters of a wrong value


class ApiError(Exception):
    """param: the field that is wrong. code: for programs. retry_after: seconds until it is worth another try."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response(self.body(), self.status, headers)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """ASCII alone, so that half a surrogate pair in what a client sent can be told back to it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Response(text, status, dict(headers or {}), "application/json")


def of_validation(errors: Sequence[Any], fields: Iterable[str] = ()) -> ApiError:
    """The first thing that the schema of a request refused, as a sentence; fields: that the request may have."""
    deepest = max(errors, key=lambda each: len(each["loc"]))
    first = next((each for each in errors if not each["type"].endswith("_type")), deepest)  # of a union, the nearest
    place = [part for part in first["loc"] if part != "body" and not _names_a_type(part)]
    param = ".".join(map(str, place)) or None
    kind, given = first["type"], first.get("input")
    if kind == "json_invalid":
        why = f"{first['ctx']['error']} at character {first['loc'][-1]}"
        return ApiError(400, f"The request's body is not valid JSON: {why}.", code="invalid_json")
    if param is None:
        sentence = "Send a JSON object with the header Content-Type: application/json."
        return ApiError(400, sentence, code="invalid_request")
    if kind == "extra_forbidden":
        known = sorted(fields) if len(place) == 1 else []
        sentence = (
            unknown_key("Field", param, known) if known else f"'{param[:_SHOWN]}' is not a field of this request."
        )
        return ApiError(400, sentence, param=param, code="unknown_parameter")
    if kind == "missing":
        return ApiError(400, f"'{param}' is missing.", param=param, code="missing_required_parameter")
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removesuffix(".")
    return ApiError(400, f"'{param}' is {shown(given)}: {said}.", param=param, code="invalid_value")


def _names_a_type(part: Any) -> bool:
    """Whether a part of a place names an alternative of a union ("list[str]", "str"), not a field."""
    return isinstance(part, str) and (part in _ALTERNATIVES or "[" in part or "(" in part)


_ALTERNATIVES = ("str", "int", "bool", "NamedTool", "Adapt")


def shown(value: Any) -> str:
    """A value in a sentence, no longer than that."""
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
