"""Red teaming: attempts on a risk by a vector, with a timer that counts only work (section 4.3).

The timer is the store's. Its page says every few seconds that somebody is there (`beat`); time is
counted up to the last beat, never more than `BEAT_SECONDS` at once, and not for longer than
`IDLE_SECONDS` after the last thing that the person did and the server saw. A person has one running
timer. So an open tab, a second tab, a sleeping machine or a clock that was set add nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import now
from puna.store.tables import Attack, Campaign, Conversation, Turn

BEAT_SECONDS = 45.0  # at most so much is counted between two signs of life
IDLE_SECONDS = 300.0  # without an action of the person, until the timer stands
DAY_SECONDS = 16 * 3600.0  # how far back the work of a day goes
STATES = ("complete", "length", "stopped")  # of an answer that can be judged


@dataclass(frozen=True)
class Person:
    """Who asks, and whether they may see the attempts of others."""

    id: int
    reviews: bool = False


@dataclass(frozen=True)
class Said:
    """A user's message that waits for an answer, and how the model is to be asked."""

    attack_id: int
    turn_id: int
    model: str
    messages: list[dict[str, str]]
    settings: dict[str, Any]


def open_campaigns(session: Session) -> list[Campaign]:
    """The red-team campaigns that are open, the newest first."""
    found = select(Campaign).where(Campaign.kind == "redteam", Campaign.state == "open")
    return list(session.scalars(found.order_by(Campaign.id.desc())))


def round_of(campaign: Campaign) -> int:
    """The round that a campaign is in, as its settings say."""
    return int(campaign.settings.get("round", 1))


def start(session: Session, person_id: int, campaign_id: int, risk: str, vector: str) -> Attack:
    """A new attempt, its timer running. One without a message in the same cell is taken up again.

    Refused: the campaign has no such cell. Conflict: closed, quota used up.
    """
    campaign = _open_campaign(session, campaign_id)
    for field, value in (("risk", risk), ("vector", vector)):
        if value not in campaign.settings.get(f"{field}s", ()):
            raise Refused(field, f"{value!r} is none of the campaign's {field}s")
    own = select(Attack).where(Attack.account_id == person_id, Attack.campaign_id == campaign_id)
    attacks = list(session.scalars(own.order_by(Attack.id)))
    for attack in attacks:
        same = (attack.risk, attack.vector, attack.ended) == (risk, vector, None)
        if same and last_turn(session, attack) is None:
            return resume(session, person_id, attack.id)
    if campaign.quota and len(attacks) >= campaign.quota:
        raise Conflict(f"you have made all {campaign.quota} attempts of this campaign")
    variant = _variant(campaign, attacks)
    talk = _conversation(session, person_id, variant, f"{risk} / {vector}")
    attack = Attack(
        campaign_id=campaign_id,
        account_id=person_id,
        conversation_id=talk.id,
        round=round_of(campaign),
        risk=risk,
        vector=vector,
        model=talk.model,
        seconds=0.0,
        acted=now(),
        started=now(),
    )
    session.add(attack)
    session.flush()
    return resume(session, person_id, attack.id)


def resume(session: Session, person_id: int, attack_id: int) -> Attack:
    """Let the timer run (again). The person's other timers stop."""
    attack = _working(session, person_id, attack_id)
    at = now()
    others = select(Attack).where(Attack.account_id == person_id, Attack.running.is_not(None))
    for other in session.scalars(others.where(Attack.id != attack_id)):
        _stop(other, at)
    _count(attack, at)
    attack.running = attack.acted = at
    return attack


def beat(session: Session, person_id: int, attack_id: int, active: bool) -> Attack:
    """A page says that somebody is there (`active`), or that nobody has moved for a while.

    A timer that stands is not started by this: only `resume` and what the person does start it.
    """
    attack = _working(session, person_id, attack_id)
    at = now()
    if not active:
        attack.running = None  # the silent time before it was said is not counted
        return attack
    _count(attack, at)
    if at - attack.acted > IDLE_SECONDS:
        attack.running = None
    return attack


def pause(session: Session, person_id: int, attack_id: int) -> Attack:
    """Stop the timer: the person takes a break."""
    attack = _working(session, person_id, attack_id)
    _stop(attack, now())
    return attack


def end(session: Session, person_id: int, attack_id: int) -> Attack:
    """The attempt is over; its answers can still be judged. A second time changes nothing."""
    attack = _own(session, person_id, attack_id)
    if attack.ended is None:
        _stop(attack, now())
        attack.ended = now()
    return attack


def say(session: Session, person_id: int, attack_id: int, after: int, text: str | None) -> Said:
    """Add the person's message after turn `after` (0: the first), or ask the last one again.

    Conflict: the conversation has gone on since the page was made, so a request that is sent twice
    counts once. Refused: nothing is said.
    """
    attack = _working(session, person_id, attack_id)
    campaign = _open_campaign(session, attack.campaign_id)
    last = last_turn(session, attack)
    if after != (last.id if last else 0):
        raise Conflict("the conversation has gone on in another tab: load it again")
    if text is None:
        if last is None or last.role != "user":
            raise Refused("text", "expected a message")
        turn = last
    else:
        if not text.strip():
            raise Refused("text", "expected a message")
        if last is not None and last.role == "user":
            raise Conflict("your last message has no answer yet: ask for it again")
        if len(turns(session, attack)) >= 2 * campaign.max_turns:
            raise Conflict(f"an attempt has {campaign.max_turns} messages here: begin a new one")
        turn = _add(session, attack, last, "user", text)
    resume(session, person_id, attack_id)
    talk = session.get_one(Conversation, attack.conversation_id)
    messages = messages_to(session, turn.id)
    return Said(attack_id, turn.id, attack.model, messages, dict(talk.settings))


def keep_answer(
    session: Session, said: Said, text: str, state: str, version: str, figures: Mapping[str, Any]
) -> Turn | None:
    """The model's answer, whole or as far as it came; None if there is none to keep.

    What comes when the message has an answer already is dropped.
    """
    attack = session.get_one(Attack, said.attack_id, with_for_update=True)
    last = last_turn(session, attack)
    if last is None or last.id != said.turn_id or not text:
        return None
    return _add(session, attack, last, "assistant", text, state, version, said.settings, figures)


def seen(session: Session, person: Person, attack_id: int) -> Attack:
    """An attempt that the person may look at: their own; any for who reviews. Missing: not."""
    attack = session.get(Attack, attack_id)
    if attack is None or not (person.reviews or attack.account_id == person.id):
        raise Missing
    return attack


def turns(session: Session, attack: Attack) -> list[Turn]:
    """The conversation of an attempt, from its beginning."""
    found = select(Turn).where(Turn.conversation_id == attack.conversation_id)
    return list(session.scalars(found.order_by(Turn.id)))


def last_turn(session: Session, attack: Attack) -> Turn | None:
    """The last message of an attempt."""
    found = select(Turn).where(Turn.conversation_id == attack.conversation_id)
    return session.scalars(found.order_by(Turn.id.desc()).limit(1)).first()


def messages_to(session: Session, turn_id: int) -> list[dict[str, str]]:
    """What is said up to a turn, that included, with the system prompt if there is one."""
    turn = session.get_one(Turn, turn_id)
    talk = session.get_one(Conversation, turn.conversation_id)
    found = [{"role": turn.role, "content": turn.content}]
    while turn.parent_id is not None:
        turn = session.get_one(Turn, turn.parent_id)
        found.append({"role": turn.role, "content": turn.content})
    head = [{"role": "system", "content": talk.system}] if talk.system else []
    return head + found[::-1]


def own_attacks(session: Session, person_id: int, campaign_id: int) -> list[Attack]:
    """A person's attempts in a campaign, the newest first."""
    found = select(Attack).where(Attack.account_id == person_id, Attack.campaign_id == campaign_id)
    return list(session.scalars(found.order_by(Attack.id.desc())))


def worked_today(session: Session, person_id: int) -> float:
    """Seconds of this work that a person did in attempts of the last hours."""
    total = select(func.sum(Attack.seconds)).where(
        Attack.account_id == person_id, Attack.started > now() - DAY_SECONDS
    )
    return float(session.scalar(total) or 0.0)


def touch(attack: Attack) -> None:
    """The person did something: time counts on, and the timer runs if it stood by itself."""
    if attack.ended is None:
        _count(attack, now())
        attack.running = attack.acted = now()


def _count(attack: Attack, at: float) -> None:
    if attack.running is not None:
        until = min(at, attack.acted + IDLE_SECONDS)
        attack.seconds += min(max(until - attack.running, 0.0), BEAT_SECONDS)
        attack.running = at


def _stop(attack: Attack, at: float) -> None:
    _count(attack, at)
    attack.running = None


def _own(session: Session, person_id: int, attack_id: int) -> Attack:
    attack = session.get(Attack, attack_id, with_for_update=True)
    if attack is None or attack.account_id != person_id:
        raise Missing
    return attack


def _working(session: Session, person_id: int, attack_id: int) -> Attack:
    attack = _own(session, person_id, attack_id)
    if attack.ended is not None:
        raise Conflict("this attempt has ended")
    return attack


def _open_campaign(session: Session, campaign_id: int) -> Campaign:
    campaign = session.get(Campaign, campaign_id)
    if campaign is None or campaign.kind != "redteam" or campaign.state == "draft":
        raise Missing
    if campaign.state != "open":
        raise Conflict("this campaign is closed")
    return campaign


def _variant(campaign: Campaign, attacks: list[Attack]) -> dict[str, Any]:
    """The variants in turn, so that each person meets all of them equally often."""
    if not campaign.variants:
        raise Conflict("this campaign names no model: an admin sets its variants")
    variant: dict[str, Any] = campaign.variants[len(attacks) % len(campaign.variants)]
    return variant


def _conversation(
    session: Session, person_id: int, variant: Mapping[str, Any], title: str
) -> Conversation:
    names = ("temperature", "top_p", "max_tokens")
    talk = Conversation(
        account_id=person_id,
        purpose="redteam",
        title=title,
        system="",
        model=str(variant["model"]),
        settings={name: variant[name] for name in names if name in variant},
        created=now(),
        changed=now(),
    )
    session.add(talk)
    session.flush()
    return talk


def _add(
    session: Session,
    attack: Attack,
    last: Turn | None,
    role: str,
    text: str,
    state: str = "complete",
    version: str = "",
    settings: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | None = None,
) -> Turn:
    turn = Turn(
        conversation_id=attack.conversation_id,
        parent_id=last.id if last else None,
        role=role,
        content=text,
        state=state,
        model=attack.model if role == "assistant" else "",
        version=version,
        settings=dict(settings or {}),
        figures=dict(figures or {}),
        created=now(),
    )
    session.add(turn)
    session.flush()
    talk = session.get_one(Conversation, attack.conversation_id)
    talk.leaf_id, talk.changed = turn.id, now()
    return turn
