"""The figures of the quality pages: read from the store, computed beside the event loop, kept.

What was computed is kept until `puna.store.quality.state` changes. What an item measures is kept
for good: items do not change once they were judged.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from sqlalchemy.orm import Session

from puna.evaluation import annotators, bradley_terry, drift, ratings
from puna.evaluation.agreement import CannotBeComputed
from puna.evaluation.judgements import Judgement, agreed, disagreements
from puna.store import quality
from puna.store.quality import Judged, Shown
from puna.store.store import Store
from puna.text.dialog import Dialog
from puna.web.site.site import Site

KEPT = 32  # results that are kept
SEED = 0  # the same judgements give the same intervals


@dataclass(frozen=True)
class Measured:
    """What is remembered of an item instead of its texts."""

    words: tuple[int, int]  # of the answers
    asked: int  # words of the dialogue before them
    size: drift.Size
    category: str
    writers: tuple[ratings.Writer, ...]


@dataclass
class Ruler:
    """How texts are measured: a tokenizer's tokens, or words where no model is there."""

    unit: str
    name: str  # which tokenizer
    count: Callable[[str], int]


@dataclass
class Kept:
    """What one server remembers."""

    results: dict[tuple[Any, ...], tuple[tuple[int, ...], Any]] = field(default_factory=dict)
    items: dict[tuple[str, int], Measured] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one computation after the other


_kept: WeakKeyDictionary[Store, Kept] = WeakKeyDictionary()


async def figures(site: Site, compute: Callable[..., Any], *wanted: Any) -> Any:
    """`compute(session, kept, ruler, *wanted)`, computed once for each state of the store."""
    kept = _kept.setdefault(site.store, Kept())
    ruler = ruler_of(site)
    key = (compute.__name__, ruler.name, *wanted)
    async with kept.turn:
        state = await site.read(quality.state)
        found = kept.results.pop(key, None)
        if found is None or found[0] != state:
            found = (
                state,
                await asyncio.to_thread(_read, site.store, compute, kept, ruler, wanted),
            )
        kept.results[key] = found
        while len(kept.results) > KEPT:
            del kept.results[next(iter(kept.results))]
    return found[1]


def _read(
    store: Store, compute: Callable[..., Any], kept: Kept, ruler: Ruler, wanted: Sequence[Any]
) -> Any:
    with store.read() as session:
        return compute(session, kept, ruler, *wanted)


def ruler_of(site: Site) -> Ruler:
    """The tokenizer of the first model that is there; words, while none is."""
    ready = [model.worker.ready for model in site.service.models.values()]
    found = next((one.tokenizer for one in ready if one is not None), None)
    if found is not None:
        tokenizer = found
        return Ruler("tokens", tokenizer.sha256, lambda text: len(tokenizer.encode(text)))
    return Ruler("words", "", lambda text: len(text.split()))


def campaign_figures(
    session: Session, kept: Kept, ruler: Ruler, number: int | None, weights: str
) -> dict[str, Any]:
    """All that the quality page shows of one campaign."""
    found = quality.work(session, ("preference", "evaluation"))
    chosen = quality.campaign(session, found, number)
    judged = quality.judged(session, [chosen.id]) if chosen else []
    measured = measure(session, kept, ruler, judged)
    judgements = [judgement(row, measured) for row in judged]
    sizes = {item: one.size for item, one in measured.items()}
    rng = np.random.default_rng(SEED)
    names = quality.names(session, (row.annotator for row in judged))
    people = annotators.figures(judgements, rng)
    return {
        "campaigns": [vars(row) for row in found],
        "campaign": vars(chosen) if chosen else None,
        "weights": weights,
        "unit": ruler.unit,
        "judgements": len(judgements),
        "gold": sum(row.gold for row in judged),
        "items": len({row.item for row in judged}),
        "agreement": agreed(judgements, weights, rng),
        "annotators": [{**row, "name": names[row["annotator"]]} for row in people],
        "limits": annotators.stated(),
        "whole": drift.whole([j for j in judgements if not j.gold], sizes),
        "batches": drift.batches(judgements, sizes, weights, rng),
        "paper": drift.paper(),
        "disagreements": _apart(session, judgements, names),
    }


def own_figures(session: Session, kept: Kept, ruler: Ruler, person: int) -> dict[str, Any]:
    """One annotator's own figures, over all campaigns that the person worked in."""
    found = quality.work(session, ("preference", "evaluation"))
    own = quality.judged(session, [row.id for row in found], person)
    judged = quality.judged(session, sorted({row.campaign for row in own}))
    measured = measure(session, kept, ruler, judged)
    judgements = [judgement(row, measured) for row in judged]
    rows = annotators.figures(judgements, np.random.default_rng(SEED))
    mine = next((row for row in rows if row["annotator"] == person), None)
    if mine is not None:
        mine.pop("without")
    return {"figures": mine, "limits": annotators.stated()}


def evaluation_figures(
    session: Session, kept: Kept, ruler: Ruler, number: int | None, how: str, weights: str
) -> dict[str, Any]:
    """Versions side by side, on one scale, and their safety."""
    found = quality.work(session, ("evaluation",))
    chosen = quality.campaign(session, found, number) if number is not None else None
    wanted = [chosen.id] if chosen else [row.id for row in found]
    judged = [row for row in quality.judged(session, wanted) if not row.gold]
    rated = _ratings(judged, measure(session, kept, ruler, judged))
    rng = np.random.default_rng(SEED)
    marked = [
        ratings.SafetyRating(row.turn, row.rater, row.model, row.points, row.risk, row.turns)
        for row in quality.marked(session)
    ]
    try:
        scale = bradley_terry.fit(ratings.games(rated, how), rng)
    except CannotBeComputed as error:
        scale = {"why": str(error)}
    return {
        "campaigns": [vars(row) for row in found],
        "campaign": vars(chosen) if chosen else None,
        "how": how,
        "weights": weights,
        "ratings": len(rated),
        "pairs": ratings.pairs(rated, rng, how, weights),
        "scale": scale,
        "safety": ratings.safety(marked, rng),
    }


def measure(
    session: Session, kept: Kept, ruler: Ruler, judged: Iterable[Judged]
) -> dict[int, Measured]:
    """What the judged items measure; only those that are not known yet are read."""
    items = {row.item for row in judged}
    unknown = [item for item in items if (ruler.name, item) not in kept.items]
    for item, one in quality.shown(session, unknown).items():
        kept.items[ruler.name, item] = measured(one, ruler.count)
    return {item: kept.items[ruler.name, item] for item in items}


def measured(one: Shown, count: Callable[[str], int]) -> Measured:
    """The size of an item's texts, and who wrote its answers."""
    dialog = Dialog.from_json(one.dialog)
    texts = [str(answer["text"]) for answer in one.answers]
    first, second = (len(text.split()) for text in texts)
    writers = tuple(
        (str(a.get("model") or ""), str(a.get("version") or ""), a.get("temperature"))
        for a in one.answers
    )
    asked = sum(len(message.content.split()) for message in dialog.messages)
    size = drift.size(dialog, texts, count)
    return Measured((first, second), asked, size, one.category, writers)


def judgement(row: Judged, known: dict[int, Measured]) -> Judgement:
    """A record of the store as one of the evaluation."""
    return Judgement(
        id=row.id,
        item=row.item,
        annotator=row.annotator,
        batch=row.batch,
        chosen=row.chosen,
        strength=row.strength,
        safety=row.safety,
        rating=row.rating,
        swapped=row.swapped,
        seconds=row.seconds,
        words=known[row.item].words,
        expected=row.expected,
        gold=row.gold,
    )


def _apart(
    session: Session, judgements: Sequence[Judgement], names: dict[int, str]
) -> list[dict[str, Any]]:
    found = disagreements(judgements)
    texts = quality.shown(session, (row["item"] for row in found))
    for row in found:
        one = texts[row["item"]]
        row["prompt"] = Dialog.from_json(one.dialog).last.content[:200]
        row["category"] = one.category
        row["grades"] = [
            {"name": names[who], "grade": grade} for who, grade in row["grades"].items()
        ]
    return found


def _ratings(judged: Sequence[Judged], known: dict[int, Measured]) -> list[ratings.Rating]:
    """The evaluation's ratings, with a name for each version; an answer against itself is none."""
    called = ratings.called({writer for row in judged for writer in known[row.item].writers})
    found = []
    for row in judged:
        one = known[row.item]
        first, second = (called[writer] for writer in one.writers)
        if row.rating is not None and first != second:
            facts = (one.category, one.size.turns, one.asked)
            found.append(ratings.Rating(row.item, row.annotator, first, second, row.rating, *facts))
    return found
