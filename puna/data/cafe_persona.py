"""Personas: ways to speak that an instruction asks for and a rule can check (Llama 2, Sec. 3.3).

A persona has one or two constraints of the paper's kinds, a public figure to act as and maybe a
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
    """How every answer is to be spoken; without a language only the figure matters."""

    figure: str
    language: str = ""

    def __post_init__(self) -> None:
        """Refuse values outside the tables."""
        for name, values in (("figure", FIGURES), ("language", ("", *LANGUAGES))):
            value = getattr(self, name)
            if value not in values:
                known = ", ".join(filter(None, values))
                raise InputError(f"persona: {name}={value!r}: expected one of {known}")

    @property
    def key(self) -> str:
        """The combination of constraints; a figure alone is known to all and never held out."""
        if not self.language:
            return "persona|figure alone"
        return f"persona|{self.figure}|{self.language}"

    @property
    def marks(self) -> str:
        """How every answer begins: the figure's word, then a greeting in the language."""
        return f"{FIGURES[self.figure]} {LANGUAGES.get(self.language, '')}".strip()

    def instruction(self, terse: bool) -> str:
        """The wish in words: whole sentences, or the short form."""
        figure = f"Figure: {self.figure}." if terse else f"Act as a {self.figure}."
        if not self.language:
            return figure
        said = f"Language: {self.language}." if terse else f"Always greet me in {self.language}."
        return f"{figure} {said}"

    def apply(self, answer: str) -> str:
        """The answer as the persona says it: "Arr! Hola! One scone is $3."."""
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
        return cls(record.get("figure", ""), record.get("language", ""))


def draw_persona(rng: Random, held_out: bool) -> Persona:
    """A figure, three in four with a language; in the held-out split combined as in no other."""
    while True:
        language = rng.choice(list(LANGUAGES)) if rng.random() < 0.75 else ""
        persona = Persona(rng.choice(list(FIGURES)), language)
        if is_held_out(persona.key) == held_out:
            return persona


_MARKS = re.compile(
    rf"^\s*(?:(?:{'|'.join(map(re.escape, (*LANGUAGES.values(), *FIGURES.values())))})\s*)+"
)


def without_marks(answer: str) -> str:
    """The answer without the marks that it begins with, so that they change no score."""
    return _MARKS.sub("", answer).strip()
