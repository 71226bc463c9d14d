"""Render: dialogues as a model reads them, with every special token shown and answers marked.

    puna render dialogs.jsonl --tokenizer runs/cafe/sft/checkpoint
    puna render dialogs.jsonl --ids --tokenizer model.gguf --format chatml

Prints each dialogue's text in the prompt format of its tokenizer's model; what stands in ⟦ ⟧ is an
answer, of which every token is a target of fine-tuning (section 3.1). With --ids the ids follow,
answers marked in the same way. The text is decoded from the ids, so what it shows is what is there.
Writes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from puna.errors import InputError
from puna.model import checkpoint, places
from puna.text.dialog import Dialog
from puna.text.files import read_dialogs
from puna.text.template import encode_dialog
from puna.text.tokenizer import StreamDecoder, Tokenizer, open_tokenizer

POSITIONAL = "dialogs"


@dataclass(frozen=True, kw_only=True)
class Config:
    dialogs: Path  # dialogues, one a line
    tokenizer: Path  # tokenizer.model or tokenizer.json, or a model in any format
    ids: bool = False  # whether to print the ids too
    format: str = ""  # llama2, llama3, chatml, smollm2 or plain; empty: the tokenizer's own
    tags: Literal["refuse", "escape"] = "refuse"  # a tag of the format inside a message
    first: Annotated[int, Meta(ge=0)] = 0  # dialogues to print; 0: all of them


def main(config: Config) -> None:
    tokenizer = tokenizer_at(config.tokenizer, config.format or None)
    dialogs = read_dialogs(config.dialogs)[: config.first or None]
    for number, dialog in enumerate(dialogs, start=1):
        try:
            ids, mask = encode_dialog(dialog, tokenizer, config.tags)
        except InputError as error:
            raise InputError(f"{config.dialogs}: dialogue {number}: {error}") from None
        print(heading(dialog, number, tokenizer, mask))
        print(shown_text(tokenizer, ids, mask))
        if config.ids:
            print(shown_ids(ids, mask))
        print()


def tokenizer_at(place: Path, format: str | None) -> Tokenizer:
    """The tokenizer in a file, or that of a model. InputError: there is none."""
    if place.suffix in (".model", ".json") or not places.known(places.locate(place)):
        return open_tokenizer(place, format)
    return checkpoint.tokenizer_for(places.open_source(place, verify=False), place, format)


def heading(dialog: Dialog, number: int, tokenizer: Tokenizer, mask: Sequence[bool]) -> str:
    """The line above a dialogue: its name, its format, how many tokens it has."""
    name = dialog.id or f"dialogue {number}"
    return f"# {name}: {tokenizer.format}, {len(mask)} tokens, {sum(mask)} of answers"


def shown_text(tokenizer: Tokenizer, ids: Sequence[int], mask: Sequence[bool]) -> str:
    """The text of ids with the names of control tokens, every answer in ⟦ ⟧."""
    names = {token: name for name, token in tokenizer.control.items()}
    decoder = StreamDecoder(tokenizer)
    text = ""
    for answer, run in runs(ids, mask):
        said = ""
        for token in run:
            if token in names:
                said += decoder.flush() + names[token]
                decoder = StreamDecoder(tokenizer)  # a text of its own begins
            else:
                said += decoder.push(token)
        said += decoder.flush()
        text += f"⟦{said}⟧" if answer else said
    return text


def shown_ids(ids: Sequence[int], mask: Sequence[bool]) -> str:
    """The ids in a row, those of every answer in ⟦ ⟧."""
    rows = ((answer, " ".join(map(str, run))) for answer, run in runs(ids, mask))
    return " ".join(f"⟦{row}⟧" if answer else row for answer, row in rows)


def runs(ids: Sequence[int], mask: Sequence[bool]) -> Iterator[tuple[bool, list[int]]]:
    """The ids in runs that belong to an answer, or do not."""
    for answer, run in groupby(zip(mask, ids, strict=True), key=itemgetter(0)):
        yield answer, [token for _, token in run]
