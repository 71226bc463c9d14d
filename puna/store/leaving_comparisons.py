"""What annotation gives: comparisons, prompts and ratings, from judgements that count.

A judgement counts unless it was undone or a reviewer rejected it. A pair whose rejected answer
alone is safe is left out (section 3.2.1).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.errors import InputError
from puna.store.leaving_talk import person
from puna.store.tables import Annotation, Batch, Campaign, Imported, Item
from puna.text.dialog import REJECTED_SAFE, STRENGTHS, Dialog, Preference

TRUSTED = ("approved", "edited")


class Chosen(Protocol):
    """What these functions want to know of the settings of an export."""

    @property
    def judgements(self) -> str:
        """Each, or majority."""
        ...

    @property
    def campaigns(self) -> tuple[str, ...]:
        """Names; none: all."""
        ...

    @property
    def approved(self) -> bool:
        """Whether only what was reviewed counts."""
        ...


def _judged(session: Session, wanted: Chosen, kind: str) -> Iterator[tuple[Any, ...]]:
    """(annotation, item, campaign, batch number) of a kind of campaign, item by item."""
    query = (
        select(Annotation, Item, Campaign, Batch.number)
        .join(Item, Item.id == Annotation.item_id)
        .join(Campaign, Campaign.id == Annotation.campaign_id)
        .join(Batch, Batch.id == Annotation.batch_id)
        .where(Campaign.kind == kind)
        .order_by(Item.id, Annotation.id)
    )
    if wanted.campaigns:
        query = query.where(Campaign.name.in_(wanted.campaigns))
    yield from (tuple(row) for row in session.execute(query))


def _why_not(annotation: Annotation, item: Item, wanted: Chosen) -> str:
    """Why a judgement stays here; empty if it leaves."""
    if annotation.undone is not None:
        return "undone"
    if annotation.review == "rejected":
        return "rejected by a reviewer"
    if item.purpose != "normal":
        return f"{item.purpose} item"
    if wanted.approved and annotation.review not in TRUSTED:
        return "not reviewed"
    return ""


def of_annotations(
    session: Session, wanted: Chosen, left_out: Counter[str]
) -> Iterator[Preference]:
    """Comparisons by annotators: each judgement, or the majority's on every item."""
    rows = _judged(session, wanted, "preference")
    for _, group in groupby(rows, key=lambda row: row[1].id):
        counted = []
        for annotation, item, campaign, number in group:
            why = _why_not(annotation, item, wanted)
            if not why and (annotation.chosen is None or annotation.strength is None):
                why = "no choice"
            if why:
                left_out[why] += 1
            else:
                counted.append((annotation, item, campaign, number))
        if not counted:
            continue
        judgements = [row[0] for row in counted]
        _, item, campaign, number = counted[0]
        if wanted.judgements == "majority":
            yield from _majority(judgements, item, campaign, number, left_out)
        else:
            for one in judgements:
                yield from _preference(
                    item, campaign, number, _verdict(one), person(one.account_id), left_out
                )


Verdict = tuple[int, str, str | None]  # chosen, strength, bin


def _verdict(one: Annotation) -> Verdict:
    return one.chosen or 0, one.strength or STRENGTHS[-1], one.safety


def _majority(
    judgements: Sequence[Annotation],
    item: Item,
    campaign: Campaign,
    number: int,
    left_out: Counter[str],
) -> Iterator[Preference]:
    """One comparison: what most chose, by the middle of their strengths (the weaker of two), in
    the bin that most of them named (none if no bin has most).
    """
    votes = Counter(one.chosen for one in judgements)
    (chosen, most), *others = votes.most_common()
    if others and others[0][1] == most:
        left_out["as many for one answer as for the other"] += 1
        return
    left_out["outvoted or merged into the majority"] += len(judgements) - 1
    side = [one for one in judgements if one.chosen == chosen]
    strengths = sorted(STRENGTHS.index(one.strength or STRENGTHS[-1]) for one in side)
    strength = STRENGTHS[strengths[len(strengths) // 2]]
    bins = Counter(one.safety for one in side).most_common()
    safety = bins[0][0] if len(bins) == 1 or bins[0][1] > bins[1][1] else None
    who = f"majority of {len(judgements)}"
    yield from _preference(item, campaign, number, (chosen or 0, strength, safety), who, left_out)


def _preference(
    item: Item,
    campaign: Campaign,
    number: int,
    verdict: Verdict,
    who: str,
    left_out: Counter[str],
) -> Iterator[Preference]:
    chosen, strength, safety = verdict
    if safety == REJECTED_SAFE:
        left_out["only the rejected answer is safe"] += 1
        return
    texts = [str(answer.get("text", "")) for answer in item.answers]
    if len(texts) != 2 or not texts[0].strip() or not texts[1].strip():
        left_out["empty answer"] += 1
        return
    if texts[0] == texts[1]:
        left_out["equal answers"] += 1
        return
    dialog = _dialog(item, campaign, number)
    if dialog is None:
        left_out["dialogue not in turns"] += 1
        return
    variants = {
        name: {key: value for key, value in item.answers[place].items() if key != "text"}
        for name, place in (("chosen", chosen), ("rejected", 1 - chosen))
    }
    source = f"puna {campaign.aim}"
    yield Preference(
        dialog, texts[chosen], texts[1 - chosen], strength, safety, who, source, variants
    )


def _dialog(item: Item, campaign: Campaign, number: int) -> Dialog | None:
    try:
        dialog = Dialog.from_json(item.dialog)
    except InputError:
        return None
    if not dialog.ends_with_user:
        return None
    safety = campaign.aim == "safety"
    kind = dialog.tags.get("kind", "unsafe" if safety else "dialog")
    tags = {**dialog.tags, "kind": kind, "safety": safety, "source": "annotation"}
    tags |= {"campaign": campaign.name, "batch": number}
    if item.category:
        tags["category"] = item.category
    return Dialog(dialog.messages, f"item-{item.id}", tags)


def of_files(session: Session) -> Iterator[Preference]:
    """Comparisons that came from files, as they were."""
    for imported in session.scalars(select(Imported).order_by(Imported.id)):
        yield Preference.from_json(imported.record)


def prompts(session: Session, wanted: Chosen, left_out: Counter[str]) -> Iterator[Dialog]:
    """What annotators were shown or wrote, once each: the dialogues of items that were judged."""
    seen: set[tuple[Any, ...]] = set()
    for dialog in _asked(_judged(session, wanted, "preference"), wanted, left_out):
        if dialog.messages not in seen:
            seen.add(dialog.messages)
            yield dialog


def _asked(
    rows: Iterable[tuple[Any, ...]], wanted: Chosen, left_out: Counter[str]
) -> Iterator[Dialog]:
    for annotation, item, campaign, number in rows:
        if why := _why_not(annotation, item, wanted):
            left_out[why] += 1
        elif (dialog := _dialog(item, campaign, number)) is None:
            left_out["dialogue not in turns"] += 1
        else:
            yield dialog


def ratings(session: Session, wanted: Chosen, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """Judgements of the human evaluation: 3 (the first answer much better) to -3."""
    for annotation, item, campaign, number in _judged(session, wanted, "evaluation"):
        why = _why_not(annotation, item, wanted)
        why = why or ("no rating" if annotation.rating is None else "")
        dialog = None if why else _dialog(item, campaign, number)
        if dialog is None:
            left_out[why or "dialogue not in turns"] += 1
            continue
        yield {
            "kind": "evaluation",
            "id": f"item-{item.id}",
            "campaign": campaign.name,
            "batch": number,
            "category": item.category,
            "messages": dialog.to_json()["messages"],
            "tags": dict(dialog.tags),
            "answers": item.answers,
            "rating": annotation.rating,
            "first_shown": 1 if annotation.swapped else 0,
            "seconds": annotation.seconds,
            "comment": annotation.comment,
            "annotator": person(annotation.account_id),
        }
