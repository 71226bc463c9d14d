"""Coming in and going out: the front page, log-in, the links that the server and admins give."""

import json
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
from puna.web.site.door import give_cookie, token_of, trace_id
from puna.web.site.navigation import entries
from puna.web.site.proxies import address_of
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import NOBODY, Viewer
from puna.web.validate import body, parse, read

routes = Routes()
BODY = 4096  # bytes
REPORT = 16384
REPORTED = ("document-uri", "effective-directive", "blocked-uri", "source-file", "line-number")

log = logging.getLogger("puna.web")
Name = Annotated[str, Field(max_length=200)]
Password = Annotated[str, Field(max_length=1024)]

CARDS = {
    "/chat": "Talk to the models; say what you think of an answer.",
    "/annotate": "Choose the better of two answers, one key for each.",
    "/redteam": "Try to make a model answer what it should not.",
    "/review": "Approve, correct or reject what annotators judged.",
    "/campaigns": "Set up what is to be judged, by how many, with which guidelines.",
    "/quality": "How far people agree, who drifts, how each batch went.",
    "/evaluation": "Which version people prefer, and how sure that is.",
    "/people": "Invite people, change roles, make links for a new password.",
    "/audit": "Who came in, what was changed, what was refused.",
}


class Strict(BaseModel):
    """A body with these fields and no other, of these types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LoginBody(Strict):
    """Who says to be whom."""

    name: Name
    password: Password


class LinkBody(Strict):
    """A link's token."""

    token: Annotated[str, Field(max_length=100)]


class WelcomeBody(LinkBody):
    """A link's token, and what it asks for."""

    name: Name = ""
    password: Password = ""


@routes.get("/", role=NOBODY)
async def home(request: Request, viewer: Viewer) -> Response:
    """Where everything begins: what somebody can do here, or the log-in."""
    if not viewer.known:
        return page(request, viewer, "login", single=site_of(request).single_user)
    found = entries(viewer, "/", request.app.state.pages)
    cards = [(entry, CARDS[entry.path]) for entry in found if entry.path in CARDS]
    return page(request, viewer, "home", cards=cards)


@routes.get("/login", role=NOBODY)
async def login_page(request: Request, viewer: Viewer) -> Response:
    """The log-in."""
    return page(request, viewer, "login", single=site_of(request).single_user)


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
        raise _wrong()
    site.tries.succeeded(name, address)
    anew = ""
    if site.hashing.passwords.outgrown(kept):
        anew = await site.hashing.hashed(asked.password)
    before = token_of(request)
    entered = await site.write(_log_in, account.id, kept, anew, before, address)
    return _inside(request, *entered)


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
    before, address = token_of(request), address_of(request, site)
    entered = await site.write(_accept, asked.token, asked.name, password, before, address)
    return _inside(request, *entered)


@routes.post("/csp", role=NOBODY)
async def report(request: Request, viewer: Viewer) -> Response:
    """What a browser did not let a page load or run: logged, and kept for a while."""
    site = site_of(request)
    site.turnstile("reports").admit(address_of(request, site))
    told = parse(await body(request, REPORT))
    found = told.get("csp-report", {}) if isinstance(told, dict) else {}
    found = found if isinstance(found, dict) else {}
    known = {name: str(found.get(name, ""))[:300] for name in REPORTED}
    site.reports.append(known)
    log.warning("%s: CSP: %s", trace_id(request), json.dumps(known))
    return Response(status_code=204)


def _inside(request: Request, begun: logins.Begun, name: str, role: str) -> Response:
    """Who came in, with the cookie of the new session."""
    answer = reply({"name": name, "role": role, "csrf": begun.csrf})
    give_cookie(request, answer, begun.token)
    return answer


def _enter(
    session: Session, account: Account, before: str, address: str
) -> tuple[logins.Begun, str, str]:
    """Begin a session; whatever the browser had before ends."""
    audit.note(session, "login", account.id, f"account:{account.id}", address)
    return logins.begin(session, account.id, before), account.name, account.role


def _log_in(
    session: Session, account_id: int, kept: str, anew: str, before: str, address: str
) -> tuple[logins.Begun, str, str]:
    account = people.account_of(session, account_id)
    if account.disabled is not None or account.password != kept:  # since the hash was checked
        raise _wrong()
    account.password = anew or kept
    return _enter(session, account, before, address)


def _accept(
    session: Session, token: str, name: str, password: str | None, before: str, address: str
) -> tuple[logins.Begun, str, str]:
    purpose = people.open_link(session, token).purpose
    account = people.accept(session, token, name, password)
    done = {"single": "", "reset": "password_reset"}.get(purpose, "joined")
    if done:
        about = f"account:{account.id}"
        audit.note(session, done, account.id, about, address, role=account.role)
    return _enter(session, account, before, address)


def _leave(session: Session, viewer: Viewer, address: str) -> None:
    logins.end(session, viewer.login_id, viewer.id)
    audit.note(session, "logout", viewer.id, f"account:{viewer.id}", address)


def _wrong() -> ApiError:
    return ApiError(403, "the name or the password is wrong", code="login_failed")
