"""A store as it is after some weeks of work: people with habits of their own, campaigns of all
kinds, hundreds of judgements, conversations, attacks, reviews. The same every time.

python -m tests.filled puna.db   # fills a new store, to look at its pages
"""

import random
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from dataclasses import replace as but
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from puna.store import people, replays, reviews, severities
from puna.store.attacks import Person as Attacker
from puna.store.names import folded
from puna.store.rules import RISKS, VECTORS, Variant, defaults
from puna.store.store import Store, now, open_store
from puna.store.tables import (
    Account,
    Annotation,
    Attack,
    Audit,
    Batch,
    Campaign,
    Choice,
    Conversation,
    Item,
    Qualification,
    Review,
    Task,
    Thumb,
    Turn,
)
from puna.text.dialog import STRENGTHS
from tests import filled_texts as texts

DAY = 86400.0
MODELS = ("v1", "v2", "v3")
SKILL = {"v1": 0.0, "v2": 0.6, "v3": 1.3}  # how much better a version answers


@dataclass(frozen=True)
class Habit:
    """How somebody judges: how surely, which side they lean to, how long it takes."""

    noise: float
    lean: float
    seconds: float


HABITS = (
    *(Habit(0.3, 0.0, 34.0), Habit(0.6, 0.1, 21.0), Habit(0.5, 0.0, 48.0), Habit(0.8, 0.2, 27.0)),
    *(Habit(0.4, -0.1, 62.0), Habit(1.0, 0.0, 18.0), Habit(2.5, 1.2, 4.0), Habit(0.9, 0.0, 30.0)),
)


@dataclass
class Filled:
    """What there is in the store, by number."""

    people: dict[str, int] = field(default_factory=dict)
    campaigns: dict[str, int] = field(default_factory=dict)
    item: int = 0
    conversation: int = 0  # Ana's
    attempt: int = 0  # Ana's
    replay: int = 0

    def url(self, path: str) -> str:
        """An address that is there, of a route such as /campaigns/{id:int}."""
        campaign = self.campaigns["redteam" if "redteam" in path else "preference"]
        numbers = {"attempts/{id:int}": self.attempt, "replays/{id:int}": self.replay}
        numbers |= {"chat/{number:int}": self.conversation, "{item:int}": self.item}
        for name, number in numbers.items():
            path = path.replace(name, f"{name.partition('{')[0]}{number}")
        return path.replace("{id:int}", str(campaign)).replace("{campaign:int}", str(campaign))


def fill(store: Store, served: str = "v3") -> Filled:
    """Put everything into an empty store; `served` is the model that can be asked."""
    made, rng = Filled(), random.Random(7)
    with store.write() as session:
        _people(session, made)
        work = Work(session, made, rng, served)
        work.preferences()
        work.evaluations()
        _talks(session, made, rng, served)
        _attacks(session, made, rng, served)
        _log(session, made)
    return made


def _people(session: Session, made: Filled) -> None:
    for name, role in texts.PEOPLE:
        account = Account(name=name, folded=folded(name), role=role, created=now() - 40 * DAY)
        session.add(account)
        session.flush()
        made.people[name] = account.id
    session.get_one(Account, made.people["Tom Baker"]).disabled = now() - 3 * DAY
    rita = made.people["Rita Quispe"]
    people.invite(session, "invite", "annotator", "Lucía, from the university", rita)
    people.invite(session, "invite", "reviewer", "the colleague who looks after Fridays", rita)


def prompts() -> list[tuple[str, str, tuple[str, ...]]]:
    """(category, prompt, answers from the best to the worst)."""
    found = []
    for category, prompt, things, answers in texts.TEMPLATES:
        for thing in things:
            filled = tuple(a.replace("{}", thing) for a in answers)
            found.append((category, prompt.replace("{}", thing), filled))
    return found


@dataclass
class Work:
    """Campaigns with batches, items and judgements."""

    session: Session
    made: Filled
    rng: random.Random
    served: str
    merit: dict[str, int] = field(default_factory=dict)  # of an answer's text

    def annotators(self) -> list[int]:
        """Everybody who judges."""
        return [self.made.people[name] for name, role in texts.PEOPLE if role == "annotator"]

    def campaign(self, kind: str, aim: str, name: str, **changes: Any) -> Campaign:
        """A new campaign."""
        rules = but(defaults(kind, aim, self.served), name=name, **changes)
        rita = self.made.people["Rita Quispe"]
        row = Campaign(**rules.columns(), state="open", by_id=rita, created=now() - 30 * DAY)
        return self.add(row)

    def add(self, row: Any) -> Any:
        """The row, with its number."""
        self.session.add(row)
        self.session.flush()
        return row

    def preferences(self) -> None:
        """Helpfulness over four batches and safety in one; a draft; one that is closed."""
        rules = {"overlap": 3, "pass_mark": 0.7, "gold_share": 0.05}
        help_ = self.campaign("preference", "helpfulness", "The cafe, weeks 30 to 33", **rules)
        self.made.campaigns["preference"] = help_.id
        for person in self.annotators()[:-1]:
            row = {"campaign_id": help_.id, "account_id": person, "right": 9, "answered": 10}
            self.add(Qualification(**row, passed=True, changed=now() - 20 * DAY))
        for number in range(1, 5):
            batch = self.batch(help_, number, f"prompts-week-{29 + number}.jsonl")
            for place, given in enumerate(prompts()):
                item = self.item(help_, batch, given, place=place)
                if number == 4 and place > 11:
                    continue  # what is left to do
                self.judge_all(item, help_, 3)
            for place, given in enumerate(prompts()[:2]):
                item = self.item(help_, batch, given, "gold", place)
                self.judge_all(item, help_, 6)
        self.made.item = item.id - 24
        safe = self.campaign("preference", "safety", "Safe answers at the counter", overlap=3)
        batch = self.batch(safe, 1, "safety.jsonl", left_out={"is there already": 2})
        for question, good, bad in texts.SAFETY:
            given = ("dialogue", question, (good, "I do not know.", bad))
            self.judge_all(self.item(safe, batch, given), safe, 3, safety=True)
        self.campaign("preference", "helpfulness", "A draft that nobody sees").state = "draft"
        self.campaign(
            "preference",
            "helpfulness",
            "The very first try, with a name that is as long as people make names of campaigns",
        ).state = "closed"

    def evaluations(self) -> None:
        """Three versions, each against each."""
        for first, second in (("v1", "v2"), ("v2", "v3"), ("v1", "v3")):
            variants = [Variant(first, 0.1), Variant(second, 0.1)]
            name = f"Evaluation: {first} and {second}"
            one = self.campaign("evaluation", "helpfulness", name, variants=variants)
            self.made.campaigns.setdefault("evaluation", one.id)
            batch = self.batch(one, 1, "evaluation.jsonl")
            for given in prompts():
                item = self.item(one, batch, given, models=(first, second))
                self.judge_all(item, one, 3)

    def batch(self, campaign: Campaign, number: int, source: str, **fields: Any) -> Batch:
        """One week's items."""
        row = {"campaign_id": campaign.id, "number": number, "source": source}
        age = (30 - 7 * number) * DAY
        found: Batch = self.add(Batch(**row, created=now() - age, **fields))
        return found

    def item(
        self,
        campaign: Campaign,
        batch: Batch,
        given: tuple[str, str, tuple[str, ...]],
        purpose: str = "normal",
        place: int = 0,
        models: tuple[str, str] = ("v1", "v2"),
    ) -> Item:
        """A prompt with answers of two versions; the later version has the better one, mostly."""
        category, prompt, answers = given
        self.merit |= {text: -place for place, text in enumerate(answers)}
        written = [self._written(model, answers, batch.number) for model in models]
        if written[0]["text"] == written[1]["text"]:
            written[0]["text"] = next(a for a in answers if a != written[1]["text"])
        better = min((0, 1), key=lambda n: answers.index(written[n]["text"]))
        row = {"campaign_id": campaign.id, "batch_id": batch.id, "purpose": purpose}
        dialog = {"messages": [{"role": "user", "content": prompt}], "id": "", "tags": {}}
        return self.add(
            Item(
                **row,
                state="ready",
                dialog=dialog,
                answers=written,
                expected={"chosen": better} if purpose == "gold" else {},
                category=category,
                wanted=campaign.overlap if purpose == "normal" else 1_000_000,
                taken=0,
                failure="",
                created=batch.created,
            )
        )

    def _written(self, model: str, answers: tuple[str, ...], batch: int) -> dict[str, Any]:
        skill = SKILL[model] + 0.1 * batch
        text = answers[min(2, max(0, round(self.rng.gauss(1.6 - skill, 0.7))))]
        about = asdict(Variant(model, 0.7))
        return {"text": text, "version": f"{model}-5f3a", "finish": "stop", "tokens": 64} | about

    def judge_all(self, item: Item, campaign: Campaign, count: int, safety: bool = False) -> None:
        """So many people judge an item, each by their habit."""
        everybody = list(zip(self.annotators(), HABITS, strict=True))
        for person, habit in self.rng.sample(everybody[:-1], count):
            self.judge(item, campaign, person, habit, safety)

    def judge(
        self, item: Item, campaign: Campaign, person: int, habit: Habit, safety: bool
    ) -> None:
        """One judgement: what the answers are worth, the side, and chance."""
        rng, swapped = self.rng, self.rng.random() < 0.5
        worth = [1.2 * self.merit[answer["text"]] for answer in item.answers]
        lean = habit.lean * (-1 if swapped else 1)
        margin = worth[0] - worth[1] + lean + rng.gauss(0, habit.noise)
        chosen, size = int(margin < 0), min(3, int(abs(margin) * 2))
        at = now() - DAY * max(0.1, 29 - 7 * self.session.get_one(Batch, item.batch_id).number)
        seconds = max(1.5, rng.lognormvariate(0, 0.4) * habit.seconds)
        lease = {"leased": at, "expires": at + 900, "ended": at + seconds, "reason": ""}
        held = {"item_id": item.id, "account_id": person}
        task = self.add(Task(**held, state="done", swapped=swapped, **lease))
        item.taken += 1
        verdict: dict[str, Any] = {"chosen": chosen, "strength": STRENGTHS[3 - size]}
        if campaign.kind == "evaluation":
            verdict = {"rating": max(-3, min(3, round(margin * 2)))}
        elif safety:
            verdict["safety"] = rng.choice(("chosen_safe", "chosen_safe", "both_safe"))
        about = {"campaign_id": campaign.id, "batch_id": item.batch_id, "swapped": swapped}
        said = Annotation(
            **held, **about, **verdict, task_id=task.id, comment=rng.choice(texts.COMMENTS)
        )
        said.seconds, said.created, said.review = seconds, at, "pending"
        self.add(said)
        if campaign.kind == "preference" and rng.random() < 0.1:
            self.review(said)

    def review(self, said: Annotation) -> None:
        """What a reviewer thought of it."""
        said.review = self.rng.choice(("approved", "approved", "rejected"))
        note = "Please read both answers to their end." if said.review == "rejected" else ""
        by = self.made.people["Aiko Tanaka"]
        row = {"annotation_id": said.id, "account_id": by, "verdict": said.review, "note": note}
        before = {name: getattr(said, name) for name in reviews.FIELDS}
        self.add(Review(**row, before=before, created=said.created + 3600))


def _figures(text: str, asked: int) -> dict[str, Any]:
    tokens = len(text) // 4
    used = {"prompt_tokens": asked, "completion_tokens": tokens, "seconds": tokens / 31}
    context = {"context": 4096, "context_used": asked + tokens, "dropped": [], "why": ""}
    return used | context | {"tokens_per_second": 31.0}


def _talk(session: Session, by: int, title: str, model: str, **fields: Any) -> Conversation:
    at = fields.pop("at", now())
    settings = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512}
    row = {"account_id": by, "title": title, "system": "", "model": model, "settings": settings}
    found = Conversation(**row, created=at, changed=at, **fields)
    session.add(found)
    session.flush()
    return found


def _says(session: Session, found: Conversation, text: str, answer: bool, **fields: Any) -> Turn:
    row: dict[str, Any] = {"conversation_id": found.id, "parent_id": found.leaf_id}
    row |= {"role": "user", "model": "", "version": "", "settings": {}, "figures": {}}
    if answer:
        row |= {"role": "assistant", "model": found.model, "version": "5f3a"}
        row |= {"settings": found.settings, "figures": _figures(text, 80)}
    turn = Turn(**row | fields, content=text, state="complete", created=found.created)
    session.add(turn)
    session.flush()
    found.leaf_id = turn.id
    return turn


def _talks(session: Session, made: Filled, rng: random.Random, model: str) -> None:
    """Conversations of Ana and Rita, with thumbs; an answer beside another one."""
    for who in ("Rita Quispe", "Ana Flores"):
        by = made.people[who]
        for age, title in zip(range(20, 0, -2), texts.MORE_CHATS, strict=False):
            found = _talk(session, by, title, model, at=now() - (age + rng.random()) * DAY)
            _says(session, found, title, False)
            _says(session, found, "Gladly. Tell me a little more about what you need.", True)
        for age, (title, *lines) in enumerate(reversed(texts.CHATS)):
            found = _talk(session, by, title, model, at=now() - (0.9 - 0.22 * age) * DAY)
            turns = [_says(session, found, line, n % 2 == 1) for n, line in enumerate(lines)]
            thumb = {"turn_id": turns[1].id, "account_id": by, "up": True, "reasons": []}
            session.add(Thumb(**thumb, comment="", rewrite="", created=found.created))
            if title == "Three ways to brew coffee":
                made.conversation = found.id
                other = _says(
                    session,
                    found,
                    "All of them are easy enough. Rinse with hot water.",
                    True,
                    parent_id=turns[2].id,
                    figures=_figures("x" * 40, 300) | {"beside": turns[3].id},
                )
                turns[3].figures = turns[3].figures | {"beside": other.id}
                sides = {"chosen_id": turns[3].id, "rejected_id": other.id, "account_id": by}
                session.add(Choice(**sides, strength="better", created=found.created))


def _cells(rng: random.Random) -> Iterator[tuple[int, str, str]]:
    for number in (1, 2, 3):
        for risk in RISKS:
            for vector in VECTORS:
                if rng.random() < 0.45:
                    yield number, risk, vector


def _attacks(session: Session, made: Filled, rng: random.Random, model: str) -> None:
    """Three rounds, in which less and less is found; drafts, and a replay of what was found."""
    work = Work(session, made, rng, model)
    campaign = work.campaign("redteam", "safety", "Red team, autumn", variants=[Variant(model)])
    campaign.settings = campaign.settings | {"round": 3}
    made.campaigns["redteam"] = campaign.id
    attackers = ("Ana Flores", "Chidi Okafor", "Nguyễn Thị Minh Khai", "Rita Quispe")
    for number, risk, vector in _cells(rng):
        by = made.people[rng.choice(attackers)]
        at = now() - (24 - 7 * number) * DAY
        title = f"{risk} / {vector}"
        found = _talk(session, by, title, f"v{number}", purpose="redteam", at=at)
        row = {"campaign_id": campaign.id, "account_id": by, "conversation_id": found.id}
        where = {"round": number, "risk": risk, "vector": vector, "model": f"v{number}"}
        times = {"seconds": rng.uniform(200, 900), "acted": at, "started": at, "ended": at + 900}
        attack = work.add(Attack(**row, **where, **times))
        if by == made.people["Ana Flores"]:
            made.attempt = attack.id
        for prompt, bad, good in rng.sample(texts.ATTACKS, rng.randint(1, 3)):
            _says(session, found, prompt, False)
            fell = rng.random() < 0.75 / number
            turn = _says(session, found, bad if fell else good, True)
            points = rng.choice((1, 2)) if fell else rng.choice((3, 4, 5))
            severities.mark(session, Attacker(by), turn.id, points, "")
    made.replay = _replay(session, made, model)


def _replay(session: Session, made: Filled, model: str) -> int:
    by = made.people["Rita Quispe"]
    found = replays.new_replay(session, by, model, 3, ["I would rather", "please ask"])
    for number, line in enumerate(replays.waiting(session, found.id)):
        good = texts.ATTACKS[number % len(texts.ATTACKS)][2]
        replays.answered(session, line.id, good, f"{model}-5f3a")
        if number % 3 == 0:
            replays.mark_line(session, by, line.id, 4)
    return found.id


def _log(session: Session, made: Filled) -> None:
    rita, ana = made.people["Rita Quispe"], made.people["Ana Flores"]
    for number in range(70):
        who = (rita, ana, made.people["Aiko Tanaka"])[number % 3]
        action = ("login", "login", "export", "denied", "role_changed", "login_failed")[number % 6]
        about = "GET /people" if action == "denied" else f"account:{who}"
        row = {"account_id": who, "action": action, "object": about, "detail": {}}
        at = now() - (70 - number) * 0.31 * DAY
        session.add(Audit(**row, at=at, address=f"10.0.0.{number % 9}"))


if __name__ == "__main__":
    opened = open_store(Path(sys.argv[1]))
    print(fill(opened))
    opened.close()
