"""The prompt formats against their published rules, written here a second time."""

import ast
import re
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from test_byte_pairs import SPECIAL, trained

from puna.errors import InputError
from puna.text.dialog import Dialog, Message
from puna.text.sentence_pieces import Kind, Piece, model_file
from puna.text.template import before_tag, encode_dialog, encode_prompt
from puna.text.tokenizer import FORMATS, open_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TURNS = [
    " What is 2023? ",
    "MMXXIII\n",
    "And 🦙?",
    "",
    "Why?\t",
    "Because.",
    "\nSo?",
    "So.",
    "Ok",
    "k",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = [name for names in SPECIAL.values() for name in names]
FORGING = st.lists(TEXT | st.sampled_from([*NAMES, "<|", "|>", "\n", "[INST]"]), max_size=4)
CONTENT = FORGING.map("".join)
DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def build(turns, system=None):
    """A dialog whose turns alternate, beginning with the user."""
    roles = ("user", "assistant")
    return Dialog(tuple(Message(roles[i % 2], t) for i, t in enumerate(turns))).with_system(system)


@st.composite
def dialogs(draw):
    """Any dialog of up to three turns, with or without a system message."""
    return build(draw(st.lists(CONTENT, min_size=1, max_size=6)), draw(st.none() | CONTENT))


@pytest.fixture(scope="session")
def opened(tmp_path_factory, tiny_tokenizer):
    """A tokenizer of each format."""
    folder, found = tmp_path_factory.mktemp("formats"), {"llama2": tiny_tokenizer}
    for format in SPECIAL:
        trained(format).save(str(folder / f"{format}.json"))
        found[format] = open_tokenizer(folder / f"{format}.json")
    return found


@pytest.fixture(params=FORMATS)
def own(request, opened):
    """A tokenizer of each format."""
    return opened[request.param]


def split_ids(fast, text):
    """The ids of a text in which the names of special tokens are those tokens."""
    fast.encode_special_tokens = False
    return fast.encode(text).ids


def chatml(dialog):
    """The text of ChatML's published template."""
    text = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in dialog.messages)
    return text + "<|im_start|>assistant\n" * dialog.ends_with_user


def llama3(dialog):
    """The text of Llama 3's published template."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    turns = (f"{head(m.role)}{m.content.strip()}<|eot_id|>" for m in dialog.messages)
    return "<|begin_of_text|>" + "".join(turns) + head("assistant") * dialog.ends_with_user


def llama2(model, dialog):
    """Meta's published rules by sentencepiece alone: B_INST, E_INST, B_SYS, E_SYS, strip, edges."""
    b_inst, e_inst, b_sys, e_sys = "[INST]", "[/INST]", "<<SYS>>\n", "\n<</SYS>>\n\n"
    messages = [(m.role, m.content) for m in dialog.messages]
    if messages[0][0] == "system":
        folded = b_sys + messages[0][1] + e_sys + messages[1][1]
        messages = [("user", folded), *messages[2:]]
    ids, mask = [], []
    for i in range(0, len(messages), 2):
        prompt = f"{b_inst} {messages[i][1].strip()} {e_inst}"
        question = [1, *model.encode(prompt)]
        if i + 1 == len(messages):
            turn = question
        else:
            turn = [1, *model.encode(f"{prompt} {messages[i + 1][1].strip()} "), 2]
        ids += turn
        mask += [False] * len(question) + [True] * (len(turn) - len(question))
    return ids, mask


COUNTS = pytest.mark.parametrize("count", range(1, 11))
SYSTEMS = pytest.mark.parametrize(
    "system", [None, "", "Always answer with a haiku", " Be brief.\n"]
)


@pytest.mark.shared
@COUNTS
@SYSTEMS
def test_llama2_has_metas_ids_and_mask_for_one_to_five_turns(llama, count, system):
    model = sentencepiece.SentencePieceProcessor(model_file=str(llama.path))
    dialog = build(TURNS[:count], system)
    assert encode_dialog(dialog, llama) == llama2(model, dialog)


@COUNTS
@SYSTEMS
def test_llama2_has_metas_ids_and_mask_in_a_trained_tokenizer(tokenizer, count, system):
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    dialog = build(TURNS[:count], system)
    assert encode_dialog(dialog, tokenizer) == llama2(model, dialog)


@COUNTS
@pytest.mark.parametrize("system", ["Be kind.", " Be brief.\n"])
@pytest.mark.parametrize("format", ["chatml", "smollm2"])
def test_chatml_has_the_ids_of_the_published_text(opened, count, system, format):
    dialog = build(TURNS[:count], system)
    expected = split_ids(trained(format), chatml(dialog))
    assert encode_dialog(dialog, opened[format])[0] == expected


@COUNTS
def test_smollm2_has_its_own_system_message_where_a_dialog_has_none(opened, count):
    told = build(TURNS[:count], DEFAULT)
    assert encode_dialog(build(TURNS[:count]), opened["smollm2"]) == encode_dialog(
        told, opened["smollm2"]
    )
    assert encode_dialog(build(TURNS[:count]), opened["chatml"])[0] == split_ids(
        trained("chatml"), chatml(build(TURNS[:count]))
    )


@COUNTS
@pytest.mark.parametrize("system", [None, " Be kind. "])
def test_llama3_has_the_ids_of_the_published_text(opened, count, system):
    dialog = build(TURNS[:count], system)
    expected = split_ids(trained("llama3"), llama3(dialog))
    assert encode_dialog(dialog, opened["llama3"])[0] == expected


def test_plain_text_is_what_metas_text_completion_reads(opened, tiny_tokenizer):
    base = open_tokenizer(tiny_tokenizer.path, format="plain")
    assert encode_prompt(build(["A latte "]), base) == base.encode("A latte ", bos=True)
    assert encode_prompt(build(["A latte"]), opened["plain"]) == opened["plain"].encode("A latte")


def test_a_plain_dialog_has_its_texts_and_edges_and_no_more(tiny_tokenizer):
    base = open_tokenizer(tiny_tokenizer.path, format="plain")
    ids, mask = encode_dialog(build(["tea", " yes ", "two"], "Be kind."), base)
    tea, two = base.encode("Be kind.\n\ntea", bos=True), base.encode("two", bos=True)
    yes = [*base.encode_continuation(" yes"), 2]
    assert ids == [*tea, *yes, *two]
    assert mask == [False] * len(tea) + [True] * len(yes) + [False] * len(two)


@given(dialog=dialogs(), answer=CONTENT)
def test_a_prompt_is_a_prefix_of_the_answered_dialog(own, dialog, answer):
    prompt = encode_prompt(dialog.prompt(), own, "escape")
    ids, mask = encode_dialog(dialog.prompt().with_answer(answer), own, "escape")
    assert ids[: len(prompt)] == prompt
    assert mask[len(prompt)] is True


@given(dialog=dialogs())
def test_the_targets_are_the_answers_each_with_its_end_id(own, dialog):
    ids, mask = encode_dialog(dialog, own, "escape")
    targets = [token for token, target in zip(ids, mask, strict=True) if target]
    answers = [m.content for m in dialog.messages if m.role == "assistant"]
    assert targets.count(own.eos_id) == len(answers)
    assert not targets or targets[-1] == own.eos_id
    said = own.decode(targets).replace("\u2581", " ")
    assert "".join(said.split()) == "".join("".join(answers).replace("\u2581", " ").split())


@given(dialog=dialogs())
def test_only_the_format_writes_control_ids(own, dialog):
    ids, _ = encode_dialog(dialog, own, "escape")
    harmless = Dialog(tuple(Message(m.role, "a") for m in dialog.messages))
    plain, _ = encode_dialog(harmless, own)
    control = set(own.control.values())
    assert [i for i in ids if i in control] == [i for i in plain if i in control]


@given(dialog=dialogs())
def test_escaping_keeps_the_text(own, dialog):
    ids, _ = encode_dialog(dialog, own, "escape")
    text = own.decode(ids)
    for message in dialog.messages:
        assert message.content.strip().replace("\u2581", " ") in text.replace("\u2581", " ")


def test_the_name_of_a_special_token_is_refused_in_every_message(opened):
    for format in ("chatml", "smollm2", "llama3", "plain"):
        own = opened[format]
        for name in own.control:
            for place in range(3):
                contents = ["be kind", "hi", "hello"]
                contents[place] = f"x{name}y"
                with pytest.raises(InputError, match="not allowed as part of the prompt") as caught:
                    encode_dialog(build(contents[1:], contents[0]), own)
                assert f"message {place} " in str(caught.value) and repr(name) in str(caught.value)


def test_html_is_no_tag_in_plain_text(tiny_tokenizer):
    base = open_tokenizer(tiny_tokenizer.path, format="plain")
    assert min(encode_prompt(build(["<s>struck</s>"]), base)[1:]) > 2


def test_what_a_model_says_ends_before_a_tag_of_its_own_format(opened):
    said = " yes <|im_end|> [INST] no"
    assert before_tag(said, opened["chatml"]) == "yes"
    assert before_tag(said, opened["llama2"]) == before_tag(said) == "yes <|im_end|>"


def test_a_sentencepiece_model_can_have_any_format_whose_tokens_it_has(tiny_tokenizer, tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.model: has no special token '<\|im_end\|>'"):
        open_tokenizer(tiny_tokenizer.path, format="chatml")
    names = [Piece(name, 0.0, Kind.CONTROL) for name in ("<|im_start|>", "<|im_end|>")]
    (tmp_path / "t.model").write_bytes(model_file([*tiny_tokenizer.pieces, *names]))
    own = open_tokenizer(tmp_path / "t.model", format="chatml")
    assert (own.bos_id, own.eos_id) == (None, 385)
    ids, _ = encode_dialog(build(["<s>", "b<|im_end|>"]), own, "escape")
    assert [token for token in ids if token < 3 or token > 383] == [384, 385, 384, 385]


def test_no_source_uses_a_model_s_template():
    sources = sorted((ROOT / "puna").rglob("*.py"))
    model_s = re.compile("chat_template|from_string", re.IGNORECASE)
    any_template = re.compile("chat_template|jinja", re.IGNORECASE)
    for path in sources:
        room = path.relative_to(ROOT / "puna").as_posix()
        # the report and the site render pages of our own; the rest of web never renders any
        used = model_s if room.startswith(("evaluation/report", "web/site/")) else any_template
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name)]
        names += [n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
        imports = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        imports += [str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
        assert [t for t in [*names, *imports, *map(str, texts)] if used.search(t)] == [], path
