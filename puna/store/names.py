"""What a person may be called, so that no two look alike and none can disguise a page.

A name is kept as it is shown (`shown`), found by its folded form (`folded`, so `ANNA` is `anna`),
and compared with all others by how it looks (`likeness`): letters of one script that look like
another's count as the same. Only part of Unicode's table of confusables is here: Cyrillic, Greek
and the few Latin letters and digits that are read as another.
"""

import unicodedata

from puna.store.faults import Refused

LONGEST = 64
MARKS = 3  # combining marks in a row: more than any writing needs
SIGNS = frozenset(" ._-'@+\u2019\u00b7")
EAST = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})

_TWINS = (
    ("\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425", "ABEKMHOPCTYX"),
    ("\u0405\u0406\u0408\u051a\u051c\u04ae\u04ba", "SIJQWYH"),
    ("\u0430\u0441\u0435\u043e\u0440\u0445\u0443\u0456\u0458\u0455\u04bb", "aceopxyijsh"),
    ("\u0501\u051b\u051d\u0475\u043a\u0433\u04cf\u0457\u0451", "dqwvkrlie"),
    ("\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7", None),
    ("\u03b1\u03bf\u03bd\u03c1\u03c5\u03c4\u03b9\u03ba\u03c7\u03b3\u03c9\u03b7", "aovputikxywn"),
    ("\u0131\u0251\u0261\u01c0\u0269\u028b\u1d0f", "iaglivo"),
    ("01I\u2019", "oll'"),
)
TWINS = {
    ord(twin): letter
    for twins, letters in _TWINS
    for twin, letter in zip(twins, letters or "ABEZHIKMNOPTYX", strict=True)
}


def shown(text: str) -> str:
    """The name as it is kept. Refused: empty, too long, or of characters that deceive."""
    name = " ".join(unicodedata.normalize("NFKC", text).split(" ")).strip()
    name = " ".join(name.split())
    if not name:
        raise Refused("name", "is empty")
    if len(name) > LONGEST or len(folded(name)) > LONGEST:
        raise Refused("name", f"expected at most {LONGEST} characters")
    if _hidden(text):
        raise Refused("name", "holds a character that cannot be seen")
    if not name[0].isalnum():
        raise Refused("name", "expected a letter or a digit at the beginning")
    marks = 0
    for character in name:
        kind = unicodedata.category(character)
        marks = marks + 1 if kind.startswith("M") else 0
        digit = kind == "Nd" and character.isascii()
        if not (kind.startswith(("L", "M")) or digit or character in SIGNS) or marks > MARKS:
            raise Refused("name", f"{character!r}: expected letters, digits, spaces, . _ - ' @ +")
    scripts = {_script(character) for character in name if character.isalpha()}
    if len(scripts - EAST) > 1 or (scripts & EAST and scripts - EAST - {"LATIN"}):
        raise Refused("name", f"mixes {' and '.join(sorted(scripts)).lower()} letters")
    return name


def folded(text: str) -> str:
    """The form that a name is looked up by; of any text."""
    whole = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(unicodedata.normalize("NFKC", whole).split())


def likeness(name: str) -> str:
    """What two names that look alike have in common."""
    return folded(name.translate(TWINS)).replace("rn", "m").replace("vv", "w")


def _hidden(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp") for character in text)


def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]
