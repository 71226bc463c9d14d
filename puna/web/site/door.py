"""The door of the pages: from where a request comes, whose browser it is, what it may.

Every request: its `Host` must be a name of ours, so that no foreign name can be bent to this
machine. What changes something must come from our own page: `Origin` is ours, `Sec-Fetch-Site` says
the same, the body is JSON, which no foreign form can send, and the session's own token stands in
`x-csrf`. The session is a cookie that scripts cannot read. What somebody may not have looks like
what is not there, and a line in the audit log says that they asked.

A single user's server is no exception. Its port can be reached by everybody who works on the same
machine, and by every web page that is open in the browser, so nobody is logged in for only being
there: the server prints a link, which works once, and the browser that opens it has a session like
any other.
"""

import hmac
import logging
import re
import time
from urllib.parse import urlsplit

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.store import audit, logins
from puna.store.faults import Unavailable
from puna.store.store import now
from puna.web.failures import ApiError, unavailable
from puna.web.guard import HOST, Trace, _report, inside
from puna.web.site.proxies import address_of
from puna.web.site.site import Site, site_of
from puna.web.site.viewer import NOBODY, Viewer

COOKIE = "puna"  # on this machine, without TLS
SECURE_COOKIE = "__Host-puna"
SAFE = frozenset({"GET", "HEAD"})
REPORTS = "/csp"  # where browsers report to, without an origin
OPENS = frozenset({"/api/login", "/api/welcome"})  # where a session begins: none has a token yet
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_BODY = 64 << 20  # bytes, whatever a route takes
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types puna; report-uri /csp"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ONLY_TLS = "max-age=31536000"

log = logging.getLogger("puna.web")


class Door:
    """The pages behind their door: checks before, headers and a line in the log after."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        """Stand before `app`."""
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        trace = scope["puna"] = Trace()
        added = self._headers(scope["path"], trace)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                known = {name for name, _ in message.get("headers", [])}
                own = [(name, value) for name, value in added if name not in known]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        try:
            check(Request(scope), self.site)
            await self.app(scope, receive, sending)
        except ApiError as error:
            await _answer(scope, error, receive, sending)
        except Exception as fault:
            _report(fault, trace)
            if trace.status:
                raise  # the answer has begun; its connection breaks off
            await _answer(scope, inside(trace), receive, sending)
        finally:
            _write(scope, trace)

    def _headers(self, path: str, trace: Trace) -> list[tuple[bytes, bytes]]:
        lines = HEADERS | {"x-request-id": trace.id}
        # What is the same for all may be kept, and is asked for again by its ETag.
        lines["cache-control"] = "no-cache" if path.startswith("/static/") else "no-store"
        if self.site.origin.startswith("https://"):
            lines["strict-transport-security"] = ONLY_TLS
        return [(name.encode(), value.encode()) for name, value in lines.items()]


def check(request: Request, site: Site) -> None:
    """Whether a request is for us, and from us if it changes something. ApiError: it is not."""
    host = _host(request, site)
    if site.service.stopping:
        raise unavailable("the server is stopping", code="stopping")
    length = request.headers.get("content-length", "0")
    if len(length) > 18 or int(length) > MAX_BODY:
        raise ApiError(413, f"body: more than {MAX_BODY} bytes", close=True)
    fetched = request.headers.get("sec-fetch-site", "same-origin")
    if request.method in SAFE:
        if fetched not in ("same-origin", "none") and request.url.path.startswith("/api/"):
            raise ApiError(403, "sec-fetch-site: this is for our own pages", code="origin")
        return
    if request.url.path == REPORTS:
        return
    origins = request.headers.getlist("origin")
    if len(origins) != 1 or origins[0] != (own_origin(site, host)):
        raise ApiError(403, "origin: not our own page", code="origin", close=True)
    if fetched != "same-origin":
        raise ApiError(403, "sec-fetch-site: not our own page", code="origin", close=True)


def own_origin(site: Site, host: str) -> str:
    """Where our own pages are, for a browser that asks at `host`."""
    name = re.sub(r":[0-9]+$", "", host)
    if site.origin and name not in LOOPBACK:
        return site.origin
    if site.origin and urlsplit(site.origin).netloc == host:
        return site.origin
    return f"http://{host}"


def _host(request: Request, site: Site) -> str:
    given = request.headers.getlist("host")
    host = given[0].lower() if len(given) == 1 else ""
    if not HOST.fullmatch(host):
        raise ApiError(400, "host: expected one host name", close=True)
    name = host if host.endswith("]") else re.sub(r":[0-9]+$", "", host)
    if name not in LOOPBACK and host != urlsplit(site.origin).netloc:
        raise ApiError(403, "host: this server does not answer to that name", close=True)
    return host


def cookie_name(site: Site) -> str:
    """`__Host-` binds the cookie to the very host, and to TLS; without TLS there is no such one."""
    return SECURE_COOKIE if site.origin.startswith("https://") else COOKIE


def token_of(request: Request) -> str:
    """The token of the browser's session; empty: none."""
    return request.cookies.get(cookie_name(site_of(request)), "")


def give_cookie(request: Request, response: Response, token: str) -> None:
    """Let the browser keep a token; an empty one makes it forget."""
    site = site_of(request)
    response.set_cookie(
        cookie_name(site),
        token,
        max_age=int(logins.LONGEST) if token else 0,
        path="/",
        secure=site.origin.startswith("https://"),
        httponly=True,
        samesite="lax",
    )


async def viewer_of(request: Request, role: str) -> Viewer:
    """Who asks. ApiError 401: nobody is logged in; 403: not from our page; 404: not for them;
    429: too often.
    """
    site = site_of(request)
    viewer = await _known(request, site)
    request.state.viewer = viewer
    if viewer.known:
        site.turnstile("account").admit(viewer.id)
    elif request.url.path != REPORTS:
        site.turnstile("address").admit(address_of(request, site))
    if role != NOBODY and not viewer.known:
        raise ApiError(401, "log in first", code="login")
    if not viewer.may(role):
        await denied(request, viewer)
        raise ApiError(404, "there is no such thing here")
    if request.method not in SAFE and request.url.path != REPORTS:
        _check_own(request, viewer)
    return viewer


async def denied(request: Request, viewer: Viewer) -> None:
    """A line in the audit log: somebody asked for what is not theirs, or not there."""
    site = site_of(request)
    if not viewer.known or site.turnstile("lines").wait(viewer.id):
        return
    about = f"{request.method} {request.url.path}"
    try:
        await site.write(audit.note, "denied", viewer.id, about, address_of(request, site))
    except Unavailable:
        log.warning("%s: not in the audit log: %s is locked", trace_id(request), "the store")


def trace_id(request: Request) -> str:
    """What a request is called in the log."""
    return str(request.scope["puna"].id)


def _check_own(request: Request, viewer: Viewer) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = request.headers.get("content-length", "0") != "0"
    sent = sent or "transfer-encoding" in request.headers
    if kind != "application/json" and (kind or sent):
        raise ApiError(415, "content-type: expected application/json", close=True)
    if viewer.known and request.url.path not in OPENS:
        token = request.headers.get("x-csrf", "")
        if not hmac.compare_digest(token.encode(), viewer.csrf.encode()):
            raise ApiError(403, "x-csrf: not this page's token", code="csrf")


async def _known(request: Request, site: Site) -> Viewer:
    token = token_of(request)
    if not token:
        return Viewer()
    viewer, seen = await site.read(_find, token)
    if viewer.known and now() - seen > logins.SEEN_EVERY:
        try:
            await site.write(logins.touch, viewer.login_id)
        except Unavailable:
            log.warning("%s: the session's last use could not be kept", trace_id(request))
    return viewer


def _find(session: Session, token: str) -> tuple[Viewer, float]:
    found = logins.find(session, token)
    if found is None:
        return Viewer(), 0.0
    login, account = found
    return Viewer(account.id, account.name, account.role, login.csrf, login.id), login.seen


async def _answer(scope: Scope, error: ApiError, receive: Receive, send: Send) -> None:
    answer = Response(error.body, error.status, error.headers, "application/json")
    await answer(scope, receive, send)


def _write(scope: Scope, trace: Trace) -> None:
    """One line in the log, without what stands in the path."""
    viewer = scope.get("state", {}).get("viewer")
    route = scope.get("route")
    path = getattr(route, "path", "none")
    seconds = time.monotonic() - trace.begun
    log.info(
        "%s %s %s %d %.3fs account=%s",
        *(trace.id, scope["method"][:16], path, trace.status, seconds),
        viewer.id if viewer else "-",
    )
