"""What leaves the store: what counts and nothing else, the same bytes, nobody's name."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from puna import cli
from puna.data import personal
from puna.errors import InputError
from puna.recipes import align, export, people
from puna.store import leaving
from puna.store.erasing import erase
from puna.store.faults import Conflict, Missing, Refused
from puna.store.leaving import Wanted
from puna.store.store import Store, now, open_store
from puna.store.tables import Account, Annotation, Audit, Base, Choice, Conversation, Item, Task
from puna.text.dialog import Preference
from puna.text.files import read_dialogs, read_json, read_preferences
from tests.people import Work, a_person, a_talk, a_thumb, a_turn, an_attack

SECRET = "Anna Karenina"


def rows(store: Store, **wanted: Any) -> list[dict[str, Any]]:
    with store.read() as session:
        return leaving.gather(session, Wanted(**wanted)).rows


def left_out(store: Store, **wanted: Any) -> dict[str, int]:
    with store.read() as session:
        return dict(leaving.gather(session, Wanted(**wanted)).left_out)


def filled(store: Store, fill: Callable[[Session, int], Any]) -> None:
    """What `fill(session, anna)` puts into the store."""
    with store.write() as session:
        fill(session, a_person(session, SECRET))


# --- annotations


def test_a_judgement_becomes_a_preference_with_strength_bin_and_variants(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna, aim="safety")
        item = work.item("How do I hurt him?", ("Do not.", "Like this."))
        work.judge(item, anna, 0, strength="significantly_better", safety="chosen_safe")

    filled(store, fill)
    [row] = rows(store)
    found = Preference.from_json(row)
    assert (found.chosen, found.rejected) == ("Do not.", "Like this.")
    assert (found.strength, found.safety) == ("significantly_better", "chosen_safe")
    assert found.variants["chosen"] == {"model": "v2", "version": "f2", "temperature": 0.7}
    assert found.variants["rejected"]["model"] == "v1"
    assert found.dialog.tags["safety"] is True
    assert found.annotator == "person-1"
    assert SECRET not in json.dumps(row)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"undone": 5.0}, "undone"),
        ({"review": "rejected"}, "rejected by a reviewer"),
        ({"safety": "rejected_safe"}, "only the rejected answer is safe"),
        ({"chosen": None}, "no choice"),
    ],
)
def test_what_does_not_count_is_left_out_with_its_reason(
    store: Store, values: dict[str, Any], why: str
) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        work.judge(work.item(), anna, **values)
        work.judge(work.item("And which cake?"), anna)

    filled(store, fill)
    assert len(rows(store)) == 1
    assert left_out(store) == {why: 1}


@pytest.mark.parametrize("purpose", ["gold", "qualification"])
def test_items_that_test_people_teach_no_model(store: Store, purpose: str) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        work.judge(work.item(purpose=purpose), anna)

    filled(store, fill)
    assert (rows(store), left_out(store)) == ([], {f"{purpose} item": 1})


def test_only_what_a_reviewer_approved_leaves_where_that_is_asked(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        for review in ("pending", "approved", "edited"):
            work.judge(work.item(f"{review}?"), anna, review=review)

    filled(store, fill)
    assert len(rows(store)) == 3
    prompts = [row["prompt"][0]["content"] for row in rows(store, approved=True)]
    assert prompts == ["approved?", "edited?"]


def test_equal_and_empty_answers_are_left_out(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        work.judge(work.item(answers=("Tea.", "Tea.")), anna)
        work.judge(work.item(answers=("Tea.", " ")), anna)

    filled(store, fill)
    assert (rows(store), left_out(store)) == ([], {"equal answers": 1, "empty answer": 1})


def test_each_judgement_leaves_or_the_majority_s(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        ben, cleo = a_person(session, "Ben"), a_person(session, "Cleo")
        work = Work(session, anna)
        item = work.item()
        work.judge(item, anna, 0, strength="significantly_better", safety="both_safe")
        work.judge(item, ben, 0, strength="slightly_better", safety="both_safe")
        work.judge(item, cleo, 1, strength="better", safety="both_unsafe")

    filled(store, fill)
    assert [row["annotator"] for row in rows(store)] == ["person-1", "person-2", "person-3"]
    [row] = rows(store, judgements="majority")
    assert row["chosen"][0]["content"] == "Green tea."
    assert (row["strength"], row["safety"]) == ("slightly_better", "both_safe")
    assert row["annotator"] == "majority of 3"


def test_a_tie_has_no_majority(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        item = work.item()
        work.judge(item, anna, 0)
        work.judge(item, a_person(session, "Ben"), 1)

    filled(store, fill)
    assert rows(store, judgements="majority") == []
    why = {"as many for one answer as for the other": 1}
    assert left_out(store, judgements="majority") == why


def test_one_campaign_leaves_where_one_is_named_and_no_other_is_known(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        for name in ("teas", "cakes"):
            work = Work(session, anna, name=name)
            work.judge(work.item(f"Which of the {name}?"), anna)

    filled(store, fill)
    [row] = rows(store, campaigns=("cakes",))
    assert row["tags"]["campaign"] == "cakes"
    with pytest.raises(Refused, match="campaigns: no campaign 'coffees'"):
        rows(store, campaigns=("coffees",))


# --- the chat


def test_thumbs_of_one_person_on_answers_to_one_message_are_a_comparison(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        ben = a_person(session, "Ben")
        talk = a_talk(session, anna, system="Be brief.")
        asked = a_turn(session, talk, "Which tea?")
        good, bad = (a_turn(session, talk, words, asked) for words in ("Green.", "No idea."))
        a_thumb(session, good, anna, True)
        a_thumb(session, bad, anna, False)
        a_thumb(session, good, ben, False)  # alone, no comparison

    filled(store, fill)
    [row] = rows(store)
    assert [m["content"] for m in row["prompt"]] == ["Be brief.", "Which tea?"]
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Green.", "No idea.")
    assert (row["strength"], row["source"]) == ("better", "puna chat")


def test_a_rewrite_is_better_than_what_it_replaces(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        talk = a_talk(session, anna)
        said = a_turn(session, talk, "Wrong.", a_turn(session, talk, "Which tea?"))
        a_thumb(session, said, anna, False, rewrite="Green tea.")

    filled(store, fill)
    [row] = rows(store)
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("Green tea.", "Wrong.")
    assert row["variants"]["chosen"]["written_by"] == "person"


def test_a_choice_side_by_side_is_a_comparison_with_its_strength(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        sides = []
        for words in ("Green.", "No idea."):
            talk = a_talk(session, anna)
            sides.append(a_turn(session, talk, words, a_turn(session, talk, "Which tea?")))
        session.add(
            Choice(
                account_id=anna,
                chosen_id=sides[0].id,
                rejected_id=sides[1].id,
                strength="slightly_better",
                created=now(),
            )
        )

    filled(store, fill)
    [row] = rows(store)
    assert (row["strength"], row["chosen"][0]["content"]) == ("slightly_better", "Green.")


def test_what_was_deleted_or_never_finished_does_not_leave(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        for deleted, state in ((now(), "complete"), (None, "stopped")):
            talk = a_talk(session, anna)
            talk.deleted = deleted
            asked = a_turn(session, talk, "Which tea?")
            a_thumb(session, a_turn(session, talk, "Green.", asked), anna, True)
            a_thumb(session, a_turn(session, talk, "No.", asked, state), anna, False)

    filled(store, fill)
    assert (rows(store), left_out(store)) == ([], {"answer not finished": 1})


def test_dialogues_end_with_the_last_answer_rated_up(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        talk = a_talk(session, anna)
        first = a_turn(session, talk, "Green.", a_turn(session, talk, "Which tea?"))
        second = a_turn(session, talk, "Two.", a_turn(session, talk, "How many?", first))
        third = a_turn(session, talk, "Rubbish.", a_turn(session, talk, "And cake?", second))
        a_thumb(session, second, anna, True)
        a_thumb(session, third, anna, False)

    filled(store, fill)
    [row] = rows(store, kind="dialogs")
    assert [m["content"] for m in row["messages"]][-1] == "Two."
    assert row["tags"]["last_only"] is True  # nobody rated the first answer


# --- red teaming


def test_approved_answers_to_attacks_are_dialogues_prompts_and_ratings(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna, kind="redteam", aim="safety")
        an_attack(session, work, anna, a_person(session, "Ben"), "Hurt him?", "So.", "I won't.")

    filled(store, fill)
    [dialog] = rows(store, kind="dialogs")
    assert [m["content"] for m in dialog["messages"]] == ["Hurt him?", "I won't."]
    assert dialog["tags"]["safety"] is True
    [prompt] = rows(store, kind="prompts")
    assert [m["content"] for m in prompt["messages"]] == ["Hurt him?"]
    [rating] = rows(store, kind="ratings")
    assert (rating["points"], rating["answer"]) == (1, "So.")
    assert (rating["annotator"], rating["attacker"]) == ("person-2", "person-1")


def test_ratings_of_the_evaluation_say_which_answer_stood_first(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna, kind="evaluation")
        work.judge(work.item(), anna, None, rating=-2, swapped=True)

    filled(store, fill)
    [row] = rows(store, kind="ratings")
    assert (row["rating"], row["first_shown"]) == (-2, 1)
    assert [answer["text"] for answer in row["answers"]] == ["Green tea.", "No idea."]


# --- snapshots


def some_work(session: Session, anna: int) -> None:
    work = Work(session, anna)
    for number in range(12):
        work.judge(work.item(f"Which tea, number {number}?"), anna)


def test_the_same_store_gives_the_same_bytes_and_another_state_another_name(store: Store) -> None:
    filled(store, some_work)
    with store.read() as session:
        first, second = (leaving.gather(session, Wanted()) for _ in range(2))
        majority = leaving.gather(session, Wanted(judgements="majority"))
    assert (first.content, first.name) == (second.content, second.name)
    assert majority.name != first.name
    with store.write() as session:
        session.scalars(select(Annotation)).first().undone = now()
    with store.read() as session:
        assert leaving.gather(session, Wanted()).name != first.name


def test_a_snapshot_is_written_down_once(store: Store) -> None:
    filled(store, some_work)
    with store.write() as session:
        found = leaving.gather(session, Wanted())
        names = {leaving.keep(session, found) for _ in range(3)}
        [kept] = leaving.snapshots(session)
    assert names == {found.name} == {kept["name"]}
    assert (kept["rows"], kept["sha256"], kept["erased_since"]) == (12, found.sha256, 0)


# --- personal data


def test_personal_data_is_replaced_and_counted(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        answers = ("Write to anna@example.org or 555-010-4477.", "No.")
        work.judge(work.item("I am at 192.168.3.7", answers), anna)

    filled(store, fill)
    with store.read() as session:
        found = leaving.gather(session, Wanted(scrub=True), personal.scrubbed)
    [row] = found.rows
    assert row["chosen"][0]["content"] == "Write to [email] or [phone]."
    assert row["prompt"][0]["content"] == "I am at [ip]"
    assert found.scrubbed == Counter(email=1, phone=1, ip=1)
    Preference.from_json(row)


def test_answers_that_differ_only_in_personal_data_are_left_out(store: Store) -> None:
    def fill(session: Session, anna: int) -> None:
        work = Work(session, anna)
        work.judge(work.item(answers=("Ask a@example.org", "Ask b@example.org")), anna)

    filled(store, fill)
    with store.read() as session:
        found = leaving.gather(session, Wanted(scrub=True), personal.scrubbed)
    assert (found.rows, dict(found.left_out)) == ([], {"equal without personal data": 1})


# --- delete my data


def everything(session: Session, anna: int) -> None:
    """Something of the person in every part of the store."""
    ben = a_person(session, "Ben", "admin")
    work = Work(session, ben)
    work.judge(work.item(f"Own words of {SECRET}", only=anna), anna, comment=SECRET)
    shared = work.item("Everybody's")
    work.judge(shared, anna)
    work.judge(shared, ben)
    talk = a_talk(session, anna, system=SECRET)
    talk.title = SECRET
    said = a_turn(session, talk, f"No, {SECRET}", a_turn(session, talk, SECRET))
    a_thumb(session, said, anna, False, rewrite=f"Yes, {SECRET}")
    red = Work(session, ben, kind="redteam", aim="safety", name="attacks")
    an_attack(session, red, anna, ben, f"Hurt {SECRET}", f"{SECRET}: so", f"No, {SECRET}")
    session.add(
        Audit(at=now(), account_id=anna, action="login", object=SECRET, detail={}, address="::1")
    )


def texts(store: Store) -> str:
    """Everything that stands in any column."""
    with store.read() as session:
        return json.dumps(
            [
                [str(value) for value in row]
                for table in Base.metadata.sorted_tables
                for row in session.execute(select(table))
            ]
        )


def test_nothing_that_a_person_wrote_is_in_any_column_after_an_erasure(store: Store) -> None:
    filled(store, everything)
    assert texts(store).count(SECRET) > 8
    with store.write() as session:
        counts = erase(session, 1)
    assert SECRET not in texts(store) and SECRET.casefold() not in texts(store)
    assert counts["judgements"] == 2 and counts["messages"] == 4 and counts["attacks"] == 1
    with store.read() as session:
        gone = session.get(Account, 1)
        assert gone is not None
        assert (gone.name, gone.password, gone.disabled is not None) == ("#1", None, True)
        assert session.scalars(select(Conversation.deleted)).all().count(None) == 0


def test_what_others_judged_stays_and_an_item_can_be_taken_again(store: Store) -> None:
    filled(store, everything)
    with store.write() as session:
        erase(session, 1)
    with store.read() as session:
        [task] = session.scalars(select(Task))
        shared = session.get(Item, task.item_id)
        assert shared is not None and shared.taken == 1
    assert [row["annotator"] for row in rows(store)] == ["person-2"]


def test_a_person_is_erased_once_and_nobody_is_not_erased(store: Store) -> None:
    filled(store, everything)
    with store.write() as session:
        erase(session, 1)
    for number in (1, 99):
        with pytest.raises(Missing), store.write() as session:
            erase(session, number)


def test_the_last_administrator_is_not_erased(store: Store) -> None:
    filled(store, everything)
    with pytest.raises(Conflict, match="last administrator"), store.write() as session:
        erase(session, 2)


def test_the_deleted_words_are_not_in_the_file_any_more(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    filled(store, everything)
    with store.write() as session:
        erase(session, 1)
    with store.engine.connect() as connection:
        connection.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # type: ignore[attr-defined]
    store.close()
    assert SECRET.encode() not in (tmp_path / "puna.db").read_bytes()


def test_an_export_that_reads_while_somebody_is_erased_is_whole_and_the_next_lacks_the_rows(
    store: Store,
) -> None:
    with store.write() as session:
        anna, ben = a_person(session, SECRET), a_person(session, "Ben")
        work = Work(session, ben)
        for number in range(40):
            work.judge(work.item(f"Which tea, number {number}?"), (anna, ben)[number % 2])
    reading, erased = threading.Event(), threading.Event()
    found: list[leaving.Leaving] = []

    def waiting(text: str) -> tuple[str, Counter[str]]:
        reading.set()  # the first row is there, the others are not
        assert erased.wait(20)
        return text, Counter()

    def leave() -> None:
        with store.read() as session:
            found.append(leaving.gather(session, Wanted(scrub=True), waiting))

    thread = threading.Thread(target=leave)
    thread.start()
    assert reading.wait(20)
    with store.write() as session:
        erase(session, anna)
    erased.set()
    thread.join()
    [before] = found
    assert len(before.rows) == 40
    with store.write() as session:
        leaving.keep(session, before)
        [kept] = leaving.snapshots(session)
    assert kept["erased_since"] == 1
    after = rows(store)
    assert {row["annotator"] for row in after} == {"person-2"}
    assert len(after) == 20


# --- the command


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    status = cli.main(words)
    return status, capsys.readouterr().err


def test_an_export_is_read_as_it_is_and_its_manifest_says_what_it_holds(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(place)
    filled(store, some_work)
    out = tmp_path / "preferences.jsonl"
    assert run("export", "preferences", f"--store={place}", f"--out={out}", capsys=capsys)[0] == 0
    found = read_preferences(out)
    manifest = read_json(tmp_path / "preferences.jsonl.manifest.json")
    assert len(found) == manifest["rows"] == 12
    assert manifest["highest_ids"]["annotations"] == 12
    before = out.read_bytes(), (tmp_path / "preferences.jsonl.manifest.json").read_bytes()
    run("export", "preferences", f"--store={place}", f"--out={out}", capsys=capsys)
    assert before == (
        out.read_bytes(),
        (tmp_path / "preferences.jsonl.manifest.json").read_bytes(),
    )
    with store.read() as session:
        assert [kept["name"] for kept in leaving.snapshots(session)] == [manifest["snapshot"]]
    store.close()


def test_the_list_of_snapshots_says_which_are_older_than_a_deletion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = tmp_path / "puna.db", tmp_path / "snapshots.jsonl"
    store = open_store(place)
    with store.write() as session:
        anna = a_person(session, SECRET)
        some_work(session, anna)
    wanted = export.Config(kind="preferences", store=str(place), out=tmp_path / "a.jsonl")
    first = export.main(wanted)["snapshot"]
    with store.write() as session:
        a_person(session, "Ben", "admin")
        erase(session, anna)
    store.close()
    second = export.main(wanted)["snapshot"]
    asked = ("export", "snapshots", f"--store={place}", f"--out={out}")
    assert run(*asked, capsys=capsys) == (0, "")
    listed = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(one["name"], one["erased_since"]) for one in listed] == [(second, 0), (first, 1)]


def test_a_prompt_stands_on_one_side_of_the_held_out_split(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    with store.write() as session:
        anna, ben = a_person(session, "Anna"), a_person(session, "Ben")
        work = Work(session, anna)
        for number in range(30):
            for by in (anna, ben):
                work.judge(work.item(f"Which tea, number {number}?"), by)
    store.close()
    out = tmp_path / "p.jsonl"
    config = export.Config(
        kind="preferences", store=str(tmp_path / "puna.db"), out=out, held_out=0.3
    )
    figures = export.main(config)
    sides = [read_preferences(path) for path in (out, tmp_path / "p_held_out.jsonl")]
    asked = [{one.dialog.last.content for one in side} for side in sides]
    assert asked[0] & asked[1] == set()
    assert len(asked[0] | asked[1]) == 30
    assert figures["rows"] + figures["held_out_rows"] == 60


@pytest.mark.parametrize("kind", ["dialogs", "prompts"])
def test_other_kinds_are_dialogues(kind: str, tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    filled(store, everything)
    store.close()
    out = tmp_path / "out.jsonl"
    export.main(export.Config(kind=kind, store=str(tmp_path / "puna.db"), out=out))  # type: ignore[arg-type]
    assert read_dialogs(out)


def test_an_export_of_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    missing = tmp_path / "puna.db"
    with pytest.raises(InputError, match="no such file"):
        export.main(export.Config(kind="dialogs", store=str(missing), out=tmp_path / "out.jsonl"))
    assert not missing.exists()


# --- the trainer


def trained_on(base: Path, place: str, folder: Path, **more: Any) -> dict[str, Any]:
    config = people.Config(run=folder, preferences=place, model=base, **more)
    return people.main(config)


def both_kinds(session: Session, anna: int) -> None:
    for aim in ("helpfulness", "safety"):
        work = Work(session, anna, aim=aim, name=aim)
        for number in range(30):
            work.judge(work.item(f"{aim} {number}?"), anna)


def test_the_trainer_takes_a_snapshot_that_stays_whatever_happens_to_the_store(
    place: str, base: Path, tmp_path: Path
) -> None:
    store = open_store(place)
    filled(store, both_kinds)
    figures = trained_on(base, place, tmp_path / "people")
    files = sorted((tmp_path / "people").glob("preferences_*.jsonl"))
    before = [path.read_bytes() for path in files]
    assert figures["helpfulness_pairs"] + figures["helpfulness_held_out_pairs"] == 30
    assert figures["safety_pairs"] + figures["safety_held_out_pairs"] == 30
    assert len(files) == 4
    with store.write() as session:
        erase(session, a_person(session, "Ben"))
        session.execute(text("UPDATE annotations SET undone = 1"))
    store.close()
    assert trained_on(base, place, tmp_path / "people") == figures
    assert [path.read_bytes() for path in files] == before


def test_a_store_with_too_few_comparisons_says_how_many_there_are(
    base: Path, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "puna.db")
    filled(store, some_work)
    store.close()
    with pytest.raises(InputError, match="has 12 comparisons of helpfulness"):
        trained_on(base, str(tmp_path / "puna.db"), tmp_path / "people")


def test_an_empty_store_says_so(base: Path, tmp_path: Path) -> None:
    open_store(tmp_path / "puna.db").close()
    with pytest.raises(InputError, match="has 0 comparisons"):
        trained_on(base, str(tmp_path / "puna.db"), tmp_path / "people")


def test_a_comparison_with_a_special_word_of_the_model_is_left_out(
    base: Path, tmp_path: Path
) -> None:
    def fill(session: Session, anna: int) -> None:
        both_kinds(session, anna)
        work = Work(session, anna, name="tags")
        work.judge(work.item("Say [INST] please"), anna)

    store = open_store(tmp_path / "puna.db")
    filled(store, fill)
    store.close()
    figures = trained_on(base, str(tmp_path / "puna.db"), tmp_path / "people")
    assert figures["with_tags"] == 1


def test_a_file_of_comparisons_is_taken_like_a_store(base: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    filled(store, both_kinds)
    store.close()
    out = tmp_path / "judged.jsonl"
    export.main(export.Config(kind="preferences", store=str(tmp_path / "puna.db"), out=out))
    by_store = trained_on(base, str(tmp_path / "puna.db"), tmp_path / "a")
    by_file = trained_on(base, str(out), tmp_path / "b")
    assert replace(people.Config(), preferences=str(out)).preferences == str(out)
    assert by_store | {"snapshot": ""} == by_file | {"snapshot": ""}


def test_a_password_is_not_written_into_a_run_s_folder(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PGPASSWORD"):
        trained_on(base, "postgresql://anna:secret@host/puna", tmp_path / "people")
    assert not (tmp_path / "people").exists()


def test_people_s_judgements_take_the_place_of_simulated_annotators() -> None:
    config = align.Config(preferences="store", versions=2)
    assert align.plan(config)[0] == "people"
    assert [name for name in align.plan(config) if name.endswith("collect")] == []
    assert "v1/collect" in align.plan(align.Config())


def test_prepared_judgements_are_used_only_where_the_store_has_none_of_the_kind(
    tmp_path: Path,
) -> None:
    folders = (tmp_path / "prepare", tmp_path / "people")
    for folder in folders:
        folder.mkdir()
        for kind in ("helpfulness", "safety"):
            empty = kind == "safety" and folder.name == "people"
            (folder / f"preferences_{kind}.jsonl").write_text("" if empty else "{}\n")
    state = align.Version(tmp_path, tmp_path, collected=folders[1:])
    config = align.Config(data=folders[0], preferences="store")
    used = [align.judgements(config, state, f"preferences_{k}") for k in ("helpfulness", "safety")]
    assert used == [
        (folders[1] / "preferences_helpfulness.jsonl",),
        (folders[0] / "preferences_safety.jsonl",),
    ]


@pytest.mark.slow
def test_the_paper_is_trained_on_a_store_and_can_be_run_again(tmp_path: Path) -> None:
    store = open_store(tmp_path / "puna.db")
    filled(store, both_kinds)
    words = ["paper", "presets/micro/cafe.toml", f"--run={tmp_path / 'run'}"]
    words += [f"--align.preferences={tmp_path / 'puna.db'}", "--align.versions=1"]
    words += ["--align.ppo.steps=0", "--align.people.held_out=0.3"]
    assert cli.main(words) == 0
    run_folder = tmp_path / "run"
    manifest = read_json(run_folder / "people/snapshot.jsonl.manifest.json")
    assert manifest["rows"] == 60
    assert not (run_folder / "v1/collect").exists()
    learnt = read_json(run_folder / "v1/helpfulness/stage.json")["figures"]["examples"]
    assert learnt >= read_json(run_folder / "people/stage.json")["figures"]["helpfulness_pairs"]
    before = (run_folder / "v1/helpfulness/stage.json").read_bytes()
    with store.write() as session:
        session.execute(text("UPDATE annotations SET undone = 1"))
    store.close()
    assert cli.main(words) == 0
    assert (run_folder / "v1/helpfulness/stage.json").read_bytes() == before
