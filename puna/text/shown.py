"""Ids as text that shows everything: control tokens by their names, answers in ⟦ ⟧."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from puna.text.tokens import StreamDecoder, Tokenizer


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


def runs(ids: Sequence[int], mask: Sequence[bool]) -> Iterator[tuple[bool, list[int]]]:
    """The ids in runs that belong to an answer, or do not."""
    for answer, run in groupby(zip(mask, ids, strict=True), key=itemgetter(0)):
        yield answer, [token for _, token in run]
