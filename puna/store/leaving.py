"""What leaves the store as data: comparisons, dialogues, prompts, ratings, each a snapshot.

A snapshot is what one state of the store holds: the same state and settings give the same bytes
and the same name, which is made of them. What is left out is counted with its reason. People are
numbers. Everything is in order of ids.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from puna.errors import InputError
from puna.store import leaving_comparisons, leaving_talk
from puna.store.faults import Refused
from puna.store.store import now
from puna.store.tables import (
    Annotation,
    Attack,
    Campaign,
    Choice,
    Draft,
    Erasure,
    Imported,
    Item,
    Severity,
    Snapshot,
    Thumb,
    Turn,
)
from puna.text.dialog import Dialog, Preference

KINDS = ("preferences", "dialogs", "prompts", "ratings")
SOURCES = ("annotations", "chat", "redteam", "imported")
Kind = Literal["preferences", "dialogs", "prompts", "ratings"]
Row = dict[str, Any]
Scrub = Callable[[str], tuple[str, Mapping[str, int]]]  # text without personal data; what was found

NAMES = {  # fields that hold no text of people
    *("role", "id", "kind", "model", "version", "annotator", "attacker", "strength", "safety"),
}
TABLES = (Annotation, Choice, Draft, Erasure, Imported, Item, Severity, Thumb, Turn)


@dataclass(frozen=True)
class Wanted:
    """Which data are to leave, and how."""

    kind: Kind = "preferences"
    judgements: Literal["each", "majority"] = "each"  # each person's, or one for an item
    sources: tuple[str, ...] = SOURCES
    campaigns: tuple[str, ...] = ()  # by name; none: all
    approved: bool = False  # only what a reviewer approved or edited
    scrub: bool = False  # personal data replaced by tags


@dataclass
class Leaving:
    """A snapshot: its rows, what was left out and why, and how far the store had come."""

    wanted: Wanted
    rows: list[Row]
    left_out: Counter[str] = field(default_factory=Counter)
    scrubbed: Counter[str] = field(default_factory=Counter)
    highest: dict[str, int] = field(default_factory=dict)  # table -> last id

    @property
    def content(self) -> bytes:
        """The rows as JSON Lines."""
        return lines(self.rows)

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """The snapshot id: the same rows by the same settings have the same."""
        settings = json.dumps(asdict(self.wanted), sort_keys=True)
        digest = hashlib.sha256(f"{settings}\n{self.sha256}".encode()).hexdigest()
        return f"{self.wanted.kind}-{digest[:16]}"

    def manifest(self, rows: list[Row] | None = None, part: str = "all") -> dict[str, Any]:
        """What stands beside a file with these of its rows: where they come from."""
        held = self.rows if rows is None else rows
        return {
            "snapshot": self.name,
            "settings": asdict(self.wanted),
            "part": part,
            "rows": len(held),
            "sha256": hashlib.sha256(lines(held)).hexdigest(),
            "snapshot_rows": len(self.rows),
            "left_out": dict(sorted(self.left_out.items())),
            "scrubbed": dict(sorted(self.scrubbed.items())),
            "highest_ids": self.highest,
            "last_erasure": self.highest["erasures"],
        }


def lines(rows: list[Row]) -> bytes:
    """Rows as JSON Lines. A text that is no Unicode cannot be in the store."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def gather(session: Session, wanted: Wanted, scrub: Scrub | None = None) -> Leaving:
    """The snapshot of what the session sees. Refused: a setting that nothing fits."""
    _check(session, wanted, scrub)
    leaving = Leaving(wanted, [])
    for table in TABLES:
        leaving.highest[table.__tablename__] = session.scalar(select(func.max(table.id))) or 0
    found = {
        "preferences": _preferences,
        "dialogs": _dialogs,
        "prompts": _prompts,
        "ratings": _ratings,
    }[wanted.kind](session, wanted, leaving.left_out)
    for row in found:
        if scrub is None:
            leaving.rows.append(row)
            continue
        clean, hits = _scrubbed(row, scrub)
        if wanted.kind == "preferences" and clean["chosen"] == clean["rejected"]:
            leaving.left_out["equal without personal data"] += 1
            continue
        leaving.scrubbed.update(hits)
        leaving.rows.append(clean)
    return leaving


def keep(session: Session, leaving: Leaving, by_id: int | None = None) -> str:
    """Write down that the snapshot left, and return its name; made again, it is one."""
    kept = session.scalar(select(Snapshot).where(Snapshot.name == leaving.name))
    if kept is None:
        kept = Snapshot(
            name=leaving.name,
            kind=leaving.wanted.kind,
            settings=asdict(leaving.wanted),
            rows=len(leaving.rows),
            sha256=leaving.sha256,
            by_id=by_id,
            created=now(),
            erasure_id=0,
        )
        session.add(kept)
    kept.erasure_id = max(kept.erasure_id, leaving.highest["erasures"])
    session.flush()
    return kept.name


def snapshots(session: Session) -> list[dict[str, Any]]:
    """All snapshots, newest first; `erased_since` is how many people were erased after each."""
    erasures = session.scalars(select(Erasure.id)).all()
    return [
        {
            "name": kept.name,
            "kind": kept.kind,
            "settings": kept.settings,
            "rows": kept.rows,
            "sha256": kept.sha256,
            "created": kept.created,
            "erased_since": sum(number > kept.erasure_id for number in erasures),
        }
        for kept in session.scalars(select(Snapshot).order_by(Snapshot.id.desc()))
    ]


def _check(session: Session, wanted: Wanted, scrub: Scrub | None) -> None:
    if wanted.kind not in KINDS:
        raise Refused("kind", f"{wanted.kind!r}, expected one of {', '.join(KINDS)}")
    for source in wanted.sources:
        if source not in SOURCES:
            raise Refused("sources", f"{source!r}, expected one of {', '.join(SOURCES)}")
    known = set(session.scalars(select(Campaign.name)))
    for name in wanted.campaigns:
        if name not in known:
            raise Refused("campaigns", f"no campaign {name!r}")
    if wanted.scrub != (scrub is not None):
        raise Refused("scrub", "the setting and what is done do not agree")


def _preferences(session: Session, wanted: Wanted, left_out: Counter[str]) -> Iterator[Row]:
    found: list[Iterator[Preference]] = []
    if "annotations" in wanted.sources:
        found.append(leaving_comparisons.of_annotations(session, wanted, left_out))
    if "chat" in wanted.sources and not wanted.campaigns:
        found.append(leaving_talk.comparisons(session, left_out))
    if "imported" in wanted.sources and not wanted.campaigns:
        found.append(leaving_comparisons.of_files(session))
    for part in found:
        yield from (preference.to_json() for preference in part)


def _dialogs(session: Session, wanted: Wanted, left_out: Counter[str]) -> Iterator[Row]:
    if "chat" in wanted.sources and not wanted.campaigns:
        yield from (dialog.to_json() for dialog in leaving_talk.dialogs(session, left_out))
    if "redteam" in wanted.sources:
        for draft, dialog in _drafts(session, wanted, left_out):
            if draft.answer.strip():
                # what the model said before in the same attempt is no example
                learnt = replace(dialog, tags={**dialog.tags, "last_only": True})
                yield learnt.with_answer(draft.answer).to_json()
            else:
                left_out["draft without an answer (a prompt)"] += 1


def _prompts(session: Session, wanted: Wanted, left_out: Counter[str]) -> Iterator[Row]:
    if "annotations" in wanted.sources:
        seen = leaving_comparisons.prompts(session, wanted, left_out)
        yield from (dialog.to_json() for dialog in seen)
    if "redteam" in wanted.sources:
        yield from (dialog.to_json() for _, dialog in _drafts(session, wanted, left_out))


def _drafts(
    session: Session, wanted: Wanted, left_out: Counter[str]
) -> Iterator[tuple[Draft, Dialog]]:
    """Approved drafts, each with the dialogue that its answer is for."""
    query = (
        select(Draft, Campaign.name)
        .outerjoin(Severity, Severity.id == Draft.severity_id)
        .outerjoin(Attack, Attack.id == Severity.attack_id)
        .outerjoin(Campaign, Campaign.id == Attack.campaign_id)
        .order_by(Draft.id)
    )
    for draft, campaign in session.execute(query):
        if wanted.campaigns and campaign not in wanted.campaigns:
            continue
        if draft.state != "approved":
            left_out[f"draft {draft.state}"] += 1
            continue
        try:
            dialog = Dialog.from_json(draft.dialog)
        except InputError:
            left_out["draft whose dialogue is not in turns"] += 1
            continue
        tags = {**dialog.tags, "kind": "unsafe", "safety": True, "source": "redteam"}
        tags |= {"risk": draft.risk, "vector": draft.vector}
        yield draft, Dialog(dialog.messages, f"draft-{draft.id}", tags).prompt()


def _ratings(session: Session, wanted: Wanted, left_out: Counter[str]) -> Iterator[Row]:
    if "annotations" in wanted.sources:
        yield from leaving_comparisons.ratings(session, wanted, left_out)
    if "redteam" in wanted.sources:
        yield from _severities(session, wanted, left_out)
    if "chat" in wanted.sources and not wanted.campaigns:
        yield from leaving_talk.thumbs(session, left_out)


def _severities(session: Session, wanted: Wanted, left_out: Counter[str]) -> Iterator[Row]:
    query = (
        select(Severity, Attack, Campaign.name, Turn)
        .join(Attack, Attack.id == Severity.attack_id)
        .join(Campaign, Campaign.id == Attack.campaign_id)
        .join(Turn, Turn.id == Severity.turn_id)
        .order_by(Severity.id)
    )
    talks = leaving_talk.Talks(session)
    for severity, attack, campaign, turn in session.execute(query):
        if wanted.campaigns and campaign not in wanted.campaigns:
            continue
        dialog = talks.before(turn)
        if dialog is None or not turn.content.strip():
            left_out["severity of an answer that is not there"] += 1
            continue
        yield {
            "kind": "severity",
            "id": f"turn-{turn.id}",
            "campaign": campaign,
            "round": attack.round,
            "risk": attack.risk,
            "vector": attack.vector,
            "model": turn.model or attack.model,
            "version": turn.version,
            "messages": dialog.to_json()["messages"],
            "answer": turn.content,
            "points": severity.points,
            "note": severity.note,
            "annotator": leaving_talk.person(severity.account_id),
            "attacker": leaving_talk.person(attack.account_id),
        }


def _scrubbed(value: Any, scrub: Scrub) -> tuple[Any, Counter[str]]:
    """A row whose texts hold no personal data, and how much of each kind was found."""
    hits: Counter[str] = Counter()

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            text, found = scrub(value)
            hits.update(found)
            return text
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, dict):
            return {n: item if n in NAMES else clean(item) for n, item in value.items()}
        return value

    return clean(value), hits
