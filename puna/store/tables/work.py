"""Tables of annotation: campaigns, items, tasks, judgements, reviews."""

from typing import Any

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from puna.store.tables.base import GROWING, Base, key, to


class Campaign(Base):
    """A body of work for annotators, with its rules."""

    __tablename__ = "campaigns"
    id: Mapped[int] = key()
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(16))  # preference, evaluation, redteam
    aim: Mapped[str] = mapped_column(String(16))  # helpfulness, safety
    guidelines: Mapped[str]  # Markdown
    state: Mapped[str] = mapped_column(String(16))  # draft, open, closed
    overlap: Mapped[int]  # annotators an item (paper: 3 in evaluation)
    quota: Mapped[int]  # items a person may judge; 0: as many as there are
    lease_seconds: Mapped[float]
    max_turns: Mapped[int]  # user turns of a conversation that goes on with the chosen answer
    own_prompts: Mapped[bool]  # whether annotators write prompts
    gold_share: Mapped[float]  # of the items that a person is given
    pass_mark: Mapped[float]  # share of the qualification test; 0: no test
    variants: Mapped[list[Any]]  # [{"model", "temperature", "top_p", "max_tokens"}, ...]
    settings: Mapped[dict[str, Any]]  # of the kind: categories, risks, vectors, context limits
    by_id: Mapped[int] = to("accounts.id")
    created: Mapped[float]


class Batch(Base):
    """The items of one round (paper: a week)."""

    __tablename__ = "batches"
    id: Mapped[int] = key()
    campaign_id: Mapped[int] = to("campaigns.id")
    number: Mapped[int]
    source: Mapped[str] = mapped_column(default="")  # the file's name; empty: written by hand
    left_out: Mapped[dict[str, Any]] = mapped_column(default=dict)  # reason -> how many
    by_id: Mapped[int | None] = to("accounts.id")
    created: Mapped[float]
    __table_args__ = (UniqueConstraint("campaign_id", "number"), GROWING)


class Item(Base):
    """A conversation and two answers to it, to be judged by some people."""

    __tablename__ = "items"
    id: Mapped[int] = key()
    campaign_id: Mapped[int] = to("campaigns.id")
    batch_id: Mapped[int] = to("batches.id")
    parent_id: Mapped[int | None] = to("items.id")  # the turn before it
    purpose: Mapped[str] = mapped_column(String(16))  # normal, gold, qualification
    state: Mapped[str] = mapped_column(String(16))  # preparing, ready, failed, closed
    dialog: Mapped[dict[str, Any]]  # puna.text.dialog.Dialog, ends with the user
    digest: Mapped[str] = mapped_column(String(64), default="")  # SHA-256 of its messages
    answers: Mapped[list[Any]]  # two of {"text", "model", "version", "temperature", "top_p"}
    expected: Mapped[dict[str, Any]]  # of gold and qualification: {"chosen": 0 or 1, "safety"}
    category: Mapped[str]
    wanted: Mapped[int]  # people who are to judge it
    taken: Mapped[int]  # leases that run and annotations that count
    only_id: Mapped[int | None] = to("accounts.id")  # only this person may judge it
    failure: Mapped[str]  # why it could not be prepared
    created: Mapped[float]
    __table_args__ = (
        Index("ix_items_open", "campaign_id", "state", "purpose", "taken", "id"),
        Index("ix_items_digest", "campaign_id", "digest"),
        GROWING,
    )


class Task(Base):
    """An item in somebody's hands."""

    __tablename__ = "tasks"
    id: Mapped[int] = key()
    item_id: Mapped[int] = to("items.id")
    account_id: Mapped[int] = to("accounts.id")
    state: Mapped[str] = mapped_column(String(16))  # leased, done, skipped, expired
    swapped: Mapped[bool]  # the second answer is shown first
    leased: Mapped[float]
    expires: Mapped[float]
    ended: Mapped[float | None]
    reason: Mapped[str]  # why it was skipped
    __table_args__ = (
        UniqueConstraint("item_id", "account_id"),
        Index("ix_tasks_leased", "state", "expires"),
        GROWING,
    )


class Annotation(Base):
    """A judgement. What counts is neither undone nor rejected."""

    __tablename__ = "annotations"
    id: Mapped[int] = key()
    task_id: Mapped[int] = to("tasks.id")
    item_id: Mapped[int] = to("items.id")
    campaign_id: Mapped[int] = to("campaigns.id")
    batch_id: Mapped[int] = to("batches.id")
    account_id: Mapped[int] = to("accounts.id")
    chosen: Mapped[int | None]  # 0 or 1, of the item's answers (not of their order on the page)
    strength: Mapped[str | None] = mapped_column(String(32))  # puna.text.dialog.STRENGTHS
    safety: Mapped[str | None] = mapped_column(String(32))  # SAFETY_BINS, or "rejected_safe"
    rating: Mapped[int | None]  # evaluation: -3 (the second much better) to 3 (the first)
    swapped: Mapped[bool]
    comment: Mapped[str]
    seconds: Mapped[float]  # in view
    created: Mapped[float]
    undone: Mapped[float | None]
    review: Mapped[str] = mapped_column(String(16))  # pending, approved, rejected, edited
    __table_args__ = (Index("ix_annotations_counted", "campaign_id", "undone", "review"), GROWING)


class Review(Base):
    """What a reviewer decided about an annotation, with what stood there before."""

    __tablename__ = "reviews"
    id: Mapped[int] = key()
    annotation_id: Mapped[int] = to("annotations.id")
    account_id: Mapped[int] = to("accounts.id")
    verdict: Mapped[str] = mapped_column(String(16))  # approved, rejected, edited
    note: Mapped[str]
    before: Mapped[dict[str, Any]]
    created: Mapped[float]
    undone: Mapped[float | None]
    seen: Mapped[float | None]  # when the annotator read it


class Desk(Base):
    """An annotation that lies before a reviewer, and so before nobody else."""

    __tablename__ = "desks"
    id: Mapped[int] = key()
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotations.id"), unique=True)
    account_id: Mapped[int] = to("accounts.id")
    expires: Mapped[float]


class Qualification(Base):
    """How somebody did in a campaign's test; one for each person and campaign."""

    __tablename__ = "qualifications"
    id: Mapped[int] = key()
    campaign_id: Mapped[int] = to("campaigns.id")
    account_id: Mapped[int] = to("accounts.id")
    right: Mapped[int]
    answered: Mapped[int]
    passed: Mapped[bool | None]  # none: not at its end yet
    changed: Mapped[float]
    __table_args__ = (UniqueConstraint("campaign_id", "account_id"), GROWING)
