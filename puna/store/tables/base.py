"""What all tables share.

Ids grow and are never used twice, so they, not the clock, say what came first. Times are seconds
since 1970 (UTC). What is JSON is checked before it gets here.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts up only in a column of type INTEGER
Number = BigInteger().with_variant(Integer, "sqlite")

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
GROWING = {"sqlite_autoincrement": True}

ROLES = ("annotator", "reviewer", "admin")  # each may do what those before it may


class Base(DeclarativeBase):
    """What all tables share: names of constraints, types."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy
        int: Number,
        str: Text,
        float: Float,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }
    __table_args__: Any = GROWING


def key() -> Mapped[int]:
    """A row's number."""
    return mapped_column(primary_key=True, autoincrement=True)


def to(target: str, index: bool = True) -> Mapped[Any]:
    """A reference to another table's row."""
    return mapped_column(ForeignKey(target), index=index)
