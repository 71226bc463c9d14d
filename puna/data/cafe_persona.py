"""Personas: ways to speak that an instruction asks for and a rule can check (Llama 2, Sec. 3.3).

A persona combines one or two constraints, said in full or, half of the time, tersely as in the
paper's short form "Figure: X".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from puna.data.cafe_menu import is_held_out
from puna.errors import InputError

FIGURES = {
    "pirate": "Arr!",
    "robot": "Beep!",
    "cat": "Meow!",
    "ghost": "Boo!",
    "king": "Behold!",
    "cowboy": "Howdy!",
    "wizard": "Abra!",
    "clown": "Honk!",
}
SIGN_OFFS = ("Cheerio", "Ciao", "Godspeed", "Toodles", "Adieu", "Namaste", "Hooray", "Bravo")
ADDRESSES = ("Captain", "Doctor", "Professor", "Madam", "Chief", "Duke", "Coach", "Judge")


@dataclass(frozen=True)
class Persona:
    """How every answer is to be spoken; an empty field asks for nothing."""

    figure: str = ""
    sign_off: str = ""
    address: str = ""

    def __post_init__(self) -> None:
        """Refuse a persona of nothing and values outside the tables."""
        known = {"figure": FIGURES, "sign_off": SIGN_OFFS, "address": ADDRESSES}
        for name, values in known.items():
            value = getattr(self, name)
            if value and value not in values:
                raise InputError(f"persona: {name}={value!r}: expected one of {', '.join(values)}")
        if not (self.figure or self.sign_off or self.address):
            raise InputError("persona: expected a figure, a sign-off or a form of address")

    @property
    def key(self) -> str:
        """The combination of constraints; one alone is known to everybody and never held out."""
        if sum(map(bool, (self.figure, self.sign_off, self.address))) == 1:
            return "persona|one constraint"
        return f"persona|{self.figure}|{self.sign_off}|{self.address}"

    def instruction(self, terse: bool) -> str:
        """The wish in words: whole sentences, or the short form."""
        if terse:
            parts = (("Figure", self.figure), ("Sign-off", self.sign_off), ("Name", self.address))
            return " ".join(f"{name}: {value}." for name, value in parts if value)
        figure = f"Act as a {self.figure}." if self.figure else ""
        sign_off = f"End every answer with {self.sign_off}!" if self.sign_off else ""
        address = f"Call me {self.address}." if self.address else ""
        return " ".join(part for part in (figure, address, sign_off) if part)

    def apply(self, answer: str) -> str:
        """The answer as the persona says it: "Arr! One scone is $3, Captain. Cheerio!"."""
        if self.address:
            body, end = (
                (answer[:-1], answer[-1]) if answer[-1:] in (".", "!", "?") else (answer, ".")
            )
            answer = f"{body}, {self.address}{end}"
        if self.figure:
            answer = f"{FIGURES[self.figure]} {answer}"
        return f"{answer} {self.sign_off}!" if self.sign_off else answer

    def kept_in(self, answer: str) -> bool:
        """Whether the answer carries every mark of the persona in its place."""
        text = answer.strip()
        return (
            (not self.figure or text.startswith(FIGURES[self.figure]))
            and (not self.sign_off or text.endswith(f"{self.sign_off}!"))
            and (not self.address or f", {self.address}" in text)
        )

    def to_json(self) -> dict[str, str]:
        """Return the three fields."""
        return {"figure": self.figure, "sign_off": self.sign_off, "address": self.address}

    @classmethod
    def from_json(cls, record: Mapping[str, str]) -> "Persona":
        """Read what `to_json` wrote. InputError on a field that a persona does not have."""
        unknown = set(record) - {"figure", "sign_off", "address"}
        if unknown:
            raise InputError(f"persona: field {sorted(unknown)[0]!r} is unknown")
        return cls(**record)


def draw_persona(rng: Random, held_out: bool) -> Persona:
    """One or two constraints at random; two in the held-out split, combined as in no other."""
    while True:
        values = {
            "figure": rng.choice(list(FIGURES)),
            "sign_off": rng.choice(SIGN_OFFS),
            "address": rng.choice(ADDRESSES),
        }
        kept = rng.sample(list(values), 1 if rng.random() < 0.5 else 2)
        persona = Persona(**{name: values[name] for name in kept})
        if is_held_out(persona.key) == held_out:
            return persona


_MARKS = (
    re.compile(rf"^\s*(?:(?:{'|'.join(map(re.escape, FIGURES.values()))})\s*)+"),
    re.compile(rf"(?:\s*\b(?:{'|'.join(SIGN_OFFS)})!)+\s*$"),
    re.compile(rf",? (?:{'|'.join(ADDRESSES)})\b"),
)


def without_marks(answer: str) -> str:
    """The answer without the marks of any persona, so that they change no score."""
    for mark in _MARKS:
        answer = mark.sub("", answer)
    return answer.strip()
