"""Passwords: which are taken, and how they are kept (argon2id).

`Passwords` blocks for as long as a hash takes and needs the memory of its cost: who calls it sees
to it that few run at a time.
"""

import re
import unicodedata
from dataclasses import dataclass

import argon2
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from puna.store.faults import Refused
from puna.store.names import folded

SHORTEST, LONGEST = 10, 256

# What people take first. A password is common if one of these is left of it without the digits and
# signs around it, and with the digits and signs in it read as the letters they stand for.
COMMON = frozenset(
    "password passwort passwordpassword letmein welcome admin administrator changeme iloveyou "
    "qwerty qwertyuiop qwertz azerty asdfghjkl dragon monkey football baseball sunshine princess "
    "superman trustno master secret whatever starwars computer internet login llama puna".split()
)
LETTERS = str.maketrans("013457@$!", "oleastasi")
ROWS = ("01234567890", "abcdefghijklmnopqrstuvwxyz", "qwertyuiop", "qwertzuiop", "azertyuiop")


@dataclass(frozen=True)
class Cost:
    """What a hash takes: RFC 9106's second choice."""

    passes: int = 3
    memory: int = 64 * 1024  # KiB
    lanes: int = 4


class Passwords:
    """Makes and checks hashes of one cost."""

    def __init__(self, cost: Cost | None = None) -> None:
        """argon2id of this cost."""
        cost = cost or Cost()
        self._hasher = argon2.PasswordHasher(cost.passes, cost.memory, cost.lanes)
        self._nobodys = ""

    def hashed(self, password: str) -> str:
        """The hash to keep."""
        return self._hasher.hash(normal(password))

    def matches(self, kept: str | None, password: str) -> bool:
        """Whether this is the password. As much work where there is none to compare with."""
        try:
            self._hasher.verify(kept or self._dummy(), normal(password))
        except (VerifyMismatchError, VerificationError, InvalidHashError):
            return False
        return kept is not None

    def outgrown(self, kept: str) -> bool:
        """Whether a hash was made at another cost than ours."""
        return self._hasher.check_needs_rehash(kept)

    def prepare(self) -> None:
        """Make now what the first unknown name would else wait for."""
        self._dummy()

    def _dummy(self) -> str:
        if not self._nobodys:
            self._nobodys = self._hasher.hash("nobody's password")
        return self._nobodys


def normal(password: str) -> str:
    """The same password from every keyboard."""
    return unicodedata.normalize("NFKC", password)


def check_password(password: str, name: str) -> None:
    """Refused: too short, too long, the person's name, or one that everybody tries first."""
    text = normal(password)
    if not SHORTEST <= len(text) <= LONGEST:
        raise Refused("password", f"expected {SHORTEST} to {LONGEST} characters")
    own = _letters(name)
    if own and len(_letters(text).replace(own, "")) < 4:
        raise Refused("password", "is little more than the name")
    if _common(folded(text)):
        raise Refused("password", "is one of those that are tried first")


def _letters(text: str) -> str:
    return "".join(character for character in folded(text) if character.isalnum())


def _common(text: str) -> bool:
    core = re.sub(r"^[^a-z]+|[^a-z]+$", "", text)
    spelled = re.sub(r"[^a-z]", "", text.translate(LETTERS))
    if {core, core.translate(LETTERS), spelled} & COMMON:
        return True
    if len(set(text)) < 4 or re.fullmatch(r"(.{1,5})\1+.?", text):
        return True
    return any(text in row * 2 or text in row[::-1] * 2 for row in ROWS)
