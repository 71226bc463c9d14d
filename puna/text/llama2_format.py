"""Llama 2's chat format: text tags, which are ordinary tokens, around every user message.

Every user message and its answer are encoded on their own, as the text
`[INST] {user} [/INST] {answer} ` between the ids for begin and end. A system message stands inside
the first user message. The paper does not print the format; this is what the code released
with it does.

No message can assemble a tag out of the text around it: the format puts a blank or a line break on
either side of a message, and no tag holds one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from puna.errors import InputError
from puna.text.dialog import Dialog
from puna.text.tokens import Tokenizer

TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")

_TAG = re.compile("|".join(re.escape(tag) for tag in TAGS))


def encode_llama2(
    dialog: Dialog, tokenizer: Tokenizer, unfinished: bool = False
) -> tuple[list[int], list[bool]]:
    """Return the dialog's ids and which belong to an answer; a tag in a message goes in bytes.

    An answer's ids include the blanks around it and its end token; the last answer's only the
    blank before it where it is `unfinished`.
    """
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids: list[int] = []
    mask: list[bool] = []
    for segment in _segments(dialog, unfinished):
        own = _encode(segment, tokenizer)
        answered = tokenizer.covering(own, segment.question) if segment.answer else len(own)
        end = [] if segment.open else [tokenizer.eos_id]
        ids += [*begin, *own, *end]
        mask += [False] * (len(begin) + answered) + [True] * (len(own) - answered + len(end))
    return ids, mask


@dataclass(frozen=True)
class _Segment:
    """One user message and the answer to it, as text."""

    question: str  # from [INST] to [/INST]
    answer: str  # with the blanks around it; empty if the dialog ends with the user
    tags: frozenset[int]  # where the format's own tags begin in `question`
    open: bool  # whether the answer, or the rest of it, is yet to be written


def _segments(dialog: Dialog, unfinished: bool) -> Iterator[_Segment]:
    system = dialog.system
    turns = dialog.messages[0 if system is None else 1 :]
    for index in range(0, len(turns), 2):
        question, tags = _question(turns[index].content, system if index == 0 else None)
        answers = turns[index + 1 : index + 2]
        answer = f" {answers[0].content.strip()} " if answers else ""
        open = not answers or (unfinished and index + 2 >= len(turns))
        yield _Segment(question, answer.rstrip() if open else answer, tags, open)


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


def _spell(tag: str, tokenizer: Tokenizer) -> list[int]:
    """A tag in byte ids. InputError if the tokenizer itself knows no other way to write it."""
    ids = tokenizer.encode_bytes(tag)
    if ids == tokenizer.encode_continuation(tag):
        raise InputError(f"{tokenizer.path}: spells the tag {tag!r} in bytes: cannot escape it")
    return ids
