"""One's own account: the password, the sessions, one's data."""

import json
from typing import Any

from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import audit, logins, people
from puna.store.erasing import erase
from puna.store.faults import Conflict, Refused
from puna.store.names import folded
from puna.store.own import own_data
from puna.store.passwords import check_password
from puna.web.site.accounts import BODY, Name, Password, Strict
from puna.web.site.door import give_cookie, token_of
from puna.web.site.proxies import address_of
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

routes = Routes()


class PasswordBody(Strict):
    """The password that is, and the one that is to be."""

    old: Password
    new: Password


class EraseBody(Strict):
    """Who one is, once more."""

    name: Name
    password: Password = ""


@routes.get("/profile", role="annotator")
async def profile(request: Request, viewer: Viewer) -> Response:
    """One's own account."""
    site = site_of(request)
    kept = await site.read(_kept, viewer.id)
    return page(request, viewer, "profile", password=kept is not None, single=site.single_user)


@routes.post("/api/password", role="annotator")
async def change_password(request: Request, viewer: Viewer) -> Response:
    """Another password: every session ends but this one, which gets a new token."""
    site = site_of(request)
    asked = await read(request, PasswordBody, BODY)
    kept = await _confirmed(request, viewer, asked.old, "old")
    check_password(asked.new, viewer.name)
    anew = await site.hashing.hashed(asked.new)
    before, address = token_of(request), address_of(request, site)
    begun = await site.write(_change, viewer.id, kept, anew, before, address)
    answer = reply({"csrf": begun.csrf})
    give_cookie(request, answer, begun.token)
    return answer


@routes.get("/api/sessions", role="annotator")
async def sessions(request: Request, viewer: Viewer) -> Response:
    """One's sessions that go on."""
    found = await site_of(request).read(logins.open_logins, viewer.id)
    return reply({"sessions": [one | {"this": one["id"] == viewer.login_id} for one in found]})


@routes.delete("/api/sessions/{id:int}", role="annotator")
async def end_session(request: Request, viewer: Viewer) -> Response:
    """End one of one's sessions."""
    await site_of(request).write(logins.end, request.path_params["id"], viewer.id)
    return reply({"done": True})


@routes.delete("/api/sessions", role="annotator")
async def end_others(request: Request, viewer: Viewer) -> Response:
    """End all sessions but this one."""
    site = site_of(request)
    ended = await site.write(_end_others, viewer, address_of(request, site))
    return reply({"ended": ended})


@routes.get("/api/me/data", role="annotator")
async def data(request: Request, viewer: Viewer) -> Response:
    """Everything that the store holds of oneself, as a file."""
    site = site_of(request)
    found = await site.read(own_data, viewer.id)
    about = f"account:{viewer.id}"
    await site.write(audit.note, "data_downloaded", viewer.id, about, address_of(request, site))
    text = json.dumps(found, ensure_ascii=False, indent=1)
    name = 'attachment; filename="puna-my-data.json"'
    return Response(text, 200, {"content-disposition": name}, "application/json")


@routes.post("/api/me/erase", role="annotator")
async def erase_me(request: Request, viewer: Viewer) -> Response:
    """Delete everything that one said and judged, and the account."""
    site = site_of(request)
    asked = await read(request, EraseBody, BODY)
    if folded(asked.name) != folded(viewer.name):
        raise Refused("name", "is not yours")
    await _confirmed(request, viewer, asked.password, "password")
    counts = await site.write(_erase, viewer.id)
    answer = reply({"erased": counts})
    give_cookie(request, answer, "")
    return answer


async def _confirmed(request: Request, viewer: Viewer, password: str, field: str) -> str | None:
    """The hash of one's password, which was typed again. Refused: it was another one."""
    site = site_of(request)
    kept = await site.read(_kept, viewer.id)
    if kept is None:
        return None  # a single user has none
    name, address = folded(viewer.name), address_of(request, site)
    site.tries.begin(name, address)
    if not await site.hashing.matches(kept, password):
        raise Refused(field, "is not your password")
    site.tries.succeeded(name, address)
    return kept


def _kept(session: Session, account_id: int) -> str | None:
    return people.account_of(session, account_id).password


def _change(
    session: Session, account_id: int, kept: str | None, anew: str, before: str, address: str
) -> logins.Begun:
    account = people.account_of(session, account_id)
    if account.password != kept or logins.find(session, before) is None:
        raise Conflict("the password was changed meanwhile")
    account.password = anew
    logins.end_all(session, account_id)
    audit.note(session, "password_changed", account_id, f"account:{account_id}", address)
    return logins.begin(session, account_id)


def _end_others(session: Session, viewer: Viewer, address: str) -> int:
    ended = logins.end_all(session, viewer.id, viewer.login_id)
    audit.note(session, "sessions_ended", viewer.id, f"account:{viewer.id}", address, count=ended)
    return ended


def _erase(session: Session, account_id: int) -> dict[str, Any]:
    counts = erase(session, account_id)
    audit.note(session, "erased", account_id, f"account:{account_id}")
    return counts
