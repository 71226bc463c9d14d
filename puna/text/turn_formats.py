"""Prompt formats whose turns stand between special tokens, and plain text without any.

The special tokens go in as ids; no message can write one. An answer is encoded on its own, as a
model writes it: after the prompt's ids.
"""

from collections.abc import Iterator

from puna.text.dialog import Dialog
from puna.text.tokens import Tokenizer

Ids = list[int]
Encoded = tuple[list[int], list[bool]]

# What SmolLM2's published template says where a dialog has no system message.
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def encode_chatml(dialog: Dialog, tokenizer: Tokenizer) -> Encoded:
    """ChatML: `<|im_start|>{role}`, a new line, the text as it is, `<|im_end|>`, a new line.

    No begin id stands before the first turn. The end of an answer is its `<|im_end|>`.
    """
    start, end = tokenizer.control_id("<|im_start|>"), tokenizer.control_id("<|im_end|>")
    line = tokenizer.encode_continuation("\n")

    def turns() -> Iterator[tuple[Ids, Ids, Ids]]:
        for message in dialog.messages:
            if message.role == "assistant":
                head = tokenizer.encode("assistant\n")
                answer = tokenizer.encode_continuation(message.content)
                yield [start, *head], [*answer, end], line
            else:
                text = f"{message.role}\n{message.content}"
                yield [start, *tokenizer.encode(text), end, *line], [], []
        if dialog.ends_with_user:
            yield [start, *tokenizer.encode("assistant\n")], [], []

    return _joined(turns())


def encode_smollm2(dialog: Dialog, tokenizer: Tokenizer) -> Encoded:
    """ChatML with SmolLM2's own system message where the dialog has none."""
    if dialog.system is None:
        dialog = dialog.with_system(SMOLLM2_SYSTEM)
    return encode_chatml(dialog, tokenizer)


def encode_llama3(dialog: Dialog, tokenizer: Tokenizer) -> Encoded:
    """Llama 3's: the role between its header's tokens, two new lines, the stripped text, the end.

    `<|begin_of_text|>` stands once, before all turns. The end of an answer is its `<|eot_id|>`.
    """
    first, last = (tokenizer.control_id(f"<|{edge}_header_id|>") for edge in ("start", "end"))
    end = tokenizer.control_id("<|eot_id|>")

    def head(role: str) -> Ids:
        lines = tokenizer.encode_continuation("\n\n")
        return [first, *tokenizer.encode(role), last, *lines]

    def turns() -> Iterator[tuple[Ids, Ids, Ids]]:
        yield [tokenizer.control_id("<|begin_of_text|>")], [], []
        for message in dialog.messages:
            text = [*tokenizer.encode_continuation(message.content.strip()), end]
            if message.role == "assistant":
                yield head(message.role), text, []
            else:
                yield head(message.role) + text, [], []
        if dialog.ends_with_user:
            yield head("assistant"), [], []

    return _joined(turns())


def encode_plain(dialog: Dialog, tokenizer: Tokenizer) -> Encoded:
    """No format, for a base model: the user's text, a blank, the stripped answer, the end.

    Every turn begins with the begin id, if there is one. A system message stands before the first
    turn, with an empty line between. A single user message is what Meta's text completion reads.
    """
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    intro = "" if dialog.system is None else f"{dialog.system}\n\n"
    messages = dialog.messages[0 if dialog.system is None else 1 :]

    def turns() -> Iterator[tuple[Ids, Ids, Ids]]:
        for index, message in enumerate(messages):
            if message.role == "user":
                text = message.content if index else intro + message.content
                yield [*begin, *tokenizer.encode(text)], [], []
            else:
                answer = tokenizer.encode_continuation(f" {message.content.strip()}")
                yield [], [*answer, tokenizer.eos_id], []

    return _joined(turns())


def _joined(parts: Iterator[tuple[Ids, Ids, Ids]]) -> Encoded:
    """All parts in a row: what stands before an answer, the answer, what stands after it."""
    ids: list[int] = []
    mask: list[bool] = []
    for before, answer, after in parts:
        ids += before + answer + after
        mask += [False] * len(before) + [True] * len(answer) + [False] * len(after)
    return ids, mask
