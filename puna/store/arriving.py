"""Comparisons that come from files of other tools, or of Puna, into the store."""

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.faults import Conflict
from puna.store.store import now
from puna.store.tables import Imported
from puna.text.dialog import Preference


def bring_in(session: Session, source: str, sha256: str, found: Iterable[Preference]) -> int:
    """Store the comparisons of a file, in its order; how many they are.

    source: the tool and the file's name; sha256: of the file. Conflict: the file came before.
    """
    before = session.scalar(select(Imported).where(Imported.file == sha256).limit(1))
    if before is not None:
        raise Conflict(f"this file was imported before (as {before.source})")
    rows = [
        Imported(
            source=source,
            file=sha256,
            place=place,
            record=one.to_json(),
            created=now(),
        )
        for place, one in enumerate(found, 1)
    ]
    session.add_all(rows)
    session.flush()
    return len(rows)
