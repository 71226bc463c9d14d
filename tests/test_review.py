"""Reviews: which judgement comes next, what a verdict does, and what its annotator reads."""

import threading

import pytest

from puna.store import reviews
from puna.store.faults import Conflict, Missing, Refused
from puna.store.reviews import Verdict
from puna.store.store import Store, now
from puna.store.tables import Annotation, Audit, Desk, Item, Review
from tests.campaigns import ON_SQLITE, item_ids, judge, made, upload
from tests.pages import add_account

PAIRS = "\n".join(
    f'{{"prompt": "question {n}", "answers": ["tea {n}", "coffee {n}"]}}' for n in range(6)
)
GOLD = '{"prompt": "gold", "answers": ["right", "wrong"], "chosen": 0}'
ALL = {"review_share": 1.0}


class Room:
    """A campaign with ready items; Ada runs it, Ben and Cleo judge, Rita and Rob review."""

    def __init__(self, store: Store, **changes: object) -> None:
        self.store = store
        self.ada = add_account(store, "Ada", "admin")
        self.ben, self.cleo = add_account(store, "Ben"), add_account(store, "Cleo")
        self.rita = add_account(store, "Rita", "reviewer")
        self.rob = add_account(store, "Rob", "reviewer")
        changes = {"settings": ALL, "own_prompts": False, "overlap": 2} | changes
        self.campaign = made(store, self.ada, **changes)
        upload(store, self.ada, self.campaign, PAIRS)
        self.items = item_ids(store, self.campaign)

    def judge(self, item: int, who: int, chosen: int | None = 0, **fields: object) -> int:
        """A judgement about the item of that place."""
        with self.store.write() as session:
            return judge(session, self.items[item], who, chosen, **fields)

    def next(self, who: int | None = None) -> dict:
        """What lies before a reviewer next."""
        with self.store.write() as session:
            return reviews.next_review(session, who or self.rita) or {}

    def decide(self, number: int, verdict: str, who: int | None = None, **more: object) -> int:
        """A verdict."""
        with self.store.write() as session:
            given = Verdict(verdict, **more)  # type: ignore[arg-type]
            return reviews.decide(session, who or self.rita, number, given)

    def undo(self, who: int | None = None) -> int:
        """The last verdict is taken back."""
        with self.store.write() as session:
            return reviews.undo(session, who or self.rita)

    def annotation(self, number: int) -> Annotation:
        """A judgement as it is stored."""
        with self.store.read() as session:
            return session.get_one(Annotation, number)

    def taken(self, item: int) -> int:
        """How often an item counts as given away."""
        with self.store.read() as session:
            return session.get_one(Item, self.items[item]).taken


@pytest.fixture
def room(store: Store) -> Room:
    return Room(store)


def test_missed_gold_comes_first_then_disagreement_then_the_share(room: Room) -> None:
    plain = room.judge(0, room.ben)
    split = [room.judge(1, room.ben, 0), room.judge(1, room.cleo, 1)]
    upload(room.store, room.ada, room.campaign, GOLD, purpose="gold")
    room.items = item_ids(room.store, room.campaign)
    with room.store.read() as session:
        right = session.get_one(Item, room.items[6]).expected["chosen"]
    hit = room.judge(6, room.cleo, right)
    miss = room.judge(6, room.ben, 1 - right)
    found = []
    while given := room.next():
        found.append((given["why"], given["id"]))
        room.decide(given["id"], "approved")
    assert found[0] == ("gold", miss)
    # the two who judged the gold item differ about it, so the right answer is looked at too
    assert found[1:] == [
        ("disagreement", split[0]),
        ("disagreement", split[1]),
        ("disagreement", hit),
        ("share", plain),
    ]


def test_the_share_is_exact_over_a_thousand_ids_in_a_row() -> None:
    for share in (0.1, 0.25, 1.0):
        below = round(share * 1000)
        chosen = [number * reviews.SPREAD % 1000 < below for number in range(5001, 6001)]
        assert sum(chosen) == below


@ON_SQLITE
def test_a_campaign_with_a_share_of_0_is_not_reviewed(store: Store) -> None:
    room = Room(store, settings={"review_share": 0.0})
    room.judge(0, room.ben, 0)
    room.judge(0, room.cleo, 1)
    with store.read() as session:
        waiting = reviews.in_queue(session, room.rita)
    found = room.next()
    assert found == {}
    assert waiting == {"gold": 0, "disagreement": 0, "share": 0}


def test_the_queue_counts_each_judgement_once(room: Room) -> None:
    room.judge(0, room.ben)
    room.judge(1, room.ben, 0)
    room.judge(1, room.cleo, 1)
    with room.store.read() as session:
        assert reviews.in_queue(session, room.rita) == {"gold": 0, "disagreement": 2, "share": 1}


@ON_SQLITE
def test_nobody_reviews_their_own_judgement(room: Room) -> None:
    mine = room.judge(0, room.rita)
    assert room.next(room.rita) == {}
    with pytest.raises(Refused, match="annotation: is your own"):
        room.decide(mine, "approved", room.rita)
    assert room.next(room.rob)["id"] == mine


def test_two_reviewers_get_two_judgements_and_the_same_again_after_a_reload(room: Room) -> None:
    first, second = room.judge(0, room.ben), room.judge(1, room.ben)
    assert room.next(room.rita)["id"] == first
    assert room.next(room.rob)["id"] == second
    assert room.next(room.rita)["id"] == first
    with pytest.raises(Conflict, match="lies before another reviewer"):
        room.decide(first, "approved", room.rob)


@ON_SQLITE
def test_a_judgement_left_lying_comes_to_somebody_else(room: Room) -> None:
    number = room.judge(0, room.ben)
    room.next(room.rita)
    with room.store.write() as session:
        session.query(Desk).one().expires = now() - 1
    assert room.next(room.rob)["id"] == number
    room.decide(number, "approved", room.rob)
    with pytest.raises(Conflict, match="approved already"):
        room.decide(number, "rejected", room.rita, note="too late")


def test_twenty_reviewers_at_once_get_twenty_judgements(room: Room) -> None:
    people = [add_account(room.store, f"R{n}", "reviewer") for n in range(20)]
    judges = [add_account(room.store, f"J{n}") for n in range(4)]
    for place in range(5):
        for who in judges:
            room.judge(place, who)
    found: list[int] = []
    lock = threading.Lock()

    def ask(who: int) -> None:
        number = room.next(who)["id"]
        with lock:
            found.append(number)

    threads = [threading.Thread(target=ask, args=(who,)) for who in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found)) == 20


def test_a_correction_changes_the_judgement_and_keeps_what_stood_there(room: Room) -> None:
    number = room.judge(0, room.ben, 0, strength="better", safety="both_safe")
    changes = {"chosen": 1, "strength": "slightly_better"}
    review = room.decide(number, "edited", changes=changes, note="the first is wrong")
    one = room.annotation(number)
    with room.store.read() as session:
        before = session.get_one(Review, review).before
        actions = [line.action for line in session.query(Audit)]
    assert (one.chosen, one.strength, one.safety, one.review) == (
        *(1, "slightly_better", "both_safe"),
        "edited",
    )
    assert before == {
        **{"chosen": 0, "strength": "better", "safety": "both_safe"},
        **{"rating": None, "review": "pending"},
    }
    assert actions[-1] == "review_edited"


def test_a_rejection_frees_the_item_and_undo_takes_it_again(room: Room) -> None:
    number = room.judge(0, room.ben)
    room.decide(number, "rejected", note="the answer has an error of fact")
    freed, state = room.taken(0), room.annotation(number).review
    assert room.undo() == number
    assert (freed, state) == (0, "rejected")
    assert (room.taken(0), room.annotation(number).review) == (1, "pending")
    assert room.next()["id"] == number


@ON_SQLITE
def test_a_rejection_is_not_undone_when_others_have_filled_the_item(room: Room) -> None:
    number = room.judge(0, room.ben)
    room.decide(number, "rejected", note="no")
    dan = add_account(room.store, "Dan")
    room.judge(0, room.cleo)
    room.judge(0, dan)
    with pytest.raises(Conflict, match="somebody else has judged"):
        room.undo()
    assert room.annotation(number).review == "rejected"


@ON_SQLITE
def test_undo_goes_back_one_verdict_at_a_time_and_only_ones_own(room: Room) -> None:
    first, second = room.judge(0, room.ben), room.judge(1, room.ben)
    room.decide(first, "approved")
    room.decide(second, "edited", changes={"strength": "negligibly_better"})
    with pytest.raises(Conflict, match="nothing yet"):
        room.undo(room.rob)
    assert [room.undo(), room.undo()] == [second, first]
    assert room.annotation(second).strength == "better"
    with pytest.raises(Conflict, match="nothing yet"):
        room.undo()


REFUSED = [
    ({"verdict": "perhaps"}, "verdict"),
    ({"verdict": "rejected"}, "note"),
    ({"verdict": "rejected", "note": "  "}, "note"),
    ({"verdict": "approved", "note": "x" * 2001}, "note"),
    ({"verdict": "approved", "changes": {"chosen": 1}}, "changes"),
    ({"verdict": "edited"}, "changes"),
    ({"verdict": "edited", "changes": {"chosen": 0}}, "changes"),
    ({"verdict": "edited", "changes": {"chosen": 2}}, "changes.chosen"),
    ({"verdict": "edited", "changes": {"chosen": True}}, "changes.chosen"),
    ({"verdict": "edited", "changes": {"strength": "much"}}, "changes.strength"),
    ({"verdict": "edited", "changes": {"safety": "safe"}}, "changes.safety"),
    ({"verdict": "edited", "changes": {"rating": 1}}, "changes.rating"),
    ({"verdict": "edited", "changes": {"comment": "x"}}, "changes.comment"),
]


@ON_SQLITE
@pytest.mark.parametrize(("given", "field"), REFUSED)
def test_a_verdict_that_cannot_be_names_its_field(
    room: Room, given: dict[str, object], field: str
) -> None:
    number = room.judge(0, room.ben)
    with pytest.raises(Refused) as refusal:
        room.decide(number, **given)  # type: ignore[arg-type]
    assert refusal.value.field == field
    assert room.annotation(number).review == "pending"


@ON_SQLITE
def test_what_the_annotator_took_back_is_not_reviewed(room: Room) -> None:
    number = room.judge(0, room.ben)
    with room.store.write() as session:
        session.get_one(Annotation, number).undone = now()
    assert room.next() == {}
    with pytest.raises(Conflict, match="took this judgement back"):
        room.decide(number, "approved")
    with pytest.raises(Missing):
        room.decide(number + 1, "approved")


def test_the_annotator_reads_what_was_said_about_their_work_alone(room: Room) -> None:
    mine, fine = room.judge(0, room.ben), room.judge(1, room.ben)
    other = room.judge(2, room.cleo)
    room.decide(mine, "edited", changes={"chosen": 1}, note="look at the date")
    room.decide(fine, "approved")
    room.decide(other, "rejected", note="not read")
    with room.store.write() as session:
        [told] = reviews.feedback(session, room.ben)
        unread = reviews.unread(session, room.ben)
        reviews.mark_read(session, room.ben, told["id"])
        after = reviews.unread(session, room.ben), reviews.unread(session, room.cleo)
    assert (told["verdict"], told["note"], told["new"]) == ("edited", "look at the date", True)
    assert (told["yours"]["chosen"], told["now"]["chosen"]) == (0, 1)
    assert "Rita" not in str(told)
    assert (unread, after) == (1, (0, 1))
