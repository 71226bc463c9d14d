"""A dialog to ids in the prompt format of a model, with the assistant's tokens marked.

A tokenizer names its model's format: Llama 2's (also with a system message), Llama 3's, ChatML,
ChatML as SmolLM2 has it, or plain text. The formats are written in Python; the template that a
model may bring along is a program, and is never run.

Whoever may write a format's tags could speak for somebody else. A message that holds one is
therefore refused, or spelled so that a model does not read it as a tag.
"""

import re
from typing import Literal

from puna.errors import InputError
from puna.text.dialog import Dialog
from puna.text.llama2_format import TAGS, encode_llama2
from puna.text.tokens import Tokenizer
from puna.text.turn_formats import encode_chatml, encode_llama3, encode_plain, encode_smollm2

__all__ = [
    "TAGS",
    "TagPolicy",
    "before_tag",
    "encode_dialog",
    "encode_prompt",
    "encode_unfinished",
]

TagPolicy = Literal["refuse", "escape"]

_NOTHING = "(?!)"  # a pattern that no text matches

_ENCODERS = {
    "llama2": encode_llama2,
    "llama3": encode_llama3,
    "chatml": encode_chatml,
    "smollm2": encode_smollm2,
    "plain": encode_plain,
}


def encode_dialog(
    dialog: Dialog, tokenizer: Tokenizer, tags: TagPolicy = "refuse"
) -> tuple[list[int], list[bool]]:
    """Return the dialog's ids, and for each id whether it belongs to an assistant's answer.

    An answer's ids include its end token: these are the targets of fine-tuning (Sec. 3.1). `tags`
    says what to do with a tag or the name of a special token inside a message: InputError by
    default; "escape" spells it in other ids, which decode to the same text.
    """
    if tags != "escape":
        _refusetags_of(dialog, tokenizer)
    return _ENCODERS[tokenizer.format](dialog, tokenizer)


def encode_prompt(dialog: Dialog, tokenizer: Tokenizer, tags: TagPolicy = "refuse") -> list[int]:
    """Return the ids after which a model writes its answer.

    InputError if the dialog does not end with a user message, or holds a tag (`encode_dialog`).
    """
    if not dialog.ends_with_user:
        raise InputError("a prompt ends with an assistant message, expected 'user'")
    return encode_dialog(dialog, tokenizer, tags)[0]


def encode_unfinished(
    dialog: Dialog, tokenizer: Tokenizer, tags: TagPolicy = "refuse"
) -> list[int]:
    """Return the ids after which a model goes on with the last answer, which has no end yet.

    InputError if the dialog ends with a user message, or holds a tag (`encode_dialog`).
    """
    if dialog.ends_with_user:
        raise InputError("what is to go on ends with a user message, expected 'assistant'")
    if tokenizer.format == "llama2":
        if tags != "escape":
            _refusetags_of(dialog, tokenizer)
        return encode_llama2(dialog, tokenizer, unfinished=True)[0]
    ids, mask = encode_dialog(dialog, tokenizer, tags)
    return ids[: len(mask) - 1 - mask[::-1].index(True)]  # up to the answer's end token


def before_tag(text: str, tokenizer: Tokenizer | None = None) -> str:
    """The text up to the first tag of the chat format, stripped: the rule for what a model says.

    The tags are those of the tokenizer's format; without one, Llama 2's.
    """
    found = tags_of(tokenizer).search(text)
    return (text[: found.start()] if found else text).strip()


def tags_of(tokenizer: Tokenizer | None) -> re.Pattern[str]:
    """A pattern of what may not stand in a message: any of `tag_names`."""
    longest_first = sorted(tag_names(tokenizer), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or _NOTHING)


def tag_names(tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """The tags of the tokenizer's format, or the names of its special tokens.

    Without a tokenizer, Llama 2's. Without special tokens in a format, `<s>` is an ordinary text,
    such as HTML's.
    """
    names = TAGS if tokenizer is None or tokenizer.format == "llama2" else tuple(tokenizer.control)
    if tokenizer is not None and tokenizer.format == "plain":
        names = tuple(name for name in names if name not in ("<s>", "</s>"))
    return names


def _refusetags_of(dialog: Dialog, tokenizer: Tokenizer) -> None:
    tags = tags_of(tokenizer)
    for index, message in enumerate(dialog.messages):
        found = tags.search(message.content)
        if found:
            name = f"dialog {dialog.id!r}: " if dialog.id else ""
            raise InputError(
                f"{name}message {index} ({message.role}) holds {found.group()!r}: the tags of the "
                "chat format are not allowed as part of the prompt"
            )
