"""Accounts: who there is, and the links by which they become somebody. Nobody signs up alone.

The first admin comes by a set-up link that the server prints, everybody else by an invite. A link
works once and for a time; the store has only its digest. There is always an admin who can log in.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from puna.store import audit
from puna.store.faults import Conflict, Missing, Refused
from puna.store.logins import digest, end_all
from puna.store.names import folded, likeness, shown
from puna.store.store import now
from puna.store.tables import ROLES, Account, Invite

HOURS = {"setup": 24.0, "single": 24.0, "invite": 7 * 24.0, "reset": 24.0}
SINGLE = "you"  # the name of the only person of a single-user server


@dataclass(frozen=True)
class Link:
    """An invite that can be used still."""

    id: int
    purpose: str  # setup, single, invite, reset
    role: str
    name: str  # whose password is set anew; empty: a new person's
    account_id: int | None
    expires: float


def find_account(session: Session, name: str) -> Account | None:
    """Who is called that, if they may come in."""
    wanted = select(Account).where(Account.folded == folded(name))
    return session.scalars(
        wanted.where(Account.disabled.is_(None), Account.erased.is_(None))
    ).first()


def add_account(session: Session, name: str, role: str, password: str | None) -> Account:
    """A new person; `password` is a hash. Refused: the name cannot be taken."""
    taken = shown(name)
    look = likeness(taken)
    for other in session.scalars(select(Account).where(Account.erased.is_(None))):
        if other.folded == folded(taken) or likeness(other.name) == look:
            raise Refused("name", "is taken, or looks like one that is")
    account = Account(name=taken, folded=folded(taken), role=_role(role), password=password)
    account.created = now()
    session.add(account)
    session.flush()
    return account


def admins(session: Session, but: int = 0, by_password: bool = True) -> int:
    """How many admins can come in, without one of them."""
    wanted = (
        select(Account.id)
        .where(Account.role == "admin", Account.id != but)
        .where(Account.disabled.is_(None), Account.erased.is_(None))
    )
    if by_password:
        wanted = wanted.where(Account.password.is_not(None))
    return len(session.scalars(wanted).all())


def invite(
    session: Session,
    purpose: str,
    role: str = "annotator",
    note: str = "",
    by_id: int | None = None,
    account_id: int | None = None,
) -> str:
    """A new link's token, which nothing keeps. A set-up, single or reset link replaces the last."""
    if purpose != "invite":
        same = Invite.purpose == purpose, Invite.account_id == account_id
        if account_id is None:
            same = Invite.purpose == purpose, Invite.account_id.is_(None)
        _spend(session, *same)
    token = secrets.token_urlsafe(32)
    made = Invite(sha256=digest(token), purpose=purpose, role=_role(role), note=note)
    made.by_id, made.account_id, made.created = by_id, account_id, now()
    made.expires = made.created + HOURS[purpose] * 3600
    session.add(made)
    return token


def open_link(session: Session, token: str) -> Link:
    """What a link is for. Missing: there is none, it was used, or is too old."""
    found = session.execute(
        select(Invite, Account)
        .join(Account, Account.id == Invite.account_id, isouter=True)
        .where(Invite.sha256 == digest(token), Invite.used.is_(None), Invite.expires > now())
    ).first()
    if found is None:
        raise Missing
    link, account = found
    if account is not None and (account.disabled is not None or account.erased is not None):
        raise Missing
    if link.purpose == "setup" and admins(session):
        raise Missing
    name = account.name if account else ""
    return Link(link.id, link.purpose, link.role, name, link.account_id, link.expires)


def accept(session: Session, token: str, name: str, password: str | None) -> Account:
    """Use a link: become somebody, or set a password (a hash) anew, which ends all sessions.

    Missing: the link is none, or was used meanwhile. Refused: the name.
    """
    link = open_link(session, token)
    if not _spend(session, Invite.id == link.id):
        raise Missing
    if link.account_id is None:
        return add_account(session, name, link.role, password)
    account = account_of(session, link.account_id)
    if link.purpose == "reset":
        account.password = password
        end_all(session, account.id)
    return account


def invites(session: Session) -> list[dict[str, Any]]:
    """The invites that can be used still, the newest first."""
    wanted = (
        select(Invite, Account.name)
        .join(Account, Account.id == Invite.by_id, isouter=True)
        .where(Invite.purpose == "invite", Invite.used.is_(None), Invite.expires > now())
        .order_by(Invite.id.desc())
    )
    return [
        {"id": one.id, "role": one.role, "note": one.note, "by": by or "", "expires": one.expires}
        for one, by in session.execute(wanted)
    ]


def withdraw(session: Session, invite_id: int) -> None:
    """Make an invite useless. Missing: it is already."""
    if not _spend(session, Invite.id == invite_id, Invite.purpose == "invite"):
        raise Missing


def account_of(session: Session, account_id: int) -> Account:
    """Somebody who is not erased. Missing: nobody."""
    account = session.get(Account, account_id)
    if account is None or account.erased is not None:
        raise Missing
    return account


def people(session: Session) -> list[dict[str, Any]]:
    """Everybody who is not erased, in the order in which they came."""
    wanted = select(Account).where(Account.erased.is_(None)).order_by(Account.id)
    return [
        {
            "id": one.id,
            "name": one.name,
            "role": one.role,
            "created": one.created,
            "disabled": one.disabled,
            "password": one.password is not None,
        }
        for one in session.scalars(wanted)
    ]


def change_role(session: Session, account_id: int, role: str) -> bool:
    """Give a role, which ends the person's sessions; whether it is another.

    Conflict: they are the last admin.
    """
    account = account_of(session, account_id)
    if account.role == _role(role):
        return False
    _leave_an_admin(session, account)
    account.role = role
    end_all(session, account_id)
    return True


def disable(session: Session, account_id: int) -> bool:
    """Shut somebody out at once; whether they were in. Conflict: they are the last admin."""
    account = account_of(session, account_id)
    if account.disabled is not None:
        return False
    _leave_an_admin(session, account)
    account.disabled = now()
    end_all(session, account_id)
    return True


def enable(session: Session, account_id: int) -> bool:
    """Let somebody in again; whether they were shut out."""
    account = account_of(session, account_id)
    out, account.disabled = account.disabled is not None, None
    return out


def set_up(session: Session) -> str:
    """The token of the first admin's link; empty where there is an admin."""
    return "" if admins(session) else invite(session, "setup", "admin")


def single_user(session: Session) -> str:
    """The token of a link for the only person of this store, who is made at first.

    Refused: the store is a team's.
    """
    others = session.scalars(
        select(Account).where(Account.folded != SINGLE, Account.erased.is_(None)).limit(1)
    ).first()
    if others is not None:
        raise Refused("single_user", "this store has accounts; expected one without")
    found = session.scalars(select(Account).where(Account.folded == SINGLE)).first()
    account = found or add_account(session, SINGLE, "admin", None)
    account.role, account.disabled = "admin", None
    session.flush()
    if found is None:
        audit.note(session, "joined", account.id, f"account:{account.id}", role="admin")
    return invite(session, "single", "admin", account_id=account.id)


def _leave_an_admin(session: Session, account: Account) -> None:
    if account.role == "admin" and account.disabled is None and not admins(session, account.id):
        raise Conflict("the last admin stays one: make somebody else an admin first")


def _spend(session: Session, *which: Any) -> int:
    wanted = update(Invite).where(Invite.used.is_(None), *which).values(used=now())
    return int(session.execute(wanted).rowcount)  # type: ignore[attr-defined]


def _role(role: str) -> str:
    if role not in ROLES:
        raise Refused("role", f"expected one of {', '.join(ROLES)}")
    return role
