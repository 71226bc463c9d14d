"""The audit log: who came in, was refused, changed what. Never what was typed."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.store import now
from puna.store.tables import Account, Audit

PAGE = 50


def note(
    session: Session,
    action: str,
    account_id: int | None = None,
    about: str = "",
    address: str = "",
    **detail: Any,
) -> None:
    """Write a line: `about` is what it was done to, such as `account:3`."""
    line = Audit(at=now(), account_id=account_id, action=action[:64], object=about[:200])
    line.detail, line.address = detail, address[:64]
    session.add(line)


def lines(
    session: Session,
    before: int | None = None,
    action: str = "",
    account_id: int | None = None,
    limit: int = PAGE,
) -> list[dict[str, Any]]:
    """The newest lines, or those before the line `before`; of one action or person if named."""
    wanted = select(Audit, Account.name).join(Account, isouter=True).order_by(Audit.id.desc())
    if before is not None:
        wanted = wanted.where(Audit.id < before)
    if action:
        wanted = wanted.where(Audit.action == action)
    if account_id is not None:
        wanted = wanted.where(Audit.account_id == account_id)
    return [
        {
            "id": line.id,
            "at": line.at,
            "account_id": line.account_id,
            "name": name or "",
            "action": line.action,
            "object": line.object,
            "detail": line.detail,
            "address": line.address,
        }
        for line, name in session.execute(wanted.limit(limit))
    ]


def actions(session: Session) -> list[str]:
    """Every action that the log holds, in order."""
    return sorted(session.scalars(select(Audit.action).distinct()))
