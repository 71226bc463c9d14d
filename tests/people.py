"""What people leave in a store, for tests: campaigns that were judged, conversations, attacks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from puna.store.store import now
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Batch,
    Campaign,
    Conversation,
    Draft,
    Item,
    Severity,
    Task,
    Thumb,
    Turn,
)

VARIANTS = (
    {"model": "v2", "version": "f2", "temperature": 0.7},
    {"model": "v1", "version": "f1", "temperature": 1.0},
)


def a_person(session: Session, name: str, role: str = "annotator") -> int:
    """An account."""
    account = Account(name=name, folded=name.casefold(), role=role, created=now())
    session.add(account)
    session.flush()
    return account.id


@dataclass
class Work:
    """A campaign with one batch, to which items and judgements are added."""

    session: Session
    by: int
    kind: str = "preference"
    aim: str = "helpfulness"
    name: str = "teas"
    campaign: Campaign = field(init=False)
    batch: Batch = field(init=False)

    def __post_init__(self) -> None:
        rules: dict[str, Any] = {"overlap": 1, "quota": 0, "lease_seconds": 60.0, "max_turns": 1}
        rules |= {"own_prompts": False, "gold_share": 0.0, "pass_mark": 0.0, "guidelines": ""}
        self.campaign = Campaign(
            name=self.name,
            kind=self.kind,
            aim=self.aim,
            state="open",
            variants=[],
            settings={},
            by_id=self.by,
            created=now(),
            **rules,
        )
        self.session.add(self.campaign)
        self.session.flush()
        self.batch = Batch(campaign_id=self.campaign.id, number=1, created=now())
        self.session.add(self.batch)
        self.session.flush()

    @classmethod
    def found(cls, session: Session) -> "Work":
        """The one campaign of a store, with its one batch."""
        work = cls.__new__(cls)
        work.session = session
        work.campaign = session.scalars(select(Campaign)).one()
        work.batch = session.scalars(select(Batch)).one()
        return work

    def item(
        self,
        prompt: str = "Which tea?",
        answers: Sequence[str] = ("Green tea.", "No idea."),
        purpose: str = "normal",
        only: int | None = None,
    ) -> Item:
        """A conversation of one message, with two answers."""
        item = Item(
            campaign_id=self.campaign.id,
            batch_id=self.batch.id,
            purpose=purpose,
            state="ready",
            dialog={"messages": [{"role": "user", "content": prompt}], "id": "", "tags": {}},
            answers=[{"text": a, **v} for a, v in zip(answers, VARIANTS, strict=True)],
            expected={},
            category="",
            wanted=1,
            taken=0,
            only_id=only,
            failure="",
            created=now(),
        )
        self.session.add(item)
        self.session.flush()
        return item

    def judge(self, item: Item, by: int, chosen: int | None = 0, **values: Any) -> Annotation:
        """A judgement that counts, unless `values` say otherwise."""
        task = Task(
            item_id=item.id,
            account_id=by,
            state="done",
            swapped=False,
            leased=now(),
            expires=now() + 60,
            ended=now(),
            reason="",
        )
        self.session.add(task)
        self.session.flush()
        item.taken += 1
        given: dict[str, Any] = {"strength": "better", "safety": None, "rating": None}
        given |= {"comment": "", "undone": None, "review": "pending", "swapped": False} | values
        annotation = Annotation(
            task_id=task.id,
            item_id=item.id,
            campaign_id=item.campaign_id,
            batch_id=item.batch_id,
            account_id=by,
            chosen=chosen,
            seconds=3.0,
            created=now(),
            **given,
        )
        self.session.add(annotation)
        self.session.flush()
        return annotation


def a_talk(session: Session, by: int, system: str = "", purpose: str = "chat") -> Conversation:
    """A conversation without messages."""
    talk = Conversation(
        account_id=by,
        purpose=purpose,
        title="a talk",
        system=system,
        model="v2",
        settings={},
        leaf_id=None,
        created=now(),
        changed=now(),
        deleted=None,
    )
    session.add(talk)
    session.flush()
    return talk


def a_turn(
    session: Session,
    talk: Conversation,
    content: str,
    parent: Turn | None = None,
    state: str = "complete",
) -> Turn:
    """The next message: the user's after an answer or at first, else an answer."""
    answers = parent is not None and parent.role == "user"
    turn = Turn(
        conversation_id=talk.id,
        parent_id=parent.id if parent else None,
        role="assistant" if answers else "user",
        content=content,
        state=state,
        model="v2" if answers else "",
        version="f2" if answers else "",
        settings={"temperature": 0.7} if answers else {},
        figures={},
        created=now(),
    )
    session.add(turn)
    session.flush()
    talk.leaf_id = turn.id
    return turn


def a_thumb(session: Session, turn: Turn, by: int, up: bool, rewrite: str = "") -> Thumb:
    """What somebody thought of an answer."""
    thumb = Thumb(
        turn_id=turn.id,
        account_id=by,
        up=up,
        reasons=[],
        comment="",
        rewrite=rewrite,
        created=now(),
    )
    session.add(thumb)
    session.flush()
    return thumb


def an_attack(
    session: Session, work: Work, by: int, reviewer: int, prompt: str, answer: str, safe: str
) -> Draft:
    """A violation that was found, rated, and answered safely with a reviewer's approval."""
    talk = a_talk(session, by, purpose="redteam")
    asked = a_turn(session, talk, prompt)
    said = a_turn(session, talk, answer, asked)
    attack = Attack(
        campaign_id=work.campaign.id,
        account_id=by,
        conversation_id=talk.id,
        round=1,
        risk="crime",
        vector="logic",
        model="v2",
        seconds=60.0,
        running=None,
        acted=now(),
        started=now(),
        ended=now(),
    )
    session.add(attack)
    session.flush()
    severity = Severity(
        attack_id=attack.id,
        turn_id=said.id,
        account_id=reviewer,
        points=1,
        note="it says how",
        created=now(),
    )
    session.add(severity)
    session.flush()
    draft = Draft(
        severity_id=severity.id,
        turn_id=said.id,
        account_id=by,
        dialog={"messages": [{"role": "user", "content": prompt}], "id": "", "tags": {}},
        answer=safe,
        state="approved",
        risk="crime",
        vector="logic",
        reason="",
        by_id=reviewer,
        created=now(),
        changed=now(),
    )
    session.add(draft)
    session.flush()
    return draft
