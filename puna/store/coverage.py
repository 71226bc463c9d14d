"""What red teaming has covered: the work of each attempt, and the matrix of risk by vector."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.attacks import STATES
from puna.store.severities import VIOLATES, counted
from puna.store.tables import Attack, Campaign, Turn

THIN = 0.5  # a cell with less than this share of a cell's mean of prompts is thin


@dataclass(frozen=True)
class Work:
    """One attempt in numbers. A prompt violates if an answer to it does."""

    attack_id: int
    campaign_id: int
    account_id: int
    round: int
    risk: str
    vector: str
    model: str
    version: str  # the model's fingerprint when it answered first; empty: no answer
    hours: float
    prompts: int
    answers: int
    marked: int  # prompts whose answer somebody judged
    violating: int


@dataclass(frozen=True)
class Cell:
    """A risk by a vector: how much was tried, and how much of it got through."""

    risk: str
    vector: str
    attempts: int
    people: int
    hours: float
    prompts: int
    marked: int
    violating: int
    thin: bool

    @property
    def share(self) -> float | None:
        """Violating prompts among the prompts with a marked answer; None: there is none."""
        return self.violating / self.marked if self.marked else None

    def to_json(self) -> dict[str, Any]:
        """The fields and the share."""
        return vars(self) | {"share": self.share}


def work(session: Session, campaign_id: int | None = None) -> list[Work]:
    """Every attempt of a campaign (None: of all), in numbers, in the order in which they began."""
    query = select(Attack).order_by(Attack.id)
    if campaign_id is not None:
        query = query.where(Attack.campaign_id == campaign_id)
    attacks = list(session.scalars(query))
    severities = counted(session, attacks)
    turns: dict[int, list[Turn]] = defaultdict(list)
    spoken = select(Turn).join(Attack, Attack.conversation_id == Turn.conversation_id)
    if campaign_id is not None:
        spoken = spoken.where(Attack.campaign_id == campaign_id)
    for turn in session.scalars(spoken.order_by(Turn.id)):
        turns[turn.conversation_id].append(turn)
    found = []
    for attack in attacks:
        said = turns[attack.conversation_id]
        answers = [t for t in said if t.role == "assistant" and t.state in STATES]
        marks = {t.id: severities[t.id].points for t in answers if t.id in severities}
        prompts = {t.parent_id for t in answers if marks.get(t.id, 5) <= VIOLATES}
        found.append(
            Work(
                attack.id,
                attack.campaign_id,
                attack.account_id,
                attack.round,
                attack.risk,
                attack.vector,
                attack.model,
                answers[0].version if answers else "",
                attack.seconds / 3600,
                sum(t.role == "user" for t in said),
                len(answers),
                len({t.parent_id for t in answers if t.id in marks}),
                len(prompts),
            )
        )
    return found


def matrix(campaign: Campaign, done: Iterable[Work]) -> list[Cell]:
    """The cells of a campaign, risk by risk, the empty ones too."""
    by_cell: dict[tuple[str, str], list[Work]] = defaultdict(list)
    for one in done:
        by_cell[one.risk, one.vector].append(one)
    risks, vectors = campaign.settings["risks"], campaign.settings["vectors"]
    names = [(risk, vector) for risk in risks for vector in vectors]
    mean = sum(one.prompts for name in names for one in by_cell[name]) / max(len(names), 1)
    return [_cell(name, by_cell[name], mean) for name in names]


def suggestions(cells: Sequence[Cell], count: int = 3) -> list[Cell]:
    """Where to try next: the thinnest cells, of equally thin ones those that gave way most.

    One after the other, so that they spread over risks and vectors.
    """
    left, found = [cell for cell in cells if cell.thin], list[Cell]()
    while left and len(found) < count:
        best = min(left, key=lambda cell: (cell.prompts, _met(cell, found), -(cell.share or 0.0)))
        left.remove(best)
        found.append(best)
    return found


def _met(cell: Cell, found: Sequence[Cell]) -> int:
    return sum((cell.risk == other.risk) + (cell.vector == other.vector) for other in found)


def _cell(name: tuple[str, str], done: Sequence[Work], mean: float) -> Cell:
    prompts = sum(one.prompts for one in done)
    return Cell(
        *name,
        attempts=len(done),
        people=len({one.account_id for one in done}),
        hours=sum(one.hours for one in done),
        prompts=prompts,
        marked=sum(one.marked for one in done),
        violating=sum(one.violating for one in done),
        thin=prompts == 0 or prompts < THIN * mean,
    )
