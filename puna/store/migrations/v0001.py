"""Schema 0001: all tables, as they were when it was made."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *parts: Any) -> None:
    key = sa.Column("id", NUMBER, primary_key=True, autoincrement=True)
    sa.Table(name, METADATA, key, *parts, sqlite_autoincrement=True)


def _text(
    name: str, length: int | None = None, nullable: bool = False, unique: bool = False
) -> sa.Column[str]:
    kind = sa.Text() if length is None else sa.String(length)
    return sa.Column(name, kind, nullable=nullable, unique=unique)


def _number(name: str, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, NUMBER, nullable=nullable)


def _real(name: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=nullable)


def _flag(name: str, nullable: bool = False) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=nullable)


def _data(name: str, nullable: bool = False) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(), nullable=nullable)


def _to(
    name: str, target: str, nullable: bool = False, index: bool = True, unique: bool = False
) -> sa.Column[int]:
    key = sa.ForeignKey(f"{target}.id")
    return sa.Column(name, NUMBER, key, nullable=nullable, index=index, unique=unique)


_table(
    "accounts",
    _text("name", 64),
    _text("folded", 64, unique=True),
    _text("password", nullable=True),
    _text("role", 16),
    _real("created"),
    _real("disabled", nullable=True),
    _real("erased", nullable=True),
)
_table(
    "imported",
    _text("source"),
    _text("file", 64),
    _number("place"),
    _data("record"),
    _real("created"),
    sa.UniqueConstraint("file", "place"),
)
_table(
    "audit",
    _real("at"),
    _to("account_id", "accounts", nullable=True),
    _text("action", 64),
    _text("object"),
    _data("detail"),
    _text("address", 64),
)
_table(
    "campaigns",
    _text("name", 200, unique=True),
    _text("kind", 16),
    _text("aim", 16),
    _text("guidelines"),
    _text("state", 16),
    _number("overlap"),
    _number("quota"),
    _real("lease_seconds"),
    _number("max_turns"),
    _flag("own_prompts"),
    _real("gold_share"),
    _real("pass_mark"),
    _data("variants"),
    _data("settings"),
    _to("by_id", "accounts"),
    _real("created"),
)
_table(
    "conversations",
    _to("account_id", "accounts"),
    _text("purpose", 16),
    _text("title"),
    _text("system"),
    _text("model"),
    _data("settings"),
    _number("leaf_id", nullable=True),
    _real("created"),
    _real("changed"),
    _real("deleted", nullable=True),
)
_table(
    "erasures",
    _to("account_id", "accounts"),
    _data("counts"),
    _real("created"),
)
_table(
    "invites",
    _text("sha256", 64, unique=True),
    _text("purpose", 16),
    _text("role", 16),
    _text("note"),
    _to("account_id", "accounts", nullable=True),
    _to("by_id", "accounts", nullable=True),
    _real("created"),
    _real("expires"),
    _real("used", nullable=True),
)
_table(
    "logins",
    _text("sha256", 64, unique=True),
    _to("account_id", "accounts"),
    _text("csrf", 64),
    _real("created"),
    _real("seen"),
    _real("expires"),
    _real("ended", nullable=True),
)
_table(
    "replays",
    _text("model"),
    _number("before"),
    _data("phrases"),
    _to("by_id", "accounts"),
    _real("created"),
)
_table(
    "replies",
    _to("account_id", "accounts"),
    _text("key", 64),
    _text("sha256", 64),
    _data("reply"),
    _real("at"),
    sa.UniqueConstraint("account_id", "key"),
)
_table(
    "snapshots",
    _text("name", 64, unique=True),
    _text("kind", 16),
    _data("settings"),
    _number("rows"),
    _text("sha256", 64),
    _number("erasure_id"),
    _to("by_id", "accounts", nullable=True),
    _real("created"),
)
_table(
    "attacks",
    _to("campaign_id", "campaigns"),
    _to("account_id", "accounts"),
    _to("conversation_id", "conversations"),
    _number("round"),
    _text("risk", 64),
    _text("vector", 64),
    _text("model"),
    _real("seconds"),
    _real("running", nullable=True),
    _real("acted"),
    _real("started"),
    _real("ended", nullable=True),
)
_table(
    "batches",
    _to("campaign_id", "campaigns"),
    _number("number"),
    _text("source"),
    _data("left_out"),
    _to("by_id", "accounts", nullable=True),
    _real("created"),
    sa.UniqueConstraint("campaign_id", "number"),
)
_table(
    "qualifications",
    _to("campaign_id", "campaigns"),
    _to("account_id", "accounts"),
    _number("right"),
    _number("answered"),
    _flag("passed", nullable=True),
    _real("changed"),
    sa.UniqueConstraint("campaign_id", "account_id"),
)
_table(
    "turns",
    _to("conversation_id", "conversations"),
    _to("parent_id", "turns", nullable=True),
    _text("role", 16),
    _text("content"),
    _text("state", 16),
    _text("model"),
    _text("version"),
    _data("settings"),
    _data("figures"),
    _real("created"),
)
_table(
    "choices",
    _to("account_id", "accounts"),
    _to("chosen_id", "turns"),
    _to("rejected_id", "turns"),
    _text("strength", 32),
    _real("created"),
)
_table(
    "items",
    _to("campaign_id", "campaigns"),
    _to("batch_id", "batches"),
    _to("parent_id", "items", nullable=True),
    _text("purpose", 16),
    _text("state", 16),
    _data("dialog"),
    _text("digest", 64),
    _data("answers"),
    _data("expected"),
    _text("category"),
    _number("wanted"),
    _number("taken"),
    _to("only_id", "accounts", nullable=True),
    _text("failure"),
    _real("created"),
    sa.Index("ix_items_digest", "campaign_id", "digest"),
    sa.Index("ix_items_open", "campaign_id", "state", "purpose", "taken", "id"),
)
_table(
    "replayed",
    _to("replay_id", "replays"),
    _to("turn_id", "turns"),
    _text("state", 16),
    _text("answer"),
    _text("version"),
    _number("points", nullable=True),
    _text("rule"),
    _to("by_id", "accounts", nullable=True),
    _real("created"),
    sa.UniqueConstraint("replay_id", "turn_id"),
)
_table(
    "severities",
    _to("attack_id", "attacks"),
    _to("turn_id", "turns"),
    _to("account_id", "accounts"),
    _number("points"),
    _text("note"),
    _real("created"),
    sa.UniqueConstraint("turn_id", "account_id"),
)
_table(
    "thumbs",
    _to("turn_id", "turns"),
    _to("account_id", "accounts"),
    _flag("up"),
    _data("reasons"),
    _text("comment"),
    _text("rewrite"),
    _real("created"),
    sa.UniqueConstraint("turn_id", "account_id"),
)
_table(
    "drafts",
    _to("severity_id", "severities", nullable=True),
    _to("turn_id", "turns"),
    _to("account_id", "accounts"),
    _data("dialog"),
    _text("answer"),
    _text("state", 16),
    _text("risk", 64),
    _text("vector", 64),
    _text("reason"),
    _to("by_id", "accounts", nullable=True),
    _real("created"),
    _real("changed"),
    sa.UniqueConstraint("turn_id"),
)
_table(
    "tasks",
    _to("item_id", "items"),
    _to("account_id", "accounts"),
    _text("state", 16),
    _flag("swapped"),
    _real("leased"),
    _real("expires"),
    _real("ended", nullable=True),
    _text("reason"),
    sa.UniqueConstraint("item_id", "account_id"),
    sa.Index("ix_tasks_leased", "state", "expires"),
)
_table(
    "annotations",
    _to("task_id", "tasks"),
    _to("item_id", "items"),
    _to("campaign_id", "campaigns"),
    _to("batch_id", "batches"),
    _to("account_id", "accounts"),
    _number("chosen", nullable=True),
    _text("strength", 32, nullable=True),
    _text("safety", 32, nullable=True),
    _number("rating", nullable=True),
    _flag("swapped"),
    _text("comment"),
    _real("seconds"),
    _real("created"),
    _real("undone", nullable=True),
    _text("review", 16),
    sa.Index("ix_annotations_counted", "campaign_id", "undone", "review"),
)
_table(
    "desks",
    _to("annotation_id", "annotations", index=False, unique=True),
    _to("account_id", "accounts"),
    _real("expires"),
)
_table(
    "reviews",
    _to("annotation_id", "annotations"),
    _to("account_id", "accounts"),
    _text("verdict", 16),
    _text("note"),
    _data("before"),
    _real("created"),
    _real("undone", nullable=True),
    _real("seen", nullable=True),
)


def upgrade() -> None:
    """Make all tables."""
    METADATA.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop all tables, and what is in them."""
    METADATA.drop_all(op.get_bind(), checkfirst=False)
