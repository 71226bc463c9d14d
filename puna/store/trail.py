"""Lines of the audit log for what people do to campaigns and judgements."""

from typing import Any

from sqlalchemy.orm import Session

from puna.store.store import now
from puna.store.tables import Audit


def note(session: Session, account_id: int, action: str, what: str, **detail: Any) -> None:
    """Write down who did what to which thing."""
    line = Audit(
        at=now(), account_id=account_id, action=action, object=what, detail=detail, address=""
    )
    session.add(line)
