"""A request that is sent twice happens once: what was answered the first time is answered again.

The row is claimed before the work, in the work's own transaction. So two at the same time wait for
each other, and work that fails leaves no row: the same key may be tried again.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import JSON, bindparam, delete, select, text, update
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Refused
from puna.store.store import now
from puna.store.tables import Reply

KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
KEPT_SECONDS = 3 * 86400.0  # an answer is repeated so long
SWEPT_EVERY = 256  # rows, until what is older is deleted

_CLAIM = text(
    "INSERT INTO replies (account_id, key, sha256, reply, at) "
    "VALUES (:account_id, :key, :sha256, :reply, :at) ON CONFLICT DO NOTHING"
).bindparams(bindparam("reply", type_=JSON))


def once(
    session: Session, account_id: int, key: str, sha256: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `make()` says, or what it said when this person first sent this key.

    sha256: of the route and the body. Refused: no such key; Conflict: the key came with another
    route or body before. An empty key asks for nothing: `make` runs.
    """
    if not key:
        return make()
    if not KEY.fullmatch(key):
        raise Refused("idempotency-key", "expected 1 to 64 of A-Z a-z 0-9 _ -")
    values = {"account_id": account_id, "key": key, "sha256": sha256, "reply": {}, "at": now()}
    claimed = session.execute(_CLAIM, values).rowcount == 1  # type: ignore[attr-defined]
    mine = (Reply.account_id == account_id, Reply.key == key)
    row = session.execute(select(Reply.id, Reply.sha256, Reply.reply).where(*mine)).one()
    if not claimed:
        if row.sha256 != sha256:
            raise Conflict("idempotency-key: was used before for another request")
        return dict(row.reply)
    made = make()
    json.dumps(made, allow_nan=False)  # what cannot be kept must not be answered
    session.execute(update(Reply).where(Reply.id == row.id).values(reply=made))
    if row.id % SWEPT_EVERY == 0:
        session.execute(delete(Reply).where(Reply.at < now() - KEPT_SECONDS))
    return made
