"""Personas: ways to speak that an instruction asks for and a rule can check (Llama 2, Sec. 3.3).

A persona combines one or two constraints of the paper's kinds, a public figure to act as and a
language, said in full or, half of the time, tersely as in its short form "Figure: X".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from puna.data.cafe_menu import is_held_out
from puna.errors import InputError

# Every word begins with another letter than its neighbours: a small vocabulary splits words, and
# what a model of a million parameters cannot tell apart at the first piece, it confuses.
FIGURES = {
    "pirate": "Arr!",
    "robot": "Beep!",
    "cat": "Meow!",
    "ghost": "Boo!",
    "king": "Behold!",
    "wizard": "Abra!",
    "dragon": "Roar!",
    "fairy": "Tada!",
}
LANGUAGES = {
    "French": "Bonjour!",
    "Spanish": "Hola!",
    "Italian": "Ciao!",
    "German": "Hallo!",
    "Hindi": "Namaste!",
    "Korean": "Annyeong!",
    "Latin": "Salve!",
    "Maori": "Kiaora!",
}


@dataclass(frozen=True)
class Persona:
    """How every answer is to be spoken; an empty field asks for nothing."""

    figure: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        """Refuse a persona of nothing and values outside the tables."""
        for name, values in (("figure", FIGURES), ("language", LANGUAGES)):
            value = getattr(self, name)
            if value and value not in values:
                raise InputError(f"persona: {name}={value!r}: expected one of {', '.join(values)}")
        if not (self.figure or self.language):
            raise InputError("persona: expected a figure or a language")

    @property
    def key(self) -> str:
        """The combination of constraints; one alone is known to everybody and never held out."""
        if not (self.figure and self.language):
            return "persona|one constraint"
        return f"persona|{self.figure}|{self.language}"

    @property
    def marks(self) -> str:
        """How every answer begins: a greeting in the language, then the figure's word."""
        found = (LANGUAGES.get(self.language, ""), FIGURES.get(self.figure, ""))
        return " ".join(mark for mark in found if mark)

    def instruction(self, terse: bool) -> str:
        """The wish in words: whole sentences, or the short form."""
        if terse:
            parts = (("Figure", self.figure), ("Language", self.language))
            return " ".join(f"{name}: {value}." for name, value in parts if value)
        figure = f"Act as a {self.figure}." if self.figure else ""
        language = f"Always greet me in {self.language}." if self.language else ""
        return " ".join(part for part in (figure, language) if part)

    def apply(self, answer: str) -> str:
        """The answer as the persona says it: "Hola! Arr! One scone is $3."."""
        return f"{self.marks} {answer}"

    def kept_in(self, answer: str) -> bool:
        """Whether the answer begins with every mark of the persona, and no other."""
        text = answer.strip()
        return text.removesuffix(without_marks(text)).strip() == self.marks

    def to_json(self) -> dict[str, str]:
        """Return both fields."""
        return {"figure": self.figure, "language": self.language}

    @classmethod
    def from_json(cls, record: Mapping[str, str]) -> "Persona":
        """Read what `to_json` wrote. InputError on a field that a persona does not have."""
        unknown = set(record) - {"figure", "language"}
        if unknown:
            raise InputError(f"persona: field {sorted(unknown)[0]!r} is unknown")
        return cls(**record)


def draw_persona(rng: Random, held_out: bool) -> Persona:
    """One or two constraints at random; two in the held-out split, combined as in no other."""
    while True:
        values = {"figure": rng.choice(list(FIGURES)), "language": rng.choice(list(LANGUAGES))}
        kept = rng.sample(list(values), rng.choice((1, 2)))
        persona = Persona(**{name: values[name] for name in kept})
        if is_held_out(persona.key) == held_out:
            return persona


_MARKS = re.compile(
    rf"^\s*(?:(?:{'|'.join(map(re.escape, (*LANGUAGES.values(), *FIGURES.values())))})\s*)+"
)


def without_marks(answer: str) -> str:
    """The answer without the marks that it begins with, so that they change no score."""
    return _MARKS.sub("", answer).strip()
