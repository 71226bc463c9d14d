"""Conversations in the store: trees, branches, search, what is written while it is written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from puna.store import carrying, opinions, talk
from puna.store.faults import Conflict, Missing, Refused
from puna.store.store import open_store
from puna.store.tables import Choice, Thumb, Turn
from puna.text.dialog import STRENGTHS
from tests.pages import add_account

SETTINGS = {"temperature": 0.5}


def told(session, anna: int, text: str = "tea?", answer: str = "yes") -> talk.Conversation:
    """A conversation with a message and its answer."""
    found = talk.start(session, anna, "tiny", "", SETTINGS)
    user = talk.say(session, found, None, text)
    turn = talk.begin(session, found, user.id, "tiny", "fp_1", SETTINGS)
    talk.end(session, turn.id, answer, "complete", {"seconds": 1.0})
    session.refresh(turn)
    return found


@pytest.fixture
def anna(store) -> int:
    return add_account(store, "Anna")


def test_an_edit_is_a_sibling_and_the_branch_that_is_shown_is_the_new_one(store, anna):
    with store.write() as session:
        found = told(session, anna)
        first = talk.branch(talk.turns_of(session, found.id), found.leaf_id)
        other = talk.say(session, found, None, "coffee?")
        turns = talk.turns_of(session, found.id)
        assert talk.siblings(turns, other) == [first[0].id, other.id]
        assert talk.branch(turns, found.leaf_id) == [other]
        talk.show(session, anna, found.id, first[0].id)
        assert talk.branch(turns, found.leaf_id) == first


def test_a_title_is_the_first_words_and_a_rename_one_line(store, anna):
    with store.write() as session:
        found = told(session, anna, "one two " * 40)
        assert found.title.endswith("one …") and len(found.title) < 64
        talk.change(session, anna, found.id, title=" my\n tea ")
        assert found.title == "my tea"
        with pytest.raises(Refused, match="title"):
            talk.change(session, anna, found.id, title=" \n ")


@pytest.mark.parametrize("words", ["ÄPFEL", "äpfel", "Äpfel", "50%", "a_b", "GREEN"])
def test_search_finds_titles_and_texts_in_any_case_and_takes_signs_as_they_are(store, anna, words):
    with store.write() as session:
        hit = told(session, anna, "green Äpfel", "they cost 50% of a_b")
        told(session, anna, "500 of aXb", "no")
        assert [one.id for one in talk.history(session, anna, words)] == [hit.id]


def test_the_history_comes_in_pages_the_latest_message_first(store, anna):
    with store.write() as session:
        made = [told(session, anna, f"tea {place}").id for place in range(5)]
        first = talk.conversation(session, anna, made[0])
        talk.say(session, first, first.leaf_id, "more")
        page = talk.history(session, anna, limit=2)
        rest = talk.history(session, anna, before=page[-1].last, limit=9)
        assert [one.id for one in page + rest] == [made[0], *made[:0:-1]]


def test_what_is_deleted_is_gone_until_it_is_restored(store, anna):
    with store.write() as session:
        found = told(session, anna)
        talk.delete(session, anna, found.id)
        assert talk.history(session, anna) == []
        with pytest.raises(Missing):
            talk.conversation(session, anna, found.id)
        talk.restore(session, anna, found.id)
        assert [one.id for one in talk.history(session, anna)] == [found.id]


def test_another_person_s_conversation_is_missing_in_every_way(store, anna):
    bela = add_account(store, "Bela")
    with store.write() as session:
        found = told(session, anna)
        number, turn = found.id, found.leaf_id
        opinion = opinions.Opinion(True)
        for attempt in (
            lambda: talk.conversation(session, bela, number),
            lambda: talk.turn_of(session, bela, turn),
            lambda: talk.show(session, bela, number, turn),
            lambda: talk.change(session, bela, number, title="x"),
            lambda: talk.delete(session, bela, number),
            lambda: talk.go_on(session, bela, turn),
            lambda: opinions.thumb(session, bela, turn, opinion),
            lambda: opinions.choose(session, bela, turn, turn, "better"),
            lambda: carrying.exported(session, bela, number),
            lambda: carrying.as_markdown(session, bela, number),
        ):
            with pytest.raises(Missing):
                attempt()
        assert talk.history(session, bela) == []


def test_an_answer_that_is_cut_goes_on_and_one_that_is_complete_does_not(store, anna):
    with store.write() as session:
        found = told(session, anna)
        leaf = found.leaf_id
        with pytest.raises(Conflict):
            talk.go_on(session, anna, leaf)
        session.get(Turn, leaf).state = "length"
        session.flush()
        assert talk.go_on(session, anna, leaf).state == "writing"
        session.get(Turn, leaf).state = "length"
        talk.say(session, found, leaf, "and?")
        with pytest.raises(Conflict):
            talk.go_on(session, anna, leaf)


def test_answers_that_nobody_writes_any_more_are_stopped_and_keep_their_text(store, anna):
    with store.write() as session:
        found = talk.start(session, anna, "tiny", "", {})
        user = talk.say(session, found, None, "tea?")
        number = talk.begin(session, found, user.id, "tiny", "fp", {}).id
        talk.keep(session, number, "half\0an")
    with store.write() as session:
        assert talk.stop_all(session) == 1
        assert talk.stop_all(session) == 0
    with store.read() as session:
        turn = session.get(Turn, number)
        assert (turn.state, turn.content) == ("stopped", "half\ufffdan")


def test_what_comes_after_the_end_changes_nothing(store, anna):
    with store.write() as session:
        found = told(session, anna)
        talk.keep(session, found.leaf_id, "late")
        talk.end(session, found.leaf_id, "late", "stopped", {})
        session.expire_all()
        assert session.get(Turn, found.leaf_id).content == "yes"


def test_a_thumb_is_one_for_each_answer_and_the_last_one_counts(store, anna):
    with store.write() as session:
        leaf = told(session, anna).leaf_id
        opinions.thumb(session, anna, leaf, opinions.Opinion(True, ("clear",)))
        bad = opinions.Opinion(False, ("wrong", "wrong"), "no", "yes, please")
        opinions.thumb(session, anna, leaf, bad)
        (row,) = session.scalars(select(Thumb))
        assert (row.up, row.reasons, row.rewrite) == (False, ["wrong"], "yes, please")
        with pytest.raises(Refused, match=r"reasons\[0\]"):
            opinions.thumb(session, anna, leaf, opinions.Opinion(True, ("wrong",)))
        with pytest.raises(Refused, match="rewrite"):
            opinions.thumb(session, anna, leaf, opinions.Opinion(True, rewrite=" yes "))
        opinions.take_back(session, anna, leaf)
        assert session.scalars(select(Thumb)).all() == []


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_choice_shows_the_chosen_branch_and_takes_the_place_of_the_one_before(
    store, anna, strength
):
    with store.write() as session:
        found = told(session, anna)
        one = found.leaf_id
        user = session.get(Turn, one).parent_id
        two = talk.begin(session, found, user, "tiny", "fp", {}).id
        with pytest.raises(Refused, match="rejected_id"):
            opinions.choose(session, anna, one, two, strength)  # it is still being written
        talk.end(session, two, "no", "complete", {})
        session.expire_all()
        opinions.choose(session, anna, two, one, "better")
        opinions.choose(session, anna, one, two, strength)
        (row,) = session.scalars(select(Choice))
        assert (row.chosen_id, row.rejected_id, row.strength) == (one, two, strength)
        assert found.leaf_id == one
        with pytest.raises(Refused, match="strength"):
            opinions.choose(session, anna, one, two, "much_better")


def test_a_file_brought_in_again_is_the_same_conversation(store, anna):
    with store.write() as session:
        found = told(session, anna)
        talk.say(session, found, None, "coffee?")
        record = carrying.exported(session, anna, found.id)
        one = _whole(record["conversations"][0])
        (number,) = carrying.imported(session, anna, [one])
        again = carrying.exported(session, anna, number)
        assert _whole(again["conversations"][0]) == one


def _whole(record):
    blank = {"model": "", "version": "", "settings": None, "figures": None}
    return record | {"turns": [blank | turn for turn in record["turns"]]}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("say edit retry show".split()), st.integers(0, 50))))
def test_whatever_is_done_to_a_tree_it_stays_one(tmp_path_factory, moves):
    """Roles take turns on every branch, the branch shown ends in a leaf, nothing is ever lost."""
    store = open_store(tmp_path_factory.mktemp("tree") / "puna.db")
    anna = add_account(store, "Anna")
    with store.write() as session:
        found = talk.start(session, anna, "tiny", "", {})
        texts: dict[int, str] = {}
        for move, number in [("say", 0), *moves]:
            turns = talk.turns_of(session, found.id)
            users = [turn for turn in turns if turn.role == "user"]
            answers = [turn for turn in turns if turn.role == "assistant"]
            if move == "show" and turns:
                turn = turns[number % len(turns)]
                talk.show(session, anna, found.id, turn.id)
                assert turn in talk.branch(turns, found.leaf_id)
            elif move == "retry" and users:
                _answered(session, found, users[number % len(users)].id, texts)
            elif move == "edit" and users:
                parent = users[number % len(users)].parent_id
                _said(session, found, parent, texts)
            elif move == "say":
                _said(session, found, answers[-1].id if answers else None, texts)
        turns = talk.turns_of(session, found.id)
        assert {turn.id: turn.content for turn in turns} == texts
        path = talk.branch(turns, found.leaf_id)
        assert [turn.role for turn in path] == ["user", "assistant"] * (len(path) // 2)
        assert not [turn for turn in turns if turn.parent_id == found.leaf_id]
        for turn in turns:
            assert turn.id in talk.siblings(turns, turn)
            assert talk.leaf_below(turns, turn.id) >= turn.id
    store.close()


def _said(session, found, parent, texts) -> None:
    turn = talk.say(session, found, parent, f"tea {len(texts)}")
    texts[turn.id] = turn.content
    _answered(session, found, turn.id, texts)


def _answered(session, found, parent, texts) -> None:
    turn = talk.begin(session, found, parent, "tiny", "fp", {})
    texts[turn.id] = f"yes {len(texts)}"
    talk.end(session, turn.id, texts[turn.id], "complete", {})
    session.refresh(turn)
