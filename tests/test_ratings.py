"""Human evaluation: verdicts by hand, groups, safety, Bradley and Terry against a slow search."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from puna.errors import InputError
from puna.evaluation import bradley_terry, ratings
from puna.evaluation.agreement import CannotBeComputed
from puna.evaluation.bradley_terry import ELO, fit, solve
from puna.evaluation.ratings import Rating, SafetyRating, verdict

RNG = np.random.default_rng


def rated(
    prompt: int, *points: int, first: str = "v2", second: str = "v1", **given
) -> list[Rating]:
    return [Rating(prompt, who, first, second, value, **given) for who, value in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "majority", "mean"),
    [
        ((3, 1, -3), 1, 1),
        ((-1, -1, 3), -1, 1),
        ((1, 0, -1), 0, 0),
        ((1, 1, -2), 1, 0),
        ((0, 0, 3), 0, 1),
        ((2, -1), 0, 1),
        ((-2,), -1, -1),
    ],
)
def test_a_prompt_is_won_by_the_majority_or_by_the_mean(
    points: Sequence[int], majority: int, mean: int
) -> None:
    assert verdict(points) == majority
    assert verdict(points, "mean") == mean


def test_a_prompt_counts_once_whatever_the_number_of_its_raters() -> None:
    rows = rated(1, 3, 3, 3, 3, 3) + rated(2, -1) + rated(3, 0, 1, -1) + rated(4, 2, 2)
    found = ratings.contest(rows, RNG(0))
    assert (found["prompts"], found["ratings"]) == (4, 11)
    assert [found[name]["value"] for name in ("win", "tie", "loss")] == [0.5, 0.25, 0.25]


def test_the_interval_is_the_bootstrap_s_over_prompts() -> None:
    rows = [row for prompt in range(400) for row in rated(prompt, *[1 if prompt % 4 else -1] * 3)]
    found = ratings.contest(rows, RNG(0))["win"]
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (found["low"], found["high"]) == pytest.approx((0.75 - half, 0.75 + half), abs=0.008)


def test_no_loss_among_ten_prompts_does_not_mean_that_there_is_none() -> None:
    rows = [row for prompt in range(10) for row in rated(prompt, 1)]
    found = ratings.contest(rows, RNG(0))
    assert (found["loss"]["low"], found["loss"]["value"]) == (0, 0)
    assert found["loss"]["high"] == pytest.approx(0.2775, abs=1e-4)
    assert found["win"]["low"] == pytest.approx(0.7225, abs=1e-4)


def test_a_pair_is_one_pair_whichever_version_was_shown_first() -> None:
    rows = rated(1, 2, 2) + rated(2, -2, -2, first="v1", second="v2")
    [found] = ratings.pairs(rows, RNG(0))
    assert (found["first"], found["second"], found["win"]["value"]) == ("v2", "v1", 1.0)


def test_version_10_is_later_than_version_9() -> None:
    rows = rated(1, 1, first="v10", second="v9") + rated(2, 1, first="v9", second="v8")
    found = [(row["first"], row["second"]) for row in ratings.pairs(rows, RNG(0))]
    assert found == [("v10", "v9"), ("v9", "v8")]


def test_groups_hold_each_prompt_once() -> None:
    rows = [
        row
        for prompt in range(50)
        for row in rated(
            prompt, 1, -1, 2, category="ab"[prompt % 2], turns=1 + prompt % 3, words=prompt
        )
    ]
    [found] = ratings.pairs(rows, RNG(0))
    for by in ("by_category", "by_turns", "by_kind", "by_length"):
        assert sum(part["prompts"] for part in found[by]) == 50
    assert [part["group"] for part in found["by_length"]] == [1, 2, 3, 4, 5]
    assert [part["prompts"] for part in found["by_length"]] == [10] * 5
    assert {part["group"]: part["prompts"] for part in found["by_kind"]} == {
        "single": 17,
        "multi": 33,
    }


def test_the_pair_s_agreement_is_ac2_over_seven_points() -> None:
    rows = [row for prompt in range(20) for row in rated(prompt, prompt % 7 - 3, prompt % 7 - 3)]
    [found] = ratings.pairs(rows, RNG(0))
    assert (found["agreement"]["AC"]["name"], found["agreement"]["AC"]["value"]) == ("AC2", 1.0)


@pytest.mark.parametrize("points", [4, -4])
def test_points_outside_the_scale_are_refused(points: int) -> None:
    with pytest.raises(InputError, match="expected -3 to 3"):
        Rating(1, 1, "a", "b", points)


def test_a_violation_is_what_most_of_three_raters_call_one() -> None:
    rows = [SafetyRating(1, who, "m", p, "advice") for who, p in enumerate((1, 2, 5))]
    rows += [SafetyRating(2, who, "m", p, "advice", 2) for who, p in enumerate((1, 4, 5))]
    rows += [SafetyRating(3, who, "m", p, "illicit") for who, p in enumerate((5, 5, 5))]
    [found] = ratings.safety(rows, RNG(0))
    assert found["violation"]["value"] == pytest.approx(1 / 3)
    assert found["mean"]["value"] == pytest.approx((8 / 3 + 10 / 3 + 5) / 3)
    assert [(p["group"], p["prompts"]) for p in found["by_kind"]] == [("multi", 1), ("single", 2)]
    assert [p["violation"]["value"] for p in found["by_category"]] == [0.5, 0.0]


def slow_fit(pairs: list[tuple[int, int]], counts: np.ndarray, n: int) -> np.ndarray:
    """Davidson's strengths by a fixed-point iteration of the likelihood equations."""
    p, nu = np.ones(n), 1.0
    for _ in range(20000):
        above, below, tied, weight = np.zeros(n), np.zeros(n), 0.0, 0.0
        for (i, j), (win, tie, loss) in zip(pairs, counts, strict=True):
            games, root = win + tie + loss, math.sqrt(p[i] * p[j])
            total = p[i] + p[j] + nu * root
            above[i] += win + tie / 2
            above[j] += loss + tie / 2
            below[i] += games * (1 + nu * math.sqrt(p[j] / p[i]) / 2) / total
            below[j] += games * (1 + nu * math.sqrt(p[i] / p[j]) / 2) / total
            tied += tie
            weight += games * root / total
        p = above / below
        p /= np.exp(np.log(p).mean())
        nu = tied / weight if tied else 0.0
    return np.append(np.log(p), nu)


def test_strengths_are_those_of_a_slow_iteration() -> None:
    pairs = [(0, 1), (0, 2), (1, 2)]
    counts = np.array([[10.0, 4, 6], [15, 3, 2], [9, 8, 5]])
    found, tie = solve(pairs, counts, 3)
    assert np.append(found, tie) == pytest.approx(slow_fit(pairs, counts, 3), abs=1e-9)


def test_without_ties_two_versions_are_apart_by_the_log_of_their_odds() -> None:
    found = fit([("a", "b", 1)] * 30 + [("a", "b", -1)] * 10, RNG(0))
    [first, second] = found["versions"]
    assert first["elo"] - second["elo"] == pytest.approx(ELO * math.log(3))
    assert (first["name"], found["tie"], found["adjusted"]) == ("a", 0.0, False)


def test_planted_strengths_are_found_within_their_intervals() -> None:
    rng, true = RNG(3), np.array([0.0, 0.4, 0.9, -0.5])
    games = []
    for _ in range(3000):
        i, j = rng.choice(4, 2, replace=False)
        a, b = math.exp(true[i]), math.exp(true[j])
        odds = np.array([a, 0.7 * math.sqrt(a * b), b])
        games.append((f"v{i}", f"v{j}", 1 - int(rng.choice(3, p=odds / odds.sum()))))
    found = fit(games, rng)
    assert found["tie"] == pytest.approx(0.7, abs=0.07)
    for row in found["versions"]:
        wanted = 1000 + ELO * (true[int(row["name"][1])] - true.mean())
        assert row["low"] - 10 < wanted < row["high"] + 10
    assert [row["name"] for row in found["versions"]] == ["v2", "v1", "v0", "v3"]


def test_who_won_everything_has_a_finite_score_and_it_is_said() -> None:
    found = fit([("a", "b", 1)] * 5, RNG(0))
    assert found["adjusted"]
    first, second = found["versions"]
    assert first["elo"] - second["elo"] == pytest.approx(ELO * math.log(11))


def test_wins_and_ties_without_a_loss_leave_the_scale_open_and_it_is_said() -> None:
    found = fit([("a", "b", 1)] * 4 + [("a", "b", 0)] * 4, RNG(0))
    assert found["adjusted"]
    assert all(0 < row["low"] <= row["high"] < 2000 for row in found["versions"])


def test_versions_that_never_met_are_not_put_on_one_scale() -> None:
    with pytest.raises(CannotBeComputed, match="some versions never met"):
        fit([("a", "b", 1), ("a", "b", -1), ("c", "d", 1)], RNG(0))


def test_no_games_have_no_scale() -> None:
    with pytest.raises(CannotBeComputed, match="no two versions have met"):
        fit([], RNG(0))


def test_ties_only_leave_versions_equal() -> None:
    found = fit([("a", "b", 0)] * 4, RNG(0))
    assert [row["elo"] for row in found["versions"]] == [1000, 1000]


def test_games_come_from_prompts_not_from_ratings() -> None:
    rows = rated(1, 2, 2, -1) + rated(2, 0, 0, 1) + rated(3, -3, first="v1", second="v2")
    assert ratings.games(rows) == [("v2", "v1", 1), ("v2", "v1", 0), ("v2", "v1", 1)]
    assert bradley_terry.CENTRE == 1000
