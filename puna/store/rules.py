"""The rules of a campaign: what they can be, what they are at first, what is refused.

Paper values stand beside the defaults (sections 3.2.1, 3.4.2, 4.2.1, 4.3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NoReturn

from puna.store.faults import Refused
from puna.store.guidelines import guidelines_for

KINDS = ("preference", "evaluation", "redteam")
AIMS = ("helpfulness", "safety")
CATEGORIES = (
    "factual questions",
    "writing and content creation",
    "language assistance",
    "recommendations",
    "dialogue",
)
RISKS = ("illicit and criminal activities", "hateful and harmful activities", "unqualified advice")
VECTORS = (
    "psychological manipulation",
    "logic manipulation",
    "syntactic manipulation",
    "semantic manipulation",
    "perspective manipulation",
    "non-English languages",
    "other",
)
MOST_VARIANTS, MOST_WORDS, MOST_GUIDELINES = 8, 64, 50_000


@dataclass(frozen=True)
class Variant:
    """A model, and how it is asked."""

    model: str
    temperature: float = 0.7
    top_p: float = 0.9
    max_tokens: int = 512


@dataclass(frozen=True)
class Rules:
    """What a campaign asks for. `kind_rules` are those of its kind (`kind_defaults`)."""

    name: str
    kind: str = "preference"
    aim: str = "helpfulness"
    guidelines: str = ""
    overlap: int = 1  # annotators an item (paper: 3 in evaluation)
    quota: int = 0  # items a person may judge; 0: no limit
    lease_seconds: float = 1800.0
    max_turns: int = 1
    own_prompts: bool = False
    gold_share: float = 0.0
    pass_mark: float = 0.0  # 0: no test
    variants: Sequence[Variant] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def columns(self) -> dict[str, Any]:
        """The rules as a row of `Campaign` has them."""
        row = {name.name: getattr(self, name.name) for name in fields(self)}
        return row | {
            "variants": [asdict(variant) for variant in self.variants],
            "settings": dict(self.settings),
        }


def defaults(kind: str, aim: str, model: str = "") -> Rules:
    """The rules that a new campaign begins with. Refused: a kind or an aim that there is not."""
    _one_of("kind", kind, KINDS)
    _one_of("aim", aim, AIMS)
    talks = {
        "preference": {"overlap": 1, "max_turns": 4, "own_prompts": True},
        "evaluation": {"overlap": 3, "max_turns": 1, "own_prompts": False},
        "redteam": {"overlap": 1, "max_turns": 16, "own_prompts": True},
    }[kind]
    tokens = 1000 if kind == "evaluation" else 512
    heats = {"preference": (0.6, 1.0), "evaluation": (0.1, 0.1), "redteam": (0.7,)}[kind]
    return Rules(
        name="",
        kind=kind,
        aim=aim,
        guidelines=guidelines_for(kind, aim),
        variants=[Variant(model, heat, 0.9, tokens) for heat in heats],
        settings=kind_defaults(kind, aim),
        **talks,  # type: ignore[arg-type]
    )


def kind_defaults(kind: str, aim: str) -> dict[str, Any]:
    """The settings that only this kind of campaign has, as they are at first.

    `categories` of prompts, `risks` and `vectors` of attacks, `review_share` of the judgements that
    a reviewer sees (0: no review), `context_tokens` of a prompt (0: what the model can hold),
    `round` of an attack.
    """
    if kind == "redteam":
        return {"risks": list(RISKS), "vectors": list(VECTORS), "round": 1}
    attacks = {"risks": list(RISKS), "vectors": list(VECTORS)} if aim == "safety" else {}
    if kind == "evaluation":  # where people differ is a result, and not reviewed
        return {"categories": list(CATEGORIES), "review_share": 0.0, "context_tokens": 1000}
    judged = {"categories": list(CATEGORIES), "review_share": 0.1, "context_tokens": 0}
    return judged | attacks


def check(rules: Rules) -> None:
    """Refused: the first rule that cannot be, with what was expected."""
    if not rules.name.strip() or len(rules.name) > 200 or "\n" in rules.name:
        raise Refused("name", "expected one line of 1 to 200 characters")
    _one_of("kind", rules.kind, KINDS)
    _one_of("aim", rules.aim, AIMS)
    if not rules.guidelines.strip() or len(rules.guidelines) > MOST_GUIDELINES:
        raise Refused("guidelines", f"expected 1 to {MOST_GUIDELINES} characters")
    _within("overlap", rules.overlap, 1, 25)
    _within("quota", rules.quota, 0, 1_000_000)
    _within("lease_seconds", rules.lease_seconds, 30, 7 * 86400)
    _within("max_turns", rules.max_turns, 1, 100)
    _within("gold_share", rules.gold_share, 0, 0.5)
    _within("pass_mark", rules.pass_mark, 0, 1)
    if rules.kind == "evaluation" and rules.max_turns > 1:
        raise Refused("max_turns", "an evaluation judges the last answer, expected 1")
    if rules.kind == "redteam" and (rules.pass_mark or rules.gold_share):
        name = "pass_mark" if rules.pass_mark else "gold_share"
        raise Refused(name, "a red-team campaign has no items to test with, expected 0")
    if rules.kind == "evaluation" and rules.own_prompts:
        raise Refused("own_prompts", "an evaluation has given prompts, expected false")
    _check_variants(rules)
    _check_settings(rules)


def _check_variants(rules: Rules) -> None:
    least, most = {"preference": (0, MOST_VARIANTS), "evaluation": (0, 2)}.get(rules.kind, (1, 8))
    count = len(rules.variants)
    if not least <= count <= most:
        raise Refused("variants", f"there are {count}, expected {least} to {most}")
    if rules.kind != "redteam" and count == 1:
        raise Refused("variants", "there is 1, expected two or more, or none if answers are given")
    if rules.own_prompts and rules.kind == "preference" and count < 2:
        raise Refused("variants", "own prompts need two models that answer them")
    for index, variant in enumerate(rules.variants):
        where = f"variants[{index}]"
        if not variant.model.strip() or len(variant.model) > 200:
            raise Refused(f"{where}.model", "expected the name of a model")
        _within(f"{where}.temperature", variant.temperature, 0, 2)
        _within(f"{where}.top_p", variant.top_p, 0.01, 1)
        _within(f"{where}.max_tokens", variant.max_tokens, 1, 100_000)
    if rules.kind == "evaluation" and count == 2 and rules.variants[0] == rules.variants[1]:
        raise Refused("variants[1]", "is the same as the first, expected another model or setting")
    if rules.kind != "redteam" and count and all(v.temperature == 0 for v in rules.variants):
        if len({v.model for v in rules.variants}) == 1:
            raise Refused("variants[1].temperature", "0 gives equal answers, expected more")


def _check_settings(rules: Rules) -> None:
    known = kind_defaults(rules.kind, "safety")
    for name in rules.settings:
        if name not in known:
            raise Refused(f"settings.{name}", f"a {rules.kind} campaign has no such setting")
    for name in ("categories", "risks", "vectors"):
        if name in rules.settings:
            _check_words(f"settings.{name}", rules.settings[name])
    for name in ("risks", "vectors"):
        if rules.kind == "redteam" and not rules.settings.get(name):
            raise Refused(f"settings.{name}", "expected at least one")
    if "review_share" in rules.settings:
        _within("settings.review_share", rules.settings["review_share"], 0, 1)
    if "round" in rules.settings:
        _within("settings.round", rules.settings["round"], 1, 10_000)
    if "context_tokens" in rules.settings:
        _within("settings.context_tokens", rules.settings["context_tokens"], 0, 1_000_000)


def _check_words(name: str, words: Any) -> None:
    if not isinstance(words, list) or len(words) > MOST_WORDS:
        raise Refused(name, f"expected a list of at most {MOST_WORDS}")
    for index, word in enumerate(words):
        if not isinstance(word, str) or not word.strip() or len(word) > 64 or "\n" in word:
            raise Refused(f"{name}[{index}]", "expected one line of 1 to 64 characters")
        if words.index(word) < index:
            raise Refused(f"{name}[{index}]", f"{word!r} stands twice")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Refused(name, f"is {value:g}, expected {low:g} to {high:g}")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        _unknown(name, value, known)


def _unknown(name: str, value: str, known: Sequence[str]) -> NoReturn:
    raise Refused(name, f"{value!r} is unknown, expected one of {', '.join(known)}")
