"""Lines of the audit log."""

from typing import Any

from sqlalchemy.orm import Session

from puna.store.store import now
from puna.store.tables import Audit


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
