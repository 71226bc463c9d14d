"""Work given out and taken in: each item once, quotas, gold, tests, leases (W70, W74, W75)."""

import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from puna.store import judging, work
from puna.store.faults import Conflict, Missing, Refused
from puna.store.judging import taken_back, undo
from puna.store.living import drop, go_on, waiting_for, write_prompt
from puna.store.progress import diligence, reached
from puna.store.store import Store
from puna.store.tables import Account, Annotation, Campaign, Item, Qualification, Task
from puna.store.work import Nothing, renew, skip
from tests.annotation import (
    add_items,
    campaign,
    given,
    judge,
    people,
    right_side,
    said,
    take,
)


def everything(store: Store, account: int, number: int, most: int = 50) -> list[Any]:
    """All tasks that somebody gets until there are none, each judged."""
    found: list[Any] = []
    for _ in range(most):
        task = take(store, account, number)
        if isinstance(task, Nothing):
            break
        judge(store, account, task)
        found.append(task)
    return found


def change(store: Store, table: Any, number: int, **values: Any) -> None:
    """Set columns of a row."""
    with store.write() as session:
        row = session.get_one(table, number)
        for name, value in values.items():
            setattr(row, name, value)


def items_of(store: Store, **by: Any) -> list[Item]:
    """Items with these values."""
    with store.read() as session:
        return list(session.scalars(select(Item).filter_by(**by).order_by(Item.id)))


def stored(store: Store) -> list[Annotation]:
    """All judgements."""
    with store.read() as session:
        return list(session.scalars(select(Annotation).order_by(Annotation.id)))


def code(found: Any) -> str:
    """Why there is no task."""
    assert isinstance(found, Nothing), found
    return found.code


def test_fifty_threads_at_once_get_each_item_once(store: Store) -> None:
    crowd, number = people(store, 50), campaign(store, 30, quota=2)
    found: list[Any] = []

    def grab(account: int) -> None:
        found.append(take(store, account, number))

    threads = [threading.Thread(target=grab, args=(account,)) for account in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as session:
        held = Counter(session.scalars(select(Task.item_id)))
    assert len(found) == 50
    assert (len(held), set(held.values())) == (30, {1})
    assert {item.taken for item in items_of(store)} == {1}


def test_one_person_in_twenty_tabs_keeps_within_the_quota(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 30, quota=2)
    threads = [
        threading.Thread(target=lambda: everything(store, anna, number, 1)) for _ in range(20)
    ]

    def swallow(args: Any) -> None:
        assert issubclass(args.exc_type, Conflict), args.exc_value

    before, threading.excepthook = threading.excepthook, swallow
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = before
    everything(store, anna, number)
    assert (len(stored(store)), code(take(store, anna, number))) == (2, "quota")


def test_as_many_people_judge_an_item_as_the_overlap_says(store: Store) -> None:
    crowd, number = people(store, 4), campaign(store, 3, overlap=3)
    each = [len(everything(store, account, number)) for account in crowd]
    assert each == [3, 3, 3, 0]


def test_items_with_the_fewest_judgements_come_first(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 2, overlap=2)
    first = given(store, anna, number)
    assert given(store, ben, number).messages != first.messages


def test_a_page_that_is_loaded_again_has_the_same_task(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store)
    assert given(store, anna, number).task == given(store, anna, number).task


def test_a_page_that_fetches_ahead_gets_another_task(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store)
    first = given(store, anna, number)
    assert given(store, anna, number, (first.task,)).task != first.task


def test_nobody_holds_more_than_a_few_tasks(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 9)
    held: tuple[int, ...] = ()
    for _ in range(work.HELD):
        held = (*held, given(store, anna, number, held).task)
    assert code(take(store, anna, number, held)) == "held"


def test_the_order_on_the_page_is_turned_back(store: Store) -> None:
    crowd, number = people(store, 2), campaign(store, 1, overlap=2)
    for account in crowd:
        task = given(store, account, number)
        judge(store, account, task, right_side(task))
    assert [one.chosen for one in stored(store)] == [0, 0]
    assert {one.swapped for one in stored(store)} == {False, True}


def test_a_rating_is_turned_back_too(store: Store) -> None:
    crowd, number = people(store, 2), campaign(store, 1, overlap=2, kind="evaluation")
    for account in crowd:
        task = given(store, account, number)
        rating = 2 if right_side(task) == 0 else -2
        with store.write() as session:
            judgement = judging.Judgement(task.digest, rating=rating)
            judging.submit(session, account, task.task, judgement)
    assert [one.rating for one in stored(store)] == [2, 2]


def test_a_person_sees_both_orders_about_as_often(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 40)
    everything(store, anna, number)
    swapped = sum(one.swapped for one in stored(store))
    assert 10 <= swapped <= 30


def test_gold_items_keep_near_their_share_and_look_like_others(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 30, gold_share=0.25)
    add_items(store, number, 20, "gold")
    tasks = everything(store, anna, number, 20)
    gold = sum("gold" in task.messages[0]["content"] for task in tasks)
    assert 4 <= gold <= 6
    assert not any(task.test for task in tasks)


def test_who_passes_the_test_gets_work(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, pass_mark=0.8)
    add_items(store, number, 3, "qualification")
    marks = []
    for _ in range(3):
        task = given(store, anna, number)
        marks.append((task.test, judge(store, anna, task, right_side(task)).passed))
    assert marks == [(True, None), (True, None), (True, True)]
    assert not given(store, anna, number).test


def test_who_fails_the_test_is_told_so_and_gets_no_work(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, pass_mark=0.8)
    add_items(store, number, 2, "qualification")
    for _ in range(2):
        task = given(store, anna, number)
        judge(store, anna, task, 1 - right_side(task))
    found = take(store, anna, number)
    assert code(found) == "failed"
    assert "0 of 2" in found.message  # type: ignore[union-attr]


def test_the_answers_of_a_test_stand(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, pass_mark=0.8)
    add_items(store, number, 2, "qualification")
    judge(store, anna, given(store, anna, number))
    with pytest.raises(Conflict, match="stand"), store.write() as session:
        undo(session, anna, number)
    task = given(store, anna, number)
    with pytest.raises(Conflict, match="cannot be skipped"), store.write() as session:
        skip(session, anna, task.task, "")
    with store.read() as session:
        assert session.scalars(select(Qualification.answered)).all() == [1]


@pytest.mark.parametrize("how", ["expired", "done", "changed", "withdrawn", "closed", "skipped"])
def test_a_stale_judgement_is_refused_with_its_reason(store: Store, how: str) -> None:
    (anna,), number = people(store, 1), campaign(store)
    task = given(store, anna, number)
    (item,) = [one for one in items_of(store) if one.taken]
    words = {"expired": "ran out", "done": "already", "skipped": "skipped"}
    if how == "expired":
        change(store, Task, task.task, expires=0.0)
    elif how == "done":
        judge(store, anna, task)
    elif how == "changed":
        change(store, Item, item.id, answers=[{"text": "x"}, {"text": "y"}])
    elif how == "withdrawn":
        change(store, Item, item.id, state="closed")
    elif how == "closed":
        change(store, Campaign, number, state="closed")
    else:
        with store.write() as session:
            skip(session, anna, task.task, "I know the writer")
    with pytest.raises(Conflict, match=words.get(how, how)):
        judge(store, anna, task)
    assert len(stored(store)) == (how == "done")


def test_an_expired_task_goes_to_somebody_else(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 1)
    task = given(store, anna, number)
    assert code(take(store, ben, number)) == "waiting"
    change(store, Task, task.task, expires=0.0)
    assert given(store, ben, number).messages == task.messages
    with pytest.raises(Conflict, match="somebody else"), store.write() as session:
        renew(session, anna, task.task)


def test_an_expired_task_that_nobody_took_can_be_held_again(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 1)
    task = given(store, anna, number)
    change(store, Task, task.task, expires=0.0, state="expired")
    change(store, Item, items_of(store)[0].id, taken=0)
    with store.write() as session:
        renew(session, anna, task.task)
    judge(store, anna, task)
    assert [item.taken for item in items_of(store)] == [1]


def test_a_skipped_task_goes_back_and_does_not_come_again(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 1)
    task = given(store, anna, number)
    with store.write() as session:
        skip(session, anna, task.task, "not my field")
    assert code(take(store, anna, number)) == "empty"
    assert given(store, ben, number).messages == task.messages


def test_the_task_of_somebody_else_is_missing(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store)
    task = given(store, anna, number)
    for act in (
        lambda session: judging.submit(session, ben, task.task, said(task)),
        lambda session: skip(session, ben, task.task, ""),
        lambda session: renew(session, ben, task.task),
    ):
        with pytest.raises(Missing), store.write() as session:
            act(session)


def test_several_judgements_are_taken_back_one_after_another(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 9)
    tasks = [given(store, anna, number)]
    for _ in range(3):
        judge(store, anna, tasks[-1], 0)
        tasks.append(given(store, anna, number))
    ahead = given(store, anna, number, (tasks[-1].task,))
    with store.write() as session:
        undone = [undo(session, anna, number) for _ in range(3)]
    assert undone == [task.task for task in tasks[-2::-1]]
    assert ahead.task not in undone


def test_undo_gives_the_task_back_and_leaves_the_others_alone(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 2)
    task = given(store, anna, number)
    judge(store, anna, task, 1, safety="both_unsafe")
    others = given(store, ben, number)
    with store.write() as session:
        assert undo(session, anna, number) == task.task
        before = taken_back(session, task.task)
    assert before is not None
    assert (before["chosen"], before["safety"]) == (1, "both_unsafe")
    assert given(store, anna, number).task == task.task
    assert given(store, ben, number).task == others.task
    judge(store, anna, task, 0)
    assert [one.undone is None for one in stored(store)] == [False, True]
    assert {item.taken for item in items_of(store)} == {1}


def test_an_old_or_reviewed_judgement_stands(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store)
    first = judge(store, anna, given(store, anna, number)).annotation
    for values in ({"created": 0.0}, {"created": 9e9, "review": "approved"}):
        change(store, Annotation, first, **values)
        with pytest.raises(Conflict, match="stands"), store.write() as session:
            undo(session, anna, number)


def test_the_clock_going_back_changes_no_order(store: Store, monkeypatch: Any) -> None:
    (anna,), number = people(store, 1), campaign(store, 3)
    first, second = given(store, anna, number), None
    judge(store, anna, first)
    second = given(store, anna, number)
    monkeypatch.setattr(judging, "now", lambda: stored(store)[0].created - 300)
    later = judge(store, anna, second).annotation
    with store.write() as session:
        undo(session, anna, number)
        assert session.get_one(Annotation, later).undone is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("comment", "x" * 4001), ("strength", "best"), ("safety", None), ("chosen", 2)),
        *(("seconds", -1.0), ("seconds", float("nan")), ("rating", 1)),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(store: Store, field: str, value: Any) -> None:
    (anna,), number = people(store, 1), campaign(store)
    task = given(store, anna, number)
    with pytest.raises(Refused, match=field), store.write() as session:
        judging.submit(session, anna, task.task, replace(said(task), **{field: value}))
    assert stored(store) == []


def test_only_the_rejected_one_safe_is_kept_and_named_as_excluded(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store)
    assert judge(store, anna, given(store, anna, number), safety="rejected_safe").excluded
    assert stored(store)[0].safety == "rejected_safe"


def live(store: Store, text: str) -> None:
    """The models have answered a message."""
    (item,) = [one for one in items_of(store, state="preparing") if text in str(one.dialog)]
    answers = [{"text": "first live"}, {"text": "second live"}]
    change(store, Item, item.id, state="ready", answers=answers)


def test_a_conversation_goes_on_with_the_chosen_answer(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 3, max_turns=2, overlap=2)
    task = given(store, anna, number)
    assert judge(store, anna, task, 1).may_go_on
    with store.write() as session:
        go_on(session, anna, task.task, "And then?")
    live(store, "And then?")
    assert "And then?" not in str(take(store, ben, number))
    following = given(store, anna, number)
    assert [one["content"] for one in following.messages[-2:]] == [task.answers[1], "And then?"]
    assert not judge(store, anna, following).may_go_on
    assert "And then?" in str(everything(store, ben, number))


def test_a_judgement_from_which_the_conversation_went_on_stands(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 3, max_turns=2)
    task = given(store, anna, number)
    judge(store, anna, task)
    with store.write() as session:
        go_on(session, anna, task.task, "And then?")
    with pytest.raises(Conflict, match="went on"), store.write() as session:
        undo(session, anna, number)
    with pytest.raises(Conflict, match="went on already"), store.write() as session:
        go_on(session, anna, task.task, "Or so?")


def test_an_own_prompt_waits_for_its_writer_and_can_be_taken_back(store: Store) -> None:
    (anna, ben), number = people(store, 2), campaign(store, 0, own_prompts=True)
    with store.write() as session:
        item = write_prompt(session, anna, number, "Why is salt white?")
    assert code(take(store, anna, number)) == "preparing"
    with pytest.raises(Missing), store.write() as session:
        drop(session, ben, item)
    with store.write() as session:
        assert [one["item"] for one in waiting_for(session, anna, number)] == [item]
        assert drop(session, anna, item) == "Why is salt white?"
        assert waiting_for(session, anna, number) == []


def test_prompts_are_refused_where_they_are_given(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store)
    with pytest.raises(Conflict, match="given"), store.write() as session:
        write_prompt(session, anna, number, "Hello")


def test_progress_counts_what_is_done_and_what_is_left(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 5)
    everything(store, anna, number, 2)
    given(store, anna, number)
    with store.read() as session:
        rules = session.get_one(Campaign, number)
        assert reached(session, anna, rules) == {"done": 2, "total": 5}


def test_a_streak_counts_days_without_a_gap(store: Store) -> None:
    (anna,), number = people(store, 1), campaign(store, 6)
    everything(store, anna, number, 6)
    for one, days in zip(stored(store), (5, 3, 2, 1, 0, 0), strict=True):
        change(store, Annotation, one.id, created=one.created - 86400 * days)
    with store.read() as session:
        found = diligence(session, anna)
        assert (found["days"], found["today"], found["in_a_row"]) == (4, 2, 2)
        assert session.scalar(select(func.count(Account.id))) == 2
