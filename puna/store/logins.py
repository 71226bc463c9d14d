"""Browsers' sessions: a random token that only the browser has, its digest here.

A session ends when the person leaves, after IDLE seconds without a request, and LONGEST seconds
after its beginning whatever happens. A new one has a new token always: what a browser had before
somebody logged in opens nothing afterwards.
"""

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from puna.store.faults import Missing
from puna.store.store import now
from puna.store.tables import Account, Login

IDLE = 7 * 86400.0
LONGEST = 30 * 86400.0
KEPT = 90 * 86400.0  # an ended session's row
SEEN_EVERY = 60.0  # seconds between two writes of `seen`


@dataclass(frozen=True)
class Begun:
    """A session that began: what the browser keeps, and what its pages send."""

    id: int
    token: str
    csrf: str


def digest(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def begin(session: Session, account_id: int, before: str = "") -> Begun:
    """A new session; the one of the token that the browser had `before` ends."""
    moment = now()
    if before:
        _end(session, Login.sha256 == digest(before))
    old = Login.account_id == account_id, Login.created < moment - KEPT
    session.execute(delete(Login).where(*old))
    token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    login = Login(sha256=digest(token), account_id=account_id, csrf=csrf, created=moment)
    login.seen, login.expires = moment, moment + LONGEST
    session.add(login)
    session.flush()
    return Begun(login.id, token, csrf)


def find(session: Session, token: str) -> tuple[Login, Account] | None:
    """The session of a token and whose it is, if it goes on and the person may come in."""
    moment = now()
    found = session.execute(
        select(Login, Account)
        .join(Account, Account.id == Login.account_id)
        .where(Login.sha256 == digest(token), Login.ended.is_(None))
        .where(Login.expires > moment, Login.seen > moment - IDLE)
        .where(Account.disabled.is_(None), Account.erased.is_(None))
    ).first()
    return (found[0], found[1]) if found else None


def touch(session: Session, login_id: int) -> None:
    """Remember that the session was used."""
    session.execute(update(Login).where(Login.id == login_id).values(seen=now()))


def end(session: Session, login_id: int, account_id: int) -> None:
    """End one session of a person. Missing: no such session of theirs goes on."""
    if not _end(session, Login.id == login_id, Login.account_id == account_id):
        raise Missing


def end_all(session: Session, account_id: int, but: int = 0) -> int:
    """End all sessions of a person, but for one. Returns how many there were."""
    return _end(session, Login.account_id == account_id, Login.id != but)


def open_logins(session: Session, account_id: int) -> list[dict[str, Any]]:
    """The sessions of a person that go on, the newest first."""
    moment = now()
    wanted = (
        select(Login)
        .where(Login.account_id == account_id, Login.ended.is_(None))
        .where(Login.expires > moment, Login.seen > moment - IDLE)
        .order_by(Login.id.desc())
    )
    return [
        {"id": one.id, "created": one.created, "seen": one.seen, "expires": one.expires}
        for one in session.scalars(wanted)
    ]


def _end(session: Session, *which: Any) -> int:
    wanted = update(Login).where(Login.ended.is_(None), *which).values(ended=now())
    return int(session.execute(wanted).rowcount)  # type: ignore[attr-defined]
