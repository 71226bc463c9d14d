"""What a client is told when its request fails: a status, and an error in OpenAI's shape."""

from collections.abc import Mapping
from typing import Any

import msgspec

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
CODES = {
    400: "invalid_value",
    401: "invalid_api_key",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "body_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    431: "head_too_large",
    500: "internal_error",
    503: "unavailable",
}


class ApiError(Exception):
    """A request that is answered with an error: the status, one line, the field it is about.

    `headers` go with the answer; `close` ends the connection after it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        close: bool = False,
    ) -> None:
        """Keep what the client is told."""
        super().__init__(message)
        self.status, self.message, self.param = status, " ".join(message.split()), param
        self.code = code or CODES.get(status, "error")
        self.headers = dict(headers or {})
        if close:
            self.headers["connection"] = "close"
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    @property
    def record(self) -> dict[str, Any]:
        """The answer's JSON."""
        return error_record(self.status, self.message, self.param, self.code)

    @property
    def body(self) -> bytes:
        """The answer's JSON in bytes."""
        return msgspec.json.encode(self.record)


def error_record(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}` for a status."""
    fallback = "server_error" if status >= 500 else "invalid_request_error"
    kind = TYPES.get(status, fallback)
    found = code or CODES.get(status, "error")
    return {"error": {"message": message, "type": kind, "param": param, "code": found}}


def refused(param: str, what: str, code: str = "invalid_value") -> ApiError:
    """A field that is wrong: status 400, with its name before what is wrong."""
    return ApiError(400, f"{param}: {what}", param, code)


def unavailable(message: str, seconds: int = 1, code: str = "unavailable") -> ApiError:
    """The server cannot answer now: status 503; the client may come again after `seconds`."""
    return ApiError(503, message, code=code, headers={"retry-after": str(seconds)})
