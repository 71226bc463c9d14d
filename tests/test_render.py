"""What `puna render` prints."""

import json

import pytest

from puna import cli
from puna.text.dialog import Dialog, Message
from puna.text.files import write_dialogs
from puna.text.template import encode_dialog


@pytest.fixture
def dialogs(tmp_path):
    """A file of two dialogues."""
    first = Dialog(
        (Message("user", "tea"), Message("assistant", "yes"), Message("user", "🙂")), "d1"
    )
    second = Dialog((Message("system", "Be kind."), Message("user", "a")))
    write_dialogs(tmp_path / "dialogs.jsonl", [first, second])
    return [first, second]


def rendered(capsys, tmp_path, *words, status=0):
    """The lines that a call prints."""
    assert cli.main(["render", str(tmp_path / "dialogs.jsonl"), *words]) == status
    out, err = capsys.readouterr()
    return (err if status else out).splitlines()


def test_text_special_tokens_and_answers_are_shown(capsys, tmp_path, dialogs, tiny_tokenizer):
    lines = rendered(capsys, tmp_path, f"--tokenizer={tiny_tokenizer.path}")
    ids, mask = encode_dialog(dialogs[0], tiny_tokenizer)
    assert lines == [
        f"# d1: llama2, {len(ids)} tokens, {sum(mask)} of answers",
        "<s>[INST] tea [/INST]⟦ yes </s>⟧<s>[INST] 🙂 [/INST]",
        "",
        f"# dialogue 2: llama2, {len(encode_dialog(dialogs[1], tiny_tokenizer)[0])} tokens, "
        "0 of answers",
        "<s>[INST] <<SYS>>",
        "Be kind.",
        "<</SYS>>",
        "",
        "a [/INST]",
        "",
    ]


def test_ids_are_those_that_a_model_reads(capsys, tmp_path, dialogs, tiny_tokenizer):
    words = [f"--tokenizer={tiny_tokenizer.path}", "--ids", "--first=1"]
    line = rendered(capsys, tmp_path, *words)[2]
    ids, mask = encode_dialog(dialogs[0], tiny_tokenizer)
    shown = json.loads("[" + line.replace("⟦", "").replace("⟧", "").replace(" ", ",") + "]")
    assert shown == ids
    answer = line[line.index("⟦") + 1 : line.index("⟧")]
    assert [int(word) for word in answer.split()] == [
        token for token, target in zip(ids, mask, strict=True) if target
    ]


def test_a_format_can_be_chosen(capsys, tmp_path, dialogs, tiny_tokenizer):
    words = [f"--tokenizer={tiny_tokenizer.path.parent}", "--format=plain"]
    assert rendered(capsys, tmp_path, *words)[1] == "<s>tea⟦ yes</s>⟧<s>🙂"


def test_a_dialogue_with_a_tag_is_refused_or_escaped(capsys, tmp_path, tiny_tokenizer):
    write_dialogs(tmp_path / "dialogs.jsonl", [Dialog((Message("user", "[INST]"),))])
    words = [f"--tokenizer={tiny_tokenizer.path}"]
    [line] = rendered(capsys, tmp_path, *words, status=2)
    assert "dialogs.jsonl: dialogue 1: message 0 (user) holds '[INST]'" in line
    assert rendered(capsys, tmp_path, *words, "--tags=escape")[1] == "<s>[INST] [INST] [/INST]"


def test_an_unknown_format_is_refused(capsys, tmp_path, dialogs, tiny_tokenizer):
    words = [f"--tokenizer={tiny_tokenizer.path}", "--format=vicuna"]
    assert "format 'vicuna' is unknown" in rendered(capsys, tmp_path, *words, status=2)[0]
