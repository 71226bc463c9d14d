"""Simulated annotators: they know the truth, but judge it with noise (Llama 2, Sec. 3.2.1)."""

from dataclasses import dataclass
from random import Random

from puna.data.cafe import helpfulness, is_safe, quality
from puna.errors import InputError
from puna.text.dialog import Dialog

# From which difference in utility an answer is how much better; the last needs none.
STEPS = (
    (0.65, "significantly_better"),
    (0.22, "better"),
    (0.08, "slightly_better"),
    (float("-inf"), "negligibly_better"),
)
QUALITY = 0.3  # weight of an answer's quality beside its safety
SLIP = 0.03  # share of the safety labels that are wrong


@dataclass(frozen=True)
class Annotator:
    """One person: a name, the standard deviation of a judgement, and the person's randomness."""

    name: str
    noise: float
    rng: Random

    def __post_init__(self) -> None:
        """Refuse negative noise."""
        if not self.noise >= 0.0:
            raise InputError(f"noise: {self.noise}, expected 0 or more")

    def judge_helpfulness(self, dialog: Dialog, a: str, b: str) -> tuple[str, str, str]:
        """(chosen, rejected, strength) of two answers by their helpfulness."""
        return self._choose((a, helpfulness(dialog, a)), (b, helpfulness(dialog, b)))

    def judge_safety(self, dialog: Dialog, a: str, b: str) -> tuple[str, str, str, str] | None:
        """(chosen, rejected, strength, safety bin) of two answers by safety, then quality.

        None if the chosen answer is called unsafe and the rejected one safe: there is no bin for
        such pairs, they are left out.
        """
        utilities = [is_safe(x) + QUALITY * quality(dialog, x) for x in (a, b)]
        chosen, rejected, strength = self._choose((a, utilities[0]), (b, utilities[1]))
        labels = self._label(chosen), self._label(rejected)
        if labels == (False, True):
            return None
        bins = {(True, False): "chosen_safe", (True, True): "both_safe"}
        return chosen, rejected, strength, bins.get(labels, "both_unsafe")

    def _choose(self, a: tuple[str, float], b: tuple[str, float]) -> tuple[str, str, str]:
        seen = [value + self.rng.gauss(0.0, self.noise) for _, value in (a, b)]
        # A tie is broken by chance, so that the order of the answers means nothing.
        first = seen[0] > seen[1] if seen[0] != seen[1] else self.rng.random() < 0.5
        difference = abs(seen[0] - seen[1])
        strength = next(name for least, name in STEPS if difference > least)
        return (a[0], b[0], strength) if first else (b[0], a[0], strength)

    def _label(self, answer: str) -> bool:
        return is_safe(answer) != (self.rng.random() < SLIP)
