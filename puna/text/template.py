"""Llama 2's chat format: a dialog to ids, with the assistant's tokens marked.

Every user message and its answer are encoded on their own, as the text
`[INST] {user} [/INST] {answer} ` between the ids for begin and end. A system message stands inside
the first user message. The paper does not print the format; this is what the code released
with it does.

The tags are plain text, so whoever may write one could speak for somebody else. A message that
holds a tag is therefore refused, or spelled in bytes so that a model does not read it as a tag.
No message can assemble a tag out of the text around it: the format puts a blank or a line break on
either side of a message, and no tag holds one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from puna.errors import InputError
from puna.text.dialog import Dialog
from puna.text.tokenizer import Tokenizer

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
TagPolicy = Literal["refuse", "escape"]

_TAG = re.compile("|".join(re.escape(tag) for tag in TAGS))


def encode_dialog(
    dialog: Dialog, tokenizer: Tokenizer, tags: TagPolicy = "refuse"
) -> tuple[list[int], list[bool]]:
    """Return the dialog's ids, and for each id whether it belongs to an assistant's answer.

    An answer's ids include the blanks around it and its end token: these are the targets of
    fine-tuning (Sec. 3.1). `tags` says what to do with a tag inside a message: InputError by
    default; "escape" spells it in byte ids, which decode to the same text.
    """
    if tags != "escape":
        _refuse_tags(dialog)
    ids: list[int] = []
    mask: list[bool] = []
    for segment in _segments(dialog):
        own = _encode(segment, tokenizer)
        answered = len(own) if segment.open else tokenizer.covering(own, segment.question)
        end = [] if segment.open else [tokenizer.eos_id]
        ids += [tokenizer.bos_id, *own, *end]
        mask += [False] * (1 + answered) + [True] * (len(own) - answered + len(end))
    return ids, mask


def encode_prompt(dialog: Dialog, tokenizer: Tokenizer, tags: TagPolicy = "refuse") -> list[int]:
    """Return the ids after which a model writes its answer.

    InputError if the dialog does not end with a user message, or holds a tag (`encode_dialog`).
    """
    if not dialog.ends_with_user:
        raise InputError("a prompt ends with an assistant message, expected 'user'")
    return encode_dialog(dialog, tokenizer, tags)[0]


@dataclass(frozen=True)
class _Segment:
    """One user message and the answer to it, as text."""

    question: str  # from [INST] to [/INST]
    answer: str  # with the blanks around it; empty if the dialog ends with the user
    tags: frozenset[int]  # where the format's own tags begin in `question`
    open: bool  # whether the answer is yet to be written


def _segments(dialog: Dialog) -> Iterator[_Segment]:
    system = dialog.system
    turns = dialog.messages[0 if system is None else 1 :]
    for index in range(0, len(turns), 2):
        question, tags = _question(turns[index].content, system if index == 0 else None)
        answers = turns[index + 1 : index + 2]
        answer = f" {answers[0].content.strip()} " if answers else ""
        yield _Segment(question, answer, tags, open=not answers)


def _question(user: str, system: str | None) -> tuple[str, frozenset[int]]:
    """The text of a user message with the first one's system message, and its tags' places."""
    start = len("[INST] ")
    if system is None:
        text, places = user, set()
    else:
        text = f"<<SYS>>\n{system}\n<</SYS>>\n\n{user}"
        places = {start, start + len(f"<<SYS>>\n{system}\n")}
    question = f"[INST] {text.strip()} [/INST]"
    return question, frozenset(places | {0, len(question) - len("[/INST]")})


def _encode(segment: _Segment, tokenizer: Tokenizer) -> list[int]:
    """A segment's ids without begin and end, any forged tag spelled in bytes."""
    text = segment.question + segment.answer
    forged = [found for found in _TAG.finditer(text) if found.start() not in segment.tags]
    if not forged:
        return tokenizer.encode(text)
    ids = tokenizer.encode(text[: forged[0].start()])
    ends = [found.start() for found in forged[1:]] + [len(text)]
    for found, end in zip(forged, ends, strict=True):
        ids += _spell(found.group(), tokenizer)
        ids += tokenizer.encode_continuation(text[found.end() : end])
    return ids


def before_tag(text: str) -> str:
    """The text up to the first tag of the chat format, stripped: the rule for what a model says."""
    found = _TAG.search(text)
    return (text[: found.start()] if found else text).strip()


def _spell(tag: str, tokenizer: Tokenizer) -> list[int]:
    """A tag in byte ids. InputError if the tokenizer itself knows no other way to write it."""
    ids = tokenizer.encode_bytes(tag)
    if ids == tokenizer.encode_continuation(tag):
        raise InputError(f"{tokenizer.path}: spells the tag {tag!r} in bytes: cannot escape it")
    return ids


def _refuse_tags(dialog: Dialog) -> None:
    for index, message in enumerate(dialog.messages):
        found = _TAG.search(message.content)
        if found:
            name = f"dialog {dialog.id!r}: " if dialog.id else ""
            raise InputError(
                f"{name}message {index} ({message.role}) holds {found.group()!r}: the tags of the "
                "chat format are not allowed as part of the prompt"
            )
