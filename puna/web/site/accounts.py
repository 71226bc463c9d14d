"""Coming in and going out: the front page, log-in, the links that the server and admins give."""

import logging
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import audit, logins, people
from puna.store.faults import Refused
from puna.store.names import folded
from puna.store.passwords import check_password
from puna.store.tables import Account
from puna.web.failures import ApiError
from puna.web.site.door import give_cookie, token_of
from puna.web.site.proxies import address_of
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import NOBODY, Viewer
from puna.web.validate import read

routes = Routes()
BODY = 4096  # bytes
Name = Annotated[str, Field(max_length=200)]
Password = Annotated[str, Field(max_length=1024)]

log = logging.getLogger("puna.web")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class LoginBody(_Strict):
    """Who says to be whom."""

    name: Name
    password: Password


class LinkBody(_Strict):
    """A link's token."""

    token: Annotated[str, Field(max_length=100)]


class WelcomeBody(LinkBody):
    """A link's token, and what it asks for."""

    name: Name = ""
    password: Password = ""


@routes.get("/", role=NOBODY)
async def home(request: Request, viewer: Viewer) -> Response:
    """Where everything begins: what somebody can do here, or the log-in."""
    return page(request, viewer, "home" if viewer.known else "login")


@routes.get("/login", role=NOBODY)
async def login_page(request: Request, viewer: Viewer) -> Response:
    """The log-in."""
    return page(request, viewer, "login")


@routes.get("/welcome", role=NOBODY)
async def welcome_page(request: Request, viewer: Viewer) -> Response:
    """Where links lead; their token stands behind #, which no server and no log sees."""
    return page(request, viewer, "welcome")


@routes.get("/api/me", role="annotator")
async def me(request: Request, viewer: Viewer) -> Response:
    """Who is logged in, and what the pages send with everything that changes something."""
    return reply({"name": viewer.name, "role": viewer.role, "csrf": viewer.csrf})


@routes.post("/api/login", role=NOBODY)
async def login(request: Request, viewer: Viewer) -> Response:
    """Begin a session. The answer and the work are the same whoever is named."""
    site = site_of(request)
    asked = await read(request, LoginBody, BODY)
    name, address = folded(asked.name), address_of(request, site)
    site.tries.begin(name, address)
    account = await site.read(people.find_account, asked.name)
    kept = account.password if account else None
    fits = await site.hashing.matches(kept, asked.password)
    if account is None or kept is None or not fits:
        number = account.id if account else None
        await site.write(audit.note, "login_failed", number, address=address)
        raise ApiError(403, "the name or the password is wrong", code="login_failed")
    site.tries.succeeded(name, address)
    anew = ""
    if site.hashing.passwords.outgrown(kept):
        anew = await site.hashing.hashed(asked.password)
    return await _begin(request, account.id, "login", kept, anew)


@routes.post("/api/logout", role="annotator")
async def logout(request: Request, viewer: Viewer) -> Response:
    """End the session, here and on the server."""
    await site_of(request).write(_leave, viewer, address_of(request, site_of(request)))
    answer = reply({"done": True})
    give_cookie(request, answer, "")
    return answer


@routes.post("/api/welcome/look", role=NOBODY)
async def look(request: Request, viewer: Viewer) -> Response:
    """What a link is for."""
    asked = await read(request, LinkBody, BODY)
    link = await site_of(request).read(people.open_link, asked.token)
    return reply(
        {"purpose": link.purpose, "role": link.role, "name": link.name, "expires": link.expires}
    )


@routes.post("/api/welcome", role=NOBODY)
async def welcome(request: Request, viewer: Viewer) -> Response:
    """Use a link: become somebody, or set a new password; and come in."""
    site = site_of(request)
    asked = await read(request, WelcomeBody, BODY)
    link = await site.read(people.open_link, asked.token)
    if link.purpose == "single" and not site.single_user:
        raise Refused("token", "is for a server with --single_user")
    password = None
    if link.purpose != "single":
        check_password(asked.password, link.name or asked.name)
        password = await site.hashing.hashed(asked.password)
    address = address_of(request, site)
    number = await site.write(_accept, asked.token, asked.name, password, link.purpose, address)
    return await _begin(request, number, "login", password)


async def _begin(
    request: Request, account_id: int, action: str, kept: str | None, anew: str = ""
) -> Response:
    """Give the browser a new session, whatever it had before."""
    site = site_of(request)
    before, address = token_of(request), address_of(request, site)
    begun, role, name = await site.write(_enter, account_id, before, address, kept, anew)
    answer = reply({"name": name, "role": role, "csrf": begun.csrf})
    give_cookie(request, answer, begun.token)
    return answer


def _enter(
    session: Session, account_id: int, before: str, address: str, kept: str | None, anew: str
) -> tuple[logins.Begun, str, str]:
    account = people.account_of(session, account_id)
    if account.disabled is not None or account.password != kept:
        raise ApiError(403, "the name or the password is wrong", code="login_failed")
    if anew:
        account.password = anew
    audit.note(session, "login", account.id, f"account:{account.id}", address)
    return logins.begin(session, account.id, before), account.role, account.name


def _leave(session: Session, viewer: Viewer, address: str) -> None:
    logins.end(session, viewer.login_id, viewer.id)
    audit.note(session, "logout", viewer.id, f"account:{viewer.id}", address)


def _accept(
    session: Session, token: str, name: str, password: str | None, purpose: str, address: str
) -> int:
    account: Account = people.accept(session, token, name, password)
    about = f"account:{account.id}"
    if purpose in ("setup", "invite"):
        audit.note(session, "joined", account.id, about, address, role=account.role)
    elif purpose == "reset":
        audit.note(session, "password_reset", account.id, about, address)
    return account.id
