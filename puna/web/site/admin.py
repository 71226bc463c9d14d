"""What admins do with accounts, and what everybody did: people, invites, the audit log."""

from typing import Annotated, Literal

from pydantic import Field
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from puna.store import audit, people
from puna.store.faults import Refused
from puna.web.site.accounts import BODY, Strict
from puna.web.site.proxies import address_of
from puna.web.site.routes import Routes
from puna.web.site.site import page, reply, site_of
from puna.web.site.viewer import Viewer
from puna.web.validate import read

routes = Routes()
Role = Literal["annotator", "reviewer", "admin"]


class InviteBody(Strict):
    """Who is to come."""

    role: Role
    note: Annotated[str, Field(max_length=200)] = ""


class RoleBody(Strict):
    """Another role."""

    role: Role


class DisabledBody(Strict):
    """Whether somebody is shut out."""

    disabled: bool


class Nothing(Strict):
    """No fields."""


@routes.get("/people", role="admin")
async def people_page(request: Request, viewer: Viewer) -> Response:
    """Everybody, and who is invited."""
    return page(request, viewer, "people", single=site_of(request).single_user)


@routes.get("/api/people", role="admin")
async def everybody(request: Request, viewer: Viewer) -> Response:
    """Everybody, and the invites that can be used still."""
    return reply(await site_of(request).read(_everybody))


@routes.post("/api/invites", role="admin")
async def invite(request: Request, viewer: Viewer) -> Response:
    """Make a link by which somebody gets an account; its token is told this once."""
    site = site_of(request)
    if site.single_user:
        raise Refused("single_user", "this server is for one person, start it without to invite")
    asked = await read(request, InviteBody, BODY)
    address = address_of(request, site)
    token = await site.write(_invite, viewer.id, asked.role, asked.note, address)
    return reply({"token": token}, 201)


@routes.delete("/api/invites/{id:int}", role="admin")
async def withdraw(request: Request, viewer: Viewer) -> Response:
    """Make a link useless."""
    site = site_of(request)
    number = request.path_params["id"]
    await site.write(_withdraw, viewer.id, number, address_of(request, site))
    return reply({"done": True})


@routes.put("/api/people/{id:int}/role", role="admin")
async def change_role(request: Request, viewer: Viewer) -> Response:
    """Another role; the person logs in again."""
    site = site_of(request)
    asked = await read(request, RoleBody, BODY)
    number, address = request.path_params["id"], address_of(request, site)
    await site.write(_change_role, viewer.id, number, asked.role, address)
    return reply({"done": True})


@routes.put("/api/people/{id:int}/disabled", role="admin")
async def shut_out(request: Request, viewer: Viewer) -> Response:
    """Shut somebody out at once, or let them in again."""
    site = site_of(request)
    asked = await read(request, DisabledBody, BODY)
    number, address = request.path_params["id"], address_of(request, site)
    await site.write(_shut_out, viewer.id, number, asked.disabled, address)
    return reply({"done": True})


@routes.post("/api/people/{id:int}/reset", role="admin")
async def reset(request: Request, viewer: Viewer) -> Response:
    """Make a link by which somebody sets a new password; its token is told this once."""
    site = site_of(request)
    await read(request, Nothing, BODY)
    number, address = request.path_params["id"], address_of(request, site)
    return reply({"token": await site.write(_reset, viewer.id, number, address)}, 201)


@routes.get("/audit", role="admin")
async def audit_page(request: Request, viewer: Viewer) -> Response:
    """What everybody did."""
    return page(request, viewer, "audit")


@routes.get("/api/audit", role="admin")
async def audit_lines(request: Request, viewer: Viewer) -> Response:
    """A page of the log: ?before=ID&action=NAME&account=ID."""
    asked = request.query_params
    before, account = (
        _number(asked.get("before"), "before"),
        _number(asked.get("account"), "account"),
    )
    found = await site_of(request).read(_lines, before, asked.get("action", "")[:64], account)
    return reply(found)


def _number(text: str | None, field: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refused(field, "expected a number")
    return int(text)


def _everybody(session: Session) -> dict[str, object]:
    return {"people": people.people(session), "invites": people.invites(session)}


def _invite(session: Session, by_id: int, role: str, note: str, address: str) -> str:
    token = people.invite(session, "invite", role, note, by_id)
    audit.note(session, "invited", by_id, "", address, role=role)
    return token


def _withdraw(session: Session, by_id: int, number: int, address: str) -> None:
    people.withdraw(session, number)
    audit.note(session, "invite_withdrawn", by_id, f"invite:{number}", address)


def _change_role(session: Session, by_id: int, number: int, role: str, address: str) -> None:
    if people.change_role(session, number, role):
        audit.note(session, "role_changed", by_id, f"account:{number}", address, role=role)


def _shut_out(session: Session, by_id: int, number: int, disabled: bool, address: str) -> None:
    change = people.disable if disabled else people.enable
    if change(session, number):
        word = "disabled" if disabled else "enabled"
        audit.note(session, word, by_id, f"account:{number}", address)


def _reset(session: Session, by_id: int, number: int, address: str) -> str:
    account = people.account_of(session, number)
    if account.disabled is not None:
        raise Refused("id", "this account is disabled, enable it first")
    token = people.invite(session, "reset", account.role, "", by_id, number)
    audit.note(session, "reset_link", by_id, f"account:{number}", address)
    return token


def _lines(
    session: Session, before: int | None, action: str, account_id: int | None
) -> dict[str, object]:
    found = audit.lines(session, before, action, account_id, audit.PAGE + 1)
    actions = audit.actions(session)
    return {"lines": found[: audit.PAGE], "more": len(found) > audit.PAGE, "actions": actions}
