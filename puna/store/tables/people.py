"""Tables of people: accounts, invites, logins, what they did."""

from typing import Any

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from puna.store.tables.base import GROWING, Base, key, to


class Account(Base):
    """Somebody who may come in."""

    __tablename__ = "accounts"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(64))  # as it is shown
    folded: Mapped[str] = mapped_column(String(64), unique=True)  # as it is looked up
    password: Mapped[str | None]  # argon2id; none: cannot log in by password
    role: Mapped[str] = mapped_column(String(16))
    created: Mapped[float]
    disabled: Mapped[float | None]  # when the person was shut out
    erased: Mapped[float | None]  # when the person's data were deleted; the name is then a number


class Invite(Base):
    """A link that works once: to become somebody, or to set a new password."""

    __tablename__ = "invites"
    id: Mapped[int] = key()
    sha256: Mapped[str] = mapped_column(String(64), unique=True)  # of the token in the link
    purpose: Mapped[str] = mapped_column(String(16))  # setup, invite, reset
    role: Mapped[str] = mapped_column(String(16))
    note: Mapped[str]  # for whom, as the admin wrote it
    account_id: Mapped[int | None] = to("accounts.id")  # whose password is set anew
    by_id: Mapped[int | None] = to("accounts.id")
    created: Mapped[float]
    expires: Mapped[float]
    used: Mapped[float | None]


class Login(Base):
    """A browser's session, by the digest of its cookie."""

    __tablename__ = "logins"
    id: Mapped[int] = key()
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    account_id: Mapped[int] = to("accounts.id")
    csrf: Mapped[str] = mapped_column(String(64))
    created: Mapped[float]
    seen: Mapped[float]
    expires: Mapped[float]
    ended: Mapped[float | None]


class Audit(Base):
    """What somebody did or was refused."""

    __tablename__ = "audit"
    id: Mapped[int] = key()
    at: Mapped[float]
    account_id: Mapped[int | None] = to("accounts.id")
    action: Mapped[str] = mapped_column(String(64))  # login, login_failed, denied, export, ...
    object: Mapped[str]  # what it was done to
    detail: Mapped[dict[str, Any]]
    address: Mapped[str] = mapped_column(String(64))


class Reply(Base):
    """The answer to a request that carried an idempotency key; the same again gets it again."""

    __tablename__ = "replies"
    id: Mapped[int] = key()
    account_id: Mapped[int] = to("accounts.id")
    key: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))  # of route and body
    reply: Mapped[dict[str, Any]]
    at: Mapped[float]
    __table_args__ = (UniqueConstraint("account_id", "key"), GROWING)
