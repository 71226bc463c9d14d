"""The door of the pages: whose browser it is, whether the request came from our own page."""

import hashlib
import hmac

from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.store.store import now
from puna.store.tables import Account, Login
from puna.web.failures import ApiError
from puna.web.site.site import Site, site_of
from puna.web.site.viewer import NOBODY, Viewer

COOKIE = "puna"
SAFE = frozenset({"GET", "HEAD"})
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
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Door:
    """Headers for every answer of the pages."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        """Stand before `app`."""
        self.app, self.site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request pass, and add the headers to its answer."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                added = ((name.encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in added if name not in known),
                ]
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


async def viewer_of(request: Request, role: str) -> Viewer:
    """Who asks. ApiError 401: nobody is logged in; 403: not from our page; 404: not for them."""
    site = site_of(request)
    cookie = request.cookies.get(COOKIE, "")
    if site.single_user:
        viewer = Viewer(1, "you", "admin", "single")
    else:
        viewer = await site.read(_find, hashlib.sha256(cookie.encode()).hexdigest())
    if role != NOBODY and not viewer.known:
        raise ApiError(401, "log in first", code="login")
    if not viewer.may(role):
        raise ApiError(404, "there is no such thing here")
    if request.method not in SAFE and viewer.known:
        sent = request.headers.get("x-csrf", "")
        if not hmac.compare_digest(sent, viewer.csrf):
            raise ApiError(403, "x-csrf: not this page's token", code="csrf")
    return viewer


def _find(session: Session, digest: str) -> Viewer:
    found = session.execute(
        select(Login, Account)
        .join(Account, Account.id == Login.account_id)
        .where(Login.sha256 == digest, Login.ended.is_(None), Login.expires > now())
        .where(Account.disabled.is_(None))
    ).first()
    if found is None:
        return Viewer()
    login, account = found
    return Viewer(account.id, account.name, account.role, login.csrf, login.id)
