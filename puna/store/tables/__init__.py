"""Every table of the store; `Base.metadata` knows them all."""

from puna.store.tables.attacks import Attack, Draft, Replay, Replayed, Severity
from puna.store.tables.base import ROLES, Base
from puna.store.tables.leaving import Erasure, Imported, Snapshot
from puna.store.tables.people import Account, Audit, Invite, Login, Reply
from puna.store.tables.talk import Choice, Conversation, Thumb, Turn
from puna.store.tables.work import (
    Annotation,
    Batch,
    Campaign,
    Desk,
    Item,
    Qualification,
    Review,
    Task,
)

__all__ = [
    "ROLES",
    "Account",
    "Annotation",
    "Attack",
    "Audit",
    "Base",
    "Batch",
    "Campaign",
    "Choice",
    "Conversation",
    "Desk",
    "Draft",
    "Erasure",
    "Imported",
    "Invite",
    "Item",
    "Login",
    "Qualification",
    "Replay",
    "Replayed",
    "Reply",
    "Review",
    "Severity",
    "Snapshot",
    "Task",
    "Thumb",
    "Turn",
]
