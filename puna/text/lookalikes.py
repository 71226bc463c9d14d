"""Tags of a chat format in disguise: other case, look-alike letters, invisible characters between.

Such a text has other ids than the tag, so that it is no tag to the format; but a model may read it
as one. A server that takes messages from strangers refuses it.
"""

import re
import unicodedata

from puna.errors import InputError
from puna.text.dialog import Dialog
from puna.text.template import tags_of
from puna.text.tokens import Tokenizer

# Characters that look like those of tags, as code points, where Unicode's own compatibility forms
# do not fold them into ASCII.
_ALIKE = {
    "<": "2039 3008 27e8 276c 2770 02c2 1438",
    ">": "203a 3009 27e9 276d 2771 02c3 1433",
    "<<": "300a 00ab 27ea 226a",
    ">>": "300b 00bb 27eb 226b",
    "[": "27e6 3010 3014 301a 2045 298b",
    "]": "27e7 3011 3015 301b 2046 298c",
    "/": "2215 2044 29f8 2571 27cb",
    "|": "2223 2502 01c0 2758",
    "_": "2017",
    "I": "0406 04c0 0399 2c92 13c6 a4f2",
    "i": "0456 0131 03b9 026a",
    "N": "039d a4e0",
    "n": "0274",
    "S": "0405 054f a4e2 13da",
    "s": "0455 a731",
    "T": "0422 03a4 a4d4 13a2",
    "t": "0442 1d1b 03c4",
    "Y": "0423 04ae 03a5 a4ec",
    "y": "0443 028f",
    "o": "043e 03bf 041e",
    "e": "0435 03b5",
    "a": "0430 03b1",
    "p": "0440 03c1",
    "m": "043c 041c",
}
_FOLDED = {int(code, 16): plain for plain, codes in _ALIKE.items() for code in codes.split()}


_UNSEEN = ("Cf", "Mn", "Me", "Cc")  # invisible characters, accents, control characters


def undisguised(text: str) -> str:
    """The text as it looks: without invisible characters and accents, in ASCII's small letters."""
    if text.isascii():
        return text.lower()
    spread = unicodedata.normalize("NFKD", text.translate(_FOLDED))
    seen = "".join(c for c in spread if unicodedata.category(c) not in _UNSEEN)
    return seen.translate(_FOLDED).lower()


def refuse_lookalikes(dialog: Dialog, tokenizer: Tokenizer) -> None:
    """InputError if a message holds what looks like a tag of the tokenizer's chat format."""
    tags = re.compile(tags_of(tokenizer).pattern, re.IGNORECASE)
    for index, message in enumerate(dialog.messages):
        if tags.search(undisguised(message.content)):
            raise InputError(
                f"message {index} ({message.role}) holds what looks like a tag of the chat format, "
                "which is not allowed as part of the prompt"
            )
