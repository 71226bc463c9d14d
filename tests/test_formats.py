"""Readers of published files, on hand-made records and on the real data sets beside the project."""

import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.corpus import Document, Ledger
from puna.data.formats import (
    iter_dialogs,
    iter_documents,
    iter_labels,
    iter_preferences,
    prompt_key,
    read_any,
    split_by_prompt,
)
from puna.data.records import RESPONSE_LENGTH
from puna.errors import InputError
from puna.text.dialog import Dialog, Label, Message, Preference

HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "


def written(path: Path, *records: object) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def said(*turns: str) -> list[dict[str, str]]:
    """Messages that alternate, the user first."""
    return [{"role": ("user", "assistant")[k % 2], "content": t} for k, t in enumerate(turns)]


def roles(dialog: Dialog) -> str:
    return "".join(message.role[0] for message in dialog.messages)


def texts(dialog: Dialog) -> list[str]:
    return [message.content for message in dialog.messages]


# --- dialogues ---


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz"])
@pytest.mark.parametrize(
    "record",
    [
        {"messages": said("hi", "hello")},
        {"turns": said("hi", "hello"), "services": ["Restaurants_1"]},
        {"turns": ["hi", "hello"]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"instruction": "hi", "input": "", "output": "hello"},
        {"prompt": "hi", "completion": "hello"},
    ],
)
def test_every_layout_of_a_dialogue_gives_the_same_messages(tmp_path, name, record):
    (dialog,) = iter_dialogs(written(tmp_path / name, record))
    assert dialog.messages == (Message("user", "hi"), Message("assistant", "hello"))


def test_punas_own_dialogue_comes_back_as_it_was(tmp_path):
    dialog = Dialog((Message("system", "s"), Message("user", " u ")), "7", {"kind": "order"})
    assert list(iter_dialogs(written(tmp_path / "d.jsonl", dialog.to_json()))) == [dialog]


def test_neighbours_of_one_role_are_merged_and_noted(tmp_path):
    messages = [
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "three"},
    ]
    ledger = Ledger()
    (dialog,) = iter_dialogs(written(tmp_path / "d.jsonl", {"messages": messages}), ledger)
    assert texts(dialog) == ["one\ntwo", "three"]
    assert ledger.notes["read"]["message merged into the one before"] == 1


def test_a_greeting_moves_to_the_tags(tmp_path):
    messages = [{"role": "assistant", "content": "Welcome!"}, *said("hi", "hello")]
    ledger = Ledger()
    (dialog,) = iter_dialogs(written(tmp_path / "d.jsonl", {"messages": messages}), ledger)
    assert (roles(dialog), dialog.tags["greeting"]) == ("ua", "Welcome!")
    assert ledger.notes["read"]["greeting moved to tags"] == 1


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "assistant", "content": "Welcome!"}], "no user message"),
        ([], "no user message"),
        ([*said("hi"), {"role": "system", "content": "s"}], "system message inside the dialog"),
        ([*said("hi"), {"role": "tool", "content": "{}"}], "role 'tool' is not supported"),
    ],
)
def test_a_dialogue_of_no_use_is_counted_with_its_reason(tmp_path, messages, reason):
    ledger = Ledger()
    assert not list(iter_dialogs(written(tmp_path / "d.jsonl", {"messages": messages}), ledger))
    assert ledger.dropped["read"] == {reason: 1}
    assert ledger.balanced()


# --- preferences ---


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": said("q"), "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": said("q", "a"), "rejected": said("q", "b")},
        {"chosen": said("q", "a"), "rejected": said("q", "b")},
        {"chosen": HUMAN + "q" + ASSISTANT + "a", "rejected": HUMAN + "q" + ASSISTANT + "b"},
        {"prompt": HUMAN + "q" + "\n\nAssistant:", "chosen": "a", "rejected": "b"},
    ],
)
def test_every_layout_of_a_preference_gives_the_same_pair(tmp_path, record):
    (pair,) = iter_preferences(written(tmp_path / "hh.jsonl", record))
    assert texts(pair.dialog) == ["q"]
    assert (pair.chosen, pair.rejected, pair.strength, pair.source) == ("a", "b", "better", "hh")


def test_punas_own_preference_comes_back_as_it_was(tmp_path):
    dialog = Dialog((Message("user", "q"),), "7", {"safety": True})
    variants = {"chosen": {"temperature": 0.9}, "rejected": {}}
    pair = Preference(dialog, "a", "b", "slightly_better", "both_safe", "ann", "cafe", variants)
    assert list(iter_preferences(written(tmp_path / "p.jsonl", pair.to_json()))) == [pair]


def test_a_transcript_is_split_into_the_common_prompt_and_two_answers(tmp_path):
    common = HUMAN + "one" + ASSISTANT + "two\n\nstill two" + HUMAN + "three"
    record = {"chosen": common + ASSISTANT + "good", "rejected": common + ASSISTANT + "bad"}
    (pair,) = iter_preferences(written(tmp_path / "p.jsonl", record))
    assert texts(pair.dialog) == ["one", "two\n\nstill two", "three"]
    assert (pair.chosen, pair.rejected) == ("good", "bad")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (HUMAN + "q" + ASSISTANT + "a", HUMAN + "other" + ASSISTANT + "b", "prompts differ"),
        (HUMAN + "q" + ASSISTANT, HUMAN + "q" + ASSISTANT + "b", "empty answer"),
        (HUMAN + "q", HUMAN + "q" + ASSISTANT + "b", "no final answer"),
    ],
)
def test_a_pair_of_no_use_is_counted_with_its_reason(tmp_path, chosen, rejected, reason):
    ledger = Ledger()
    path = written(tmp_path / "p.jsonl", {"chosen": chosen, "rejected": rejected})
    assert not list(iter_preferences(path, ledger))
    assert ledger.dropped["read"] == {reason: 1}


def test_a_pair_of_equal_answers_is_refused_with_its_line(tmp_path):
    text = HUMAN + "q" + ASSISTANT + "a"
    path = written(tmp_path / "p.jsonl", {"chosen": text, "rejected": text + " "})
    with pytest.raises(InputError, match=r"p\.jsonl:1: field 'rejected': the two answers are eq"):
        list(iter_preferences(path))


# --- judged answers ---


@pytest.mark.parametrize(("value", "label"), [(True, True), (0, False), (1.0, True)])
def test_an_unpaired_preference_is_a_label(tmp_path, value, label):
    record = {"prompt": said("q"), "completion": [said("", "a")[1]], "label": value}
    (judged,) = iter_labels(written(tmp_path / "l.jsonl", record))
    assert judged == Label(judged.dialog, "a", label, "l")


def test_a_label_beyond_zero_and_one_is_refused(tmp_path):
    path = written(tmp_path / "l.jsonl", {"prompt": "q", "completion": "a", "label": 0.5})
    with pytest.raises(InputError, match=r"l\.jsonl:1: label or reward: 0\.5"):
        list(iter_labels(path))


def test_calls_and_responses_become_lines_of_the_assistants_turn(tmp_path):
    record = {
        "context": [
            {"role": "agent", "text": "Welcome"},
            {"role": "user", "text": "an espresso"},
            {"role": "agent", "api": {"get_menu_items": {"query": "espresso"}}},
            {"role": "api", "response": {"get_menu_items": {"items": [{"name": "Espresso"}]}}},
        ],
        "generation": {
            "role": "agent",
            "api": {"add_order_item": {"menu_item_id": "espresso-0001", "quantity": "1"}},
        },
        "reward": 0.0,
    }
    (judged,) = iter_labels(written(tmp_path / "r.jsonl", record))
    assert judged.completion.split("\n") == [
        "get_menu_items(query=espresso)",
        "-> items=[{name=Espresso}]",
        "add_order_item(menu_item_id=espresso-0001, quantity=1)",
    ]
    assert judged.dialog.tags["judged"] == judged.completion.split("\n")[-1]
    assert (texts(judged.dialog), judged.label) == (["an espresso"], False)


def test_a_long_response_is_shortened(tmp_path):
    record = {
        "context": [
            {"role": "user", "text": "menu"},
            {"role": "api", "response": {"show_menu": {"items": ["Latte"] * 99}}},
        ],
        "generation": {"role": "agent", "text": "Here it is."},
        "reward": 1,
    }
    (judged,) = iter_labels(written(tmp_path / "r.jsonl", record))
    response = judged.completion.split("\n")[0].removeprefix("-> ")
    assert len(response) == RESPONSE_LENGTH and response.endswith("...")


def test_an_opaque_id_keeps_its_first_four_digits(tmp_path):
    record = {
        "context": [
            {"role": "user", "text": "an espresso"},
            {"role": "api", "response": {"add": {"order_id": "9caad54304794fb894ac5a4ec598b4ef"}}},
        ],
        "generation": {"role": "agent", "text": "Here it is."},
        "reward": 1,
    }
    (judged,) = iter_labels(written(tmp_path / "r.jsonl", record))
    assert judged.completion == "-> order_id=9caa\nHere it is."


# --- plain text, JSON lists, Parquet, folders ---


def test_plain_text_gives_a_document_a_block(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text("\nOne\nstill one.\n \n\nTwo.\n", encoding="utf-8")
    assert list(iter_documents(path)) == [
        Document("One\nstill one.", "stories", "stories.txt"),
        Document("Two.", "stories", "stories.txt"),
    ]


def test_plain_text_can_be_one_document(tmp_path):
    path = tmp_path / "story.txt.gz"
    path.write_bytes(gzip.compress(b"One.\n\nTwo.\n", mtime=0))
    assert [document.text for document in iter_documents(path, whole=True)] == ["One.\n\nTwo."]


def test_a_document_takes_its_site_from_the_address(tmp_path):
    record = {"text": "words", "url": "https://a.example.org/page", "source": "web"}
    (document,) = iter_documents(written(tmp_path / "c.jsonl", record))
    assert document == Document("words", "web", "a.example.org")


def test_a_json_list_is_read_whatever_the_name(tmp_path):
    path = tmp_path / "alpaca"
    path.write_text(json.dumps([{"instruction": "q", "input": "x", "output": "a"}]))
    (dialog,) = iter_dialogs(path)
    assert texts(dialog) == ["q\n\nx", "a"]


def test_parquet_rows_are_records(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"messages": said("hi", "hello"), "id": None}, {"messages": said("a", "b"), "id": "2"}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert [texts(d) for d in iter_dialogs(tmp_path / "d.parquet")] == [["hi", "hello"], ["a", "b"]]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "d.parquet").write_bytes(b"PAR1....PAR1")
    with pytest.raises(InputError, match=r"puna\[data\]"):
        list(read_any(tmp_path / "d.parquet"))


def test_a_damaged_parquet_file_is_refused_in_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 and then nothing of use")
    with pytest.raises(InputError, match=r"d\.parquet:1: cannot be read"):
        list(read_any(tmp_path / "d.parquet"))


def test_a_folder_is_read_in_order_of_names_and_other_files_are_counted(tmp_path):
    (tmp_path / "LICENSE").write_text("MIT")
    written(tmp_path / "b.jsonl", {"messages": said("second")})
    written(tmp_path / "a.jsonl.gz", {"messages": said("first")})
    ledger = Ledger()
    found = [(d.messages[0].content, d.tags["source"]) for d in iter_dialogs(tmp_path, ledger)]
    assert found == [("first", "a"), ("second", "b")]
    assert ledger.notes["read"]["files of other kinds passed over"] == 1


# --- faults ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"messages": []}\n{"mess', r":2: is not JSON"),
        (b"[1]\n", r":1: is a JSON int, expected an object"),
        (b'{"a": 1}\n', r":1: fields \['a'\] fit no known record"),
        (b'{"messages": "hi"}\n', r":1: field 'messages': is str, expected a list"),
        (b'{"messages": [{"role": "user"}]}\n', r":1: field 'messages': message 0: expected"),
        (b'{"turns": [{"role": "user", "content": 3}]}\n', r"message 0: content: is int"),
        (b'{"messages": ["a"], "tags": 3}\n', r":1: field 'tags': is int"),
        (b'{"messages": ["a"]}\n{"text": "\xff"}\n', r":2: is not UTF-8 text"),
        (b"\x1f\x8b\x08 not gzip at all", r"cannot be read"),
        (gzip.compress(b'{"messages": ["a"]}\n', mtime=0)[:-9], r"cannot be read"),
        (b"", r"holds no records"),
        (b'{"prompt": "q", "chosen": "a", "rejected": "b"}', r":1: holds a preference, expected"),
        (b"[" * 100_000, r"is not JSON"),
    ],
)
def test_a_fault_is_named_in_one_line_with_its_place(tmp_path, content, message):
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(iter_dialogs(path))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_missing_path_and_a_folder_without_data_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_any(tmp_path / "none"))
    with pytest.raises(InputError, match="no file ends in"):
        list(read_any(tmp_path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "api", "user"]), inner
        )
    ),
    max_leaves=6,
)
NAMES = ["messages", "turns", "prompt", "chosen", "rejected", "completion", "label", "text", "id"]
NAMES += ["context", "generation", "reward", "tags", "source", "strength", "url", "variants"]


@given(st.dictionaries(st.sampled_from(NAMES), JSON, min_size=1))
def test_any_json_object_is_a_record_or_skipped_or_refused(tmp_path_factory, record):
    ledger = Ledger()
    try:
        found = list(read_any(written(tmp_path_factory.mktemp("any") / "x.jsonl", record), ledger))
    except InputError:
        return
    assert ledger.balanced() and ledger.kept["read"] == len(found)


# --- held-out split ---


def dialog_of(*turns: str) -> Dialog:
    return Dialog.from_json({"messages": said(*turns)})


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(0, 9))
def test_a_prompt_never_stands_on_both_sides(numbers, seed):
    records = [dialog_of(f"Question  {n}", f"answer {k}") for k, n in enumerate(numbers)]
    train, held = split_by_prompt(records, 0.5, seed)
    assert not {prompt_key(d) for d in train} & {prompt_key(d) for d in held}
    assert len(train) + len(held) == len(records)


def test_about_the_asked_share_is_held_out_and_the_seed_decides_which():
    records = [dialog_of(f"question {n}") for n in range(4000)]
    _, held = split_by_prompt(records, 0.15, seed=1)
    assert len(held) == pytest.approx(600, abs=90)  # 4 standard deviations
    assert held == split_by_prompt(list(records), 0.15, seed=1)[1]
    assert held != split_by_prompt(records, 0.15, seed=2)[1]


def test_case_spacing_and_system_message_do_not_make_another_prompt():
    one = dialog_of("How much is  a latte?", "$3.")
    two = dialog_of("how much is a Latte?").with_system("Be kind.")
    assert prompt_key(one) == prompt_key(two) != prompt_key(dialog_of("How much is a mocha?"))


def test_a_share_above_one_is_refused():
    with pytest.raises(InputError, match=r"share: 1\.5"):
        split_by_prompt([dialog_of("q")], 1.5, 0)


# --- the real data sets ---


@pytest.mark.shared
def test_every_dialogue_of_schema_guided_dialogue_is_read(shared):
    counts = [
        sum(1 for _ in iter_dialogs(shared / "sgd" / f"{n}.jsonl.gz")) for n in ("dev", "test")
    ]
    assert counts == [2098, 2921]


@pytest.mark.shared
def test_every_dialogue_of_taskmaster_four_is_read(shared):
    dialogs = list(iter_dialogs(shared / "taskmaster4" / "dialogs.jsonl.gz"))
    assert (len(dialogs), sum(d.ends_with_user for d in dialogs)) == (3710, 75)


@pytest.mark.shared
def test_the_rewards_of_taskmaster_four_become_labels_but_for_six_without_a_guest(shared):
    ledger = Ledger()
    labels = list(iter_labels(shared / "taskmaster4" / "reward.jsonl.gz", ledger))
    assert ledger.seen["read"] == 3228
    assert ledger.dropped["read"] == {"no user message": 6}
    assert sum(not judged.label for judged in labels) == 453
    assert sum("judged" in judged.dialog.tags for judged in labels) == 3222


@pytest.mark.shared
def test_the_pairs_of_hh_are_split_and_six_skipped(shared):
    ledger = Ledger()
    pairs = list(iter_preferences(shared / "hh-rlhf", ledger))
    assert (ledger.seen["read"], len(pairs)) == (1850, 1844)
    assert ledger.dropped["read"] == {"empty answer": 4, "prompts differ": 2}


@pytest.mark.shared
def test_the_stories_are_blocks_of_plain_text(shared):
    documents = list(iter_documents(shared / "tinystories"))
    assert len(documents) == 4667
    assert documents[0].text.startswith("One day, a little girl named Lily")
