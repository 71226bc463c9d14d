"""Tables of what leaves the store and what came in from elsewhere."""

from typing import Any

from sqlalchemy import String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from puna.store.tables.base import GROWING, Base, key, to


class Snapshot(Base):
    """What an export held, so that it can be made again and compared."""

    __tablename__ = "snapshots"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(64), unique=True)  # the snapshot id in the file
    kind: Mapped[str] = mapped_column(String(16))  # preferences, dialogs, ratings
    settings: Mapped[dict[str, Any]]
    rows: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))  # of the rows
    erasure_id: Mapped[int]  # the last deletion before it; those that came later it does not know
    by_id: Mapped[int | None] = to("accounts.id")
    created: Mapped[float]


class Erasure(Base):
    """That somebody's data were deleted: what, and when; no longer whose."""

    __tablename__ = "erasures"
    id: Mapped[int] = key()
    account_id: Mapped[int] = to("accounts.id")
    counts: Mapped[dict[str, Any]]
    created: Mapped[float]


class Imported(Base):
    """A judgement that came from a file of another tool, or of Puna."""

    __tablename__ = "imported"
    id: Mapped[int] = key()
    source: Mapped[str]  # argilla, label_studio, puna; and the file's name
    file: Mapped[str] = mapped_column(String(64))  # SHA-256
    place: Mapped[int]  # its number among the file's comparisons
    record: Mapped[dict[str, Any]]  # puna.text.dialog.Preference
    created: Mapped[float]
    __table_args__ = (UniqueConstraint("file", "place"), GROWING)
