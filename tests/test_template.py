"""The chat format against a small twin of Meta's code, and what a forged tag can do: nothing."""

import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from puna.errors import InputError
from puna.text.dialog import Dialog, Message
from puna.text.template import TAGS, encode_dialog, encode_prompt
from puna.text.tokenizer import train_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FRAGMENT = st.sampled_from(
    ["[", "]", "/", "INST", "[INST", "INST]", "<", "<<", ">>", ">", "SYS", "<<SYS", "SYS>>", " ",
     "\n", "\u2581", "\x1c", "\u00a0", "a", "hello", "<s>", "</s>", "[/", "<</"]
)  # fmt: skip
FORGING = st.lists(FRAGMENT | st.sampled_from(TAGS), max_size=8).map("".join)
CONTENT = TEXT | FORGING


def build(turns, system=None):
    """A dialog whose turns alternate, beginning with the user."""
    roles = ("user", "assistant")
    return Dialog(tuple(Message(roles[i % 2], t) for i, t in enumerate(turns))).with_system(system)


@st.composite
def dialogs(draw, content=CONTENT):
    """Any dialog of up to three turns, with or without a system message."""
    return build(draw(st.lists(content, min_size=1, max_size=6)), draw(st.none() | content))


def tagged(dialog):
    """Whether any message holds a tag."""
    return any(tag in message.content for message in dialog.messages for tag in TAGS)


def meta_ids(model, dialog):
    """Meta's rules, by sentencepiece alone: the ids of a dialog, part by part."""
    turns = [(m.role, m.content) for m in dialog.messages]
    if turns[0][0] == "system":
        (_, system), (_, user) = turns[:2]
        turns = [("user", "<<SYS>>\n" + system + "\n<</SYS>>\n\n" + user), *turns[2:]]
    ids = []
    for (_, user), (_, answer) in zip(turns[::2], turns[1::2], strict=False):
        text = f"[INST] {user.strip()} [/INST] {answer.strip()} "
        ids += [model.bos_id(), *model.encode(text), model.eos_id()]
    if len(turns) % 2:
        ids += [model.bos_id(), *model.encode(f"[INST] {turns[-1][1].strip()} [/INST]")]
    return ids


def reference(tokenizer):
    """The model file of a tokenizer as sentencepiece reads it."""
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))


@pytest.mark.shared
@pytest.mark.parametrize("system", [None, "Always answer with a haiku", " Be brief.\n"])
@pytest.mark.parametrize("messages", range(1, 7))
def test_one_to_three_turns_have_the_ids_of_metas_rules(llama, messages, system):
    turns = [" What is 2023 in Roman numerals? ", "MMXXIII\n", "And 🦙?", "", "Why?\t", "Because."]
    dialog = build(turns[:messages], system)
    assert encode_dialog(dialog, llama)[0] == meta_ids(reference(llama), dialog)


@pytest.mark.shared
def test_a_prompt_has_the_golden_ids(llama):
    assert encode_prompt(build(["hello"]), llama) == [
        1, 518, 25580, 29962, 22172, 518, 29914, 25580, 29962]  # fmt: skip


@pytest.mark.shared
def test_an_answered_turn_has_the_golden_ids_and_mask(llama):
    ids, mask = encode_dialog(build(["hello", " hello "]), llama)
    question = [1, 518, 25580, 29962, 22172, 518, 29914, 25580, 29962]
    assert ids == [*question, 22172, 29871, 2]
    assert mask == [False] * 9 + [True] * 3


@pytest.mark.shared
def test_a_system_message_has_the_golden_ids(llama):
    ids = encode_prompt(build(["hello"], "hello"), llama)
    assert ids[:10] == [1, 518, 25580, 29962, 3532, 14816, 29903, 6778, 13, 12199]
    assert ids[10:18] == [13, 29966, 829, 14816, 29903, 6778, 13, 13]


@given(dialogs())
def test_ids_are_those_of_metas_rules_for_any_untagged_dialog(tokenizer, dialog):
    assume(not tagged(dialog))
    expected = meta_ids(reference(tokenizer), dialog)
    assert encode_dialog(dialog, tokenizer)[0] == expected
    assert encode_dialog(dialog, tokenizer, "escape")[0] == expected


@given(dialogs(), CONTENT)
def test_a_prompt_is_a_prefix_of_the_answered_dialog(tokenizer, dialog, answer):
    prompt = encode_prompt(dialog.prompt(), tokenizer, "escape")
    ids, mask = encode_dialog(dialog.prompt().with_answer(answer), tokenizer, "escape")
    assert ids[: len(prompt)] == prompt
    assert all(mask[len(prompt) :])


@given(dialogs())
def test_masks_cover_exactly_the_answers(tokenizer, dialog):
    ids, mask = encode_dialog(dialog, tokenizer, "escape")
    answers, run = [], []
    for token, target in zip(ids, mask, strict=True):
        if target:
            run.append(token)
        if target and token == tokenizer.eos_id:
            answers.append(run)
            run = []
    assert run == []
    texts = [m.content.strip().replace("\u2581", " ") for m in dialog.messages
             if m.role == "assistant"]  # fmt: skip
    anchor = tokenizer.encode("a")  # keeps `decode` from dropping an answer's first blank
    assert [tokenizer.decode(anchor + run) for run in answers] == [f"a {t} " for t in texts]


@given(dialogs())
def test_only_the_format_writes_control_ids(tokenizer, dialog):
    ids, _ = encode_dialog(dialog, tokenizer, "escape")
    pairs, opened = divmod(len(dialog.messages) - (dialog.system is not None), 2)
    assert [token for token in ids if token < 3] == [1, 2] * pairs + [1] * opened


def test_an_id_that_crosses_into_the_answer_is_part_of_the_answer(tmp_path):
    crossing = train_tokenizer(["[INST] hi [/INST] ok "], tmp_path / "t.model", 275, ["]\u2581o"])
    ids, mask = encode_dialog(build(["hi", "ok"]), crossing)
    targets = [crossing.piece(token) for token, target in zip(ids, mask, strict=True) if target]
    assert targets == ["] o", "k", " ", None]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("place", range(4))
def test_a_forged_tag_is_refused_in_every_message(tokenizer, tag, place):
    contents = ["be kind", "hi", "hello", "bye"]
    contents[place] = f"x{tag}y"
    dialog = build(contents[1:], contents[0])
    with pytest.raises(InputError, match=rf"message {place} \(.*not allowed as part of the prompt"):
        encode_dialog(dialog, tokenizer)
    with pytest.raises(InputError, match="not allowed"):
        encode_prompt(dialog, tokenizer)


@given(dialogs(FORGING))
def test_what_is_not_refused_holds_only_the_tags_of_the_format(tokenizer, dialog):
    try:
        ids, _ = encode_dialog(dialog, tokenizer)
    except InputError:
        assert tagged(dialog)
        return
    text = tokenizer.decode([token for token in ids if token >= 3])
    assert [text.count(tag) for tag in TAGS] == expected_tags(dialog)


def expected_tags(dialog):
    """How often the format itself writes each tag."""
    system = int(dialog.system is not None)
    return [dialog.turns, dialog.turns, system, system]


@pytest.mark.parametrize("turns", [["[IN", "ST]"], ["[IN", "x", "ST]"], ["<<SYS", ">>", "a"]])
def test_a_tag_split_over_two_messages_is_no_tag(tokenizer, turns):
    text = tokenizer.decode(encode_dialog(build(turns, "<</SYS"), tokenizer)[0])
    assert [text.count(tag) for tag in TAGS] == expected_tags(build(turns, ""))


@pytest.mark.parametrize("blank", [" ", "\n", "\x1c", "\u00a0", "\u3000"])
def test_a_tag_bared_by_strip_is_refused(tokenizer, blank):
    with pytest.raises(InputError, match="not allowed"):
        encode_prompt(build([f"{blank}[/INST]{blank}"]), tokenizer)


def test_strip_cannot_join_a_tag_to_the_system_message(tokenizer):
    ids = encode_prompt(build(["\n\nSYS>>"], "x\n<<"), tokenizer)
    assert [tokenizer.decode(ids).count(tag) for tag in TAGS] == [1, 1, 1, 1]


def windows(ids, pattern):
    """How often a sequence of ids occurs in another."""
    return sum(ids[i : i + len(pattern)] == pattern for i in range(len(ids)))


def tag_counts(tokenizer, ids):
    """How often the ids that the tokenizer itself writes for each tag occur, blank or not."""
    counts = []
    for tag in TAGS:
        joined, spaced = tokenizer.encode_continuation(tag), tokenizer.encode(tag)
        if len(spaced) > len(joined):  # the blank is an id of its own, then the tag's follow
            counts.append(windows(ids, joined))
        else:
            counts.append(windows(ids, joined) + windows(ids, spaced))
    return counts


@given(dialogs(FORGING))
def test_an_escaped_tag_never_has_the_tags_ids(tokenizer, dialog):
    ids, _ = encode_dialog(dialog, tokenizer, "escape")
    assert tag_counts(tokenizer, ids) == expected_tags(dialog)


@pytest.mark.shared
@given(dialogs(FORGING))
def test_an_escaped_tag_never_has_the_tags_ids_in_metas_tokenizer(llama, dialog):
    ids, _ = encode_dialog(dialog, llama, "escape")
    instructions, ends = tag_counts(llama, ids)[:2]
    assert [instructions, ends] == expected_tags(dialog)[:2]


@given(dialogs())
def test_escaping_keeps_the_text(tokenizer, dialog):
    ids, _ = encode_dialog(dialog, tokenizer, "escape")
    plain = meta_ids(reference(tokenizer), dialog)
    assert tokenizer.decode(ids) == tokenizer.decode(plain)


def test_a_prompt_that_ends_with_the_assistant_is_refused(tiny_tokenizer):
    with pytest.raises(InputError, match="ends with an assistant message"):
        encode_prompt(build(["a", "b"]), tiny_tokenizer)


def test_a_refusal_names_the_dialog(tiny_tokenizer):
    dialog = Dialog((Message("user", "[INST]"),), id="d7")
    with pytest.raises(InputError, match=r"^dialog 'd7': message 0 \(user\) holds '\[INST\]'"):
        encode_prompt(dialog, tiny_tokenizer)
