"""Render: dialogues as a model reads them, with every special token shown and answers marked.

    puna render dialogs.jsonl --tokenizer runs/cafe/sft/checkpoint
    puna render dialogs.jsonl --ids --tokenizer model.gguf --format chatml

Prints each dialogue's text in the prompt format of its tokenizer's model; what stands in ⟦ ⟧ is an
answer, of which every token is a target of fine-tuning (section 3.1). With --ids the ids follow,
answers marked in the same way. The text is decoded from the ids, so what it shows is what is there.
Writes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from puna.errors import InputError
from puna.model import checkpoint, places
from puna.text.dialog import Dialog
from puna.text.files import read_dialogs
from puna.text.shown import runs, shown_text
from puna.text.template import encode_dialog
from puna.text.tokenizer import Tokenizer, open_tokenizer

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


def shown_ids(ids: Sequence[int], mask: Sequence[bool]) -> str:
    """The ids in a row, those of every answer in ⟦ ⟧."""
    rows = ((answer, " ".join(map(str, run))) for answer, run in runs(ids, mask))
    return " ".join(f"⟦{row}⟧" if answer else row for answer, row in rows)
