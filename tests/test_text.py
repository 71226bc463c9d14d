"""Messages, dialogs, judgements, sampling settings and errors."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import GateError, InputError
from puna.text.completion import SamplingParams
from puna.text.dialog import SAFETY_BINS, STRENGTHS, Dialog, Label, Message, Preference

ASK = Dialog((Message("user", "Tea?"),), id="d1", tags={"kind": "menu", "truth": {"price": 2.2}})
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def dialog(*turns: str, system: str | None = None) -> Dialog:
    """A dialog whose turns alternate, beginning with the user."""
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(turns))
    return Dialog(messages).with_system(system)


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(InputError("file.json:\n  bad\tvalue")) == "file.json: bad value"


def test_a_failed_gate_is_an_input_error():
    assert issubclass(GateError, InputError)


def test_a_dialog_with_system_message_counts_only_user_turns():
    assert dialog("a", "b", "c", system="s").turns == 2


@pytest.mark.parametrize(
    ("roles", "index"),
    [
        (("assistant",), 0),
        (("user", "user"), 1),
        (("user", "assistant", "assistant"), 2),
        (("system", "assistant"), 1),
        (("system", "system"), 1),
        (("user", "system"), 1),
    ],
)
def test_roles_out_of_order_are_refused_with_the_index(roles, index):
    with pytest.raises(InputError, match=f"^message {index}: role is '{roles[index]}', expected"):
        Dialog(tuple(Message(role, "x") for role in roles))


@pytest.mark.parametrize("messages", [(), (Message("system", "s"),)])
def test_a_dialog_without_user_message_is_refused(messages):
    with pytest.raises(InputError, match="at least one user message"):
        Dialog(messages)


def test_an_unknown_role_is_refused():
    with pytest.raises(InputError, match="role 'robot' is unknown"):
        Message("robot", "x")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InputError, match="surrogate"):
        Message("user", "\ud83d")


def test_prompt_removes_only_the_final_answer():
    whole = dialog("a", "b", "c", "d", system="s")
    assert whole.prompt() == dialog("a", "b", "c", system="s")
    assert whole.prompt().prompt() == whole.prompt()


def test_with_answer_undoes_prompt():
    whole = dialog("a", "b", "c", "d", system="s")
    assert whole.prompt().with_answer(whole.answer) == whole


def test_an_answer_out_of_turn_is_refused():
    with pytest.raises(InputError, match="message 2: role is 'assistant', expected 'user'"):
        dialog("a", "b").with_answer("c")


def test_the_answer_of_an_open_dialog_is_refused_with_its_id():
    with pytest.raises(InputError, match="dialog 'd1' has no answer"):
        _ = ASK.answer


def test_with_system_replaces_and_removes_the_system_message():
    assert dialog("a", system="s").with_system("t").system == "t"
    assert dialog("a", system="s").with_system(None) == dialog("a")


def test_changes_keep_id_and_tags():
    changed = ASK.with_answer("Yes.").with_user("Green.").with_system("Be kind.")
    assert (changed.id, changed.tags) == (ASK.id, ASK.tags)


@given(st.lists(TEXT, min_size=1, max_size=5), st.none() | TEXT, TEXT)
def test_a_dialog_survives_json(turns, system, name):
    before = Dialog(dialog(*turns, system=system).messages, name, {"n": 1})
    assert Dialog.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("safety", [None, *SAFETY_BINS])
def test_a_preference_survives_json(strength, safety):
    variants = {"chosen": {"model": "sft", "temperature": 0.9}, "rejected": {"model": "v1"}}
    before = Preference(ASK, "Yes.", "No.", strength, safety, "ann", "cafe", variants)
    assert Preference.from_json(json.loads(json.dumps(before.to_json()))) == before


@pytest.mark.parametrize("label", [True, False])
def test_a_label_survives_json(label):
    before = Label(ASK, "Yes.", label, "cafe")
    assert Label.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_preference_json_is_the_layout_that_trl_reads():
    record = Preference(ASK, "Yes.", "No.").to_json()
    assert record["prompt"] == [{"role": "user", "content": "Tea?"}]
    assert record["chosen"] == [{"role": "assistant", "content": "Yes."}]
    assert record["rejected"] == [{"role": "assistant", "content": "No."}]


def test_equal_answers_are_refused():
    with pytest.raises(InputError, match="the two answers are equal"):
        Preference(ASK, "Yes.", "Yes.")


def test_an_unknown_strength_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"field 'strength': 'much' is unknown.*slightly_better"):
        Preference(ASK, "a", "b", strength="much")


def test_an_unknown_safety_bin_is_refused():
    with pytest.raises(InputError, match="field 'safety': 'rejected_safe' is unknown"):
        Preference(ASK, "a", "b", safety="rejected_safe")


def test_a_preference_about_an_answered_dialog_is_refused():
    with pytest.raises(InputError, match="field 'prompt': ends with an assistant message"):
        Preference(dialog("a", "b"), "c", "d")


@pytest.mark.parametrize("safety", [None, "both_safe", "both_unsafe"])
def test_swapping_twice_changes_nothing(safety):
    pair = Preference(ASK, "a", "b", safety=safety, variants={"chosen": 1, "rejected": 2})
    assert pair.swap().chosen == "b"
    assert pair.swap().variants == {"rejected": 1, "chosen": 2}
    assert pair.swap().swap() == pair


def test_swapping_a_chosen_safe_pair_forgets_the_bin():
    assert Preference(ASK, "a", "b", safety="chosen_safe").swap().safety is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": None}, "field 'chosen': is null, expected a list"),
        ({"chosen": "Yes."}, "field 'chosen': is text, expected a list"),
        ({"chosen": []}, "field 'chosen': expected one assistant message"),
        ({"chosen": [3]}, "field 'chosen': message 0: is a number, expected an object"),
        ({"chosen": [{"role": "assistant"}]}, "field 'chosen': message 0: 'content' is missing"),
        (
            {"chosen": [{"role": "assistant", "content": 4}]},
            "field 'chosen': message 0: content is a number, expected text",
        ),
        ({"chosen": [{"role": "user", "content": ""}]}, "field 'chosen': expected one assistant"),
        ({"prompt": []}, "field 'prompt': a dialog needs at least one user message"),
        ({"strength": 3}, "field 'strength': is a number, expected text"),
        ({"tags": []}, "field 'tags': is a list, expected an object"),
        ({"id": True}, "field 'id': is true or false, expected text"),
    ],
)
def test_a_wrong_record_is_refused_with_the_field(change, message):
    record = Preference(ASK, "Yes.", "No.").to_json() | change
    with pytest.raises(InputError) as error:
        Preference.from_json(record)
    assert str(error.value).startswith(message)


def test_a_missing_field_is_refused_by_name():
    with pytest.raises(InputError, match="field 'label': is missing"):
        Label.from_json(
            {
                "prompt": [{"role": "user", "content": "a"}],
                "completion": [{"role": "assistant", "content": "b"}],
            }
        )


def test_a_number_is_no_label():
    record = Label(ASK, "Yes.", True).to_json() | {"label": 1}
    with pytest.raises(InputError, match="field 'label': is a number, expected true or false"):
        Label.from_json(record)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=3),
        lambda v: (
            st.lists(v, max_size=3)
            | st.dictionaries(
                st.sampled_from(["prompt", "role", "content", "chosen", "messages", "x"]),
                v,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_object_gives_a_record_or_one_line(value):
    record = value if isinstance(value, dict) else {"prompt": value, "messages": value}
    for kind in (Dialog, Preference, Label):
        try:
            kind.from_json(record)
        except InputError as error:
            assert "\n" not in str(error)


def test_a_dialog_can_be_the_key_of_a_dictionary():
    assert len({ASK, Dialog(ASK.messages, ASK.id, ASK.tags)}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"seed": -1},
    ],
)
def test_sampling_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def test_sampling_defaults_are_those_of_the_released_code():
    assert (SamplingParams().temperature, SamplingParams().top_p) == (0.6, 0.9)
