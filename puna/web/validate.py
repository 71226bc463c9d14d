"""The one strict reading of a request's body: bounded bytes, strict JSON, a checked record.

JSON in Python admits NaN, repeated keys, half surrogate pairs and integers without end; here they
are refused, with the field that holds them. A field that the record does not know is refused too.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from puna.web.failures import ApiError, refused

DEPTH = 64  # how deep lists and objects may be nested
DIGITS = 40  # of an integer; a longer one is not even converted

M = TypeVar("M", bound=BaseModel)
Path = tuple[str | int, ...]


async def read(request: Request, model: type[M], limit: int) -> M:
    """The request's body as a `model`. ApiError: 400, 413 or 415, with the field at fault."""
    check_head(request.headers, limit)
    return check(model, parse(await body(request, limit)))


def check_head(headers: Mapping[str, str], limit: int) -> None:
    """Refuse by its head a body that is no plain JSON (415) or too large (413)."""
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(415, "content-encoding: expected none", close=True)
    kind, _, options = headers.get("content-type", "").partition(";")
    name, _, charset = options.strip().partition("=")
    known = name.strip().lower() in ("", "charset")
    if kind.strip().lower() != "application/json" or not known:
        raise ApiError(415, "content-type: expected application/json", close=True)
    if charset and charset.strip().strip('"').lower() not in ("utf-8", "utf8"):
        raise ApiError(415, "content-type: expected the charset utf-8", close=True)
    length = headers.get("content-length", "0")
    if len(length) > 18 or int(length) > limit:
        raise _too_large(limit)


async def body(request: Request, limit: int) -> bytes:
    """The request's body. ApiError: 400 it broke off, 413 it is longer than `limit` bytes."""
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ApiError(400, "the body broke off", close=True) from None
    return bytes(data)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"body: more than {limit} bytes", close=True)


def parse(body: bytes) -> Any:
    """The value of a JSON text. ApiError 400 says what is not JSON, or not accepted, and where."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError(400, "body: not UTF-8", code="invalid_json") from None
    try:
        value = json.loads(text, object_pairs_hook=_pairs, parse_int=_integer)
    except RecursionError:
        raise ApiError(400, f"body: nested deeper than {DEPTH}", code="invalid_json") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ApiError(400, f"body: not JSON: {error.msg}, {place}", code="invalid_json") from None
    _walk(value)
    return value


class _Repeated:
    """Stands for an object with a key twice, until the walk can say where."""

    def __init__(self, key: str) -> None:
        self.key = key


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                return _Repeated(key)
            seen.add(key)
    return found


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= DIGITS else math.inf


def _walk(root: Any) -> None:
    """Refuse what JSON has no word for or no tokenizer can read, wherever it stands."""
    waiting: list[tuple[Path, Any]] = [((), root)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            _check_text(path, value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                _refuse(path, "expected a finite number")
        elif isinstance(value, _Repeated):
            _refuse((*path, value.key), "stands twice")
        elif isinstance(value, dict | list):
            if len(path) >= DEPTH:
                _refuse(path[:3], f"nested deeper than {DEPTH}")
            if isinstance(value, dict):
                for key in value:
                    _check_text(path, key)
                waiting += [((*path, key), inside) for key, inside in value.items()]
            elif not all(type(inside) is int for inside in value):
                waiting += [((*path, index), inside) for index, inside in enumerate(value)]


def _check_text(path: Path, text: str) -> None:
    if "\0" in text:
        _refuse(path, "holds a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            _refuse(path, "has half a UTF-16 surrogate pair, which is not text")


def _refuse(path: Path, what: str) -> NoReturn:
    raise refused(_dotted(path) or "body", what)


def check(model: type[M], value: Any) -> M:
    """A JSON value as a `model`. ApiError 400 names the first field that is wrong."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
    fault = max(faults, key=lambda fault: len(_inside(value, fault["loc"])))
    path = _inside(value, fault["loc"])
    if fault["type"] == "extra_forbidden":
        raise refused(_dotted(path), "unknown field", "unknown_field")
    if fault["type"] == "missing":
        missing = (*path, fault["loc"][-1])
        raise refused(_dotted(missing), "is missing", "missing_field")
    alike = {f["msg"] for f in faults if _inside(value, f["loc"]) == path}
    raise refused(_dotted(path) or "body", _words(alike))


def _words(messages: set[str]) -> str:
    words = [text[:1].lower() + text[1:].removeprefix("Value error, ") for text in messages]
    return "; or ".join(sorted(words))


def _inside(value: Any, loc: Sequence[str | int]) -> Path:
    """The steps of a place that lead into the value; the names of a union's members do not."""
    path: Path = ()
    for step in loc:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            continue
        path = (*path, step)
    return path


def _dotted(path: Path) -> str:
    """`messages[0].content`, of at most 200 characters."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text.encode("utf-8", "replace").decode()[:200]
