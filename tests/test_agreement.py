"""Agreement: published examples, a slow twin, properties, what cannot be computed."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from puna.errors import InputError
from puna.evaluation.agreement import (
    METRICS,
    WEIGHTS,
    CannotBeComputed,
    Table,
    alpha,
    gwet,
    percent_agreement,
    tabulate,
    weight_matrix,
)

Rows = list[list[int | str | None]]
_ = None

# Gwet, Handbook of Inter-Rater Reliability: 4 raters, 12 units; cac.raw4raters in irrCAC (R).
# Krippendorff's own example (2011) has the same ratings.
FOUR: Rows = [
    *([1, 1, _, 1], [2, 2, 3, 2], [3, 3, 3, 3], [3, 3, 3, 3], [2, 2, 2, 2], [1, 2, 3, 4]),
    *([4, 4, 4, 4], [1, 1, 2, 1], [2, 2, 2, 2], [_, 5, 5, 5], [_, _, 1, 1], [_, _, 3, _]),
]
# 5 observers, 15 units, from 0 on; cac.raw5obser in irrCAC (R), raw_5observers in Python's.
FIVE: Rows = [
    *([1, 1, 2, _, 2], [1, 1, 0, 1, _], [2, 3, 3, 3, _], [_, 0, 0, _, 0], [0, 0, 0, _, 0]),
    *([0, 0, 0, _, 0], [1, 0, 2, _, 1], [1, _, 2, 0, _], [2, 2, 2, _, 2], [2, 1, 1, 1, _]),
    *([_, 1, 0, 0, _], [0, 0, 0, 0, _], [1, 2, 2, 2, _], [3, 3, 2, 2, 3], [1, 1, 1, _, 1]),
]
# 4 raters, 14 units, letters; cac.raw.g1g2 in irrCAC (R), raw_g1g2 in Python's.
LETTERS: Rows = [
    *(["a", "a", _, "a"], ["b", "b", "c", "b"], ["c", "c", "c", "c"], ["c", "c", "c", "c"]),
    *(["b", "b", "b", "b"], ["a", "b", "c", "d"], ["d", "d", "d", "d"], ["a", "a", "b", "a"]),
    *(["b", "b", "b", "b"], [_, "e", "e", "e"], [_, _, "a", "a"], [_, _, "c", _]),
    *(["b", "b", "c", "b"], ["b", "a", "c", "b"]),
]
# Ben and Gerry, 12 units; cac.ben.gerry in irrCAC (R), raw_ben_gerry in Python's.
PAIRS: Rows = [
    *(["a", "b"], ["a", "a"], ["b", "b"], ["b", "b"], ["d", "b"], ["c", "c"]),
    *(["c", "c"], ["c", "c"], ["e", "e"], ["d", _], ["d", "d"], ["a", "d"]),
]
EXAMPLES = {"four": FOUR, "five": FIVE, "letters": LETTERS, "pairs": PAIRS}

# irrCAC 0.4.4 (PyPI) with digits=10, here to 8: AC, its s.e., observed, expected; alpha, its s.e.
# Of "four", the unweighted ones are printed in the documentation of both packages (0.77544,
# 0.14295; 0.74342, 0.14557).
PUBLISHED = """
four identity 0.77544407 0.14294995 0.81818182 0.19032118 0.74342105 0.14557389
four linear 0.85873914 0.11732902 0.93939394 0.57096354 0.80038388 0.13547774
four quadratic 0.91400072 0.10396224 0.97537879 0.71370443 0.84910714 0.12912997
four ordinal 0.89893977 0.10690352 0.96818182 0.68515625 0.83363803 0.13107343
four radical 0.81981170 0.12835552 0.89726911 0.42986923 0.77198131 0.13961210
four ratio 0.85736756 0.12207133 0.95411487 0.67829811 0.79740277 0.14048105
five identity 0.49662205 0.12197337 0.61555556 0.23627078 0.48053024 0.11350753
five linear 0.68963942 0.08769076 0.86074074 0.55129849 0.63520822 0.10004526
five quadratic 0.83043357 0.05824641 0.94617284 0.68256004 0.77186481 0.08608133
five ordinal 0.78534179 0.06818757 0.92481481 0.64974465 0.72347759 0.09225442
five radical 0.59702510 0.10471923 0.77006935 0.42941695 0.55748401 0.10606254
letters identity 0.68460382 0.13353317 0.74358974 0.18702168 0.63180572 0.14969851
letters quadratic 0.90073470 0.08742857 0.97035256 0.70133131 0.79809590 0.13560914
letters ordinal 0.87835653 0.09014723 0.96025641 0.67327806 0.77230817 0.13807234
pairs identity 0.66144201 0.18396215 0.72727273 0.19444444 0.66489362 0.18007143
pairs linear 0.67272727 0.19575702 0.86363636 0.58333333 0.61585366 0.23106418
pairs ratio 0.61209023 0.25280367 0.88090909 0.69299328 0.52298338 0.29873890
""".strip().splitlines()


@pytest.mark.parametrize("line", PUBLISHED, ids=lambda line: " ".join(line.split()[:2]))
def test_ac_and_alpha_with_their_errors_are_irrcac_s_on_its_published_examples(line: str) -> None:
    name, weights, *numbers = line.split()
    table = tabulate(EXAMPLES[name])
    ac = gwet(table, weights)
    k = alpha(table, weight_matrix(table.categories, weights))
    found = [ac.value, ac.se, ac.observed, ac.expected, k.value, k.se]
    assert found == pytest.approx([float(number) for number in numbers], abs=1e-8)


def test_percent_agreement_and_its_error_are_irrcac_s() -> None:
    found = percent_agreement(tabulate(FOUR))  # pa.coeff.raw(cac.raw4raters)
    assert (round(found.value, 5), round(found.se or 0, 5)) == (0.81818, 0.12561)


@pytest.mark.parametrize(
    ("metric", "value"),
    [("nominal", 0.743421), ("ordinal", 0.815388), ("interval", 0.849107), ("ratio", 0.797403)],
)
def test_alpha_is_krippendorff_s_on_his_own_example(metric: str, value: float) -> None:
    assert round(alpha(tabulate(FOUR), metric).value, 6) == value


def slow(rows: Rows, weights: np.ndarray, categories: list) -> dict[str, float]:
    """AC, alpha and agreement from pairs of ratings, one after the other."""
    given = [[v for v in row if v is not None] for row in rows]
    given = [row for row in given if row]
    place = {value: index for index, value in enumerate(categories)}

    def near(a: object, b: object) -> float:
        return float(weights[place[a], place[b]])

    def of(row: list) -> float:
        pairs = list(permutations(range(len(row)), 2))
        return sum(near(row[i], row[j]) for i, j in pairs) / len(pairs)

    many = [row for row in given if len(row) > 1]
    observed = sum(map(of, many)) / len(many)
    q = len(categories)
    shares = [sum(row.count(c) / len(row) for row in given) / len(given) for c in categories]
    expected = weights.sum() * sum(p * (1 - p) for p in shares) / (q * (q - 1))
    pairable = [value for row in many for value in row]
    n = len(pairable)
    apart = sum(
        (1 - near(row[i], row[j])) / (len(row) - 1)
        for row in many
        for i, j in permutations(range(len(row)), 2)
    )
    totals = Counter(pairable)
    chance = sum(totals[a] * totals[b] * (1 - near(a, b)) for a in totals for b in totals)
    return {
        "agreement": observed,
        "ac": (observed - expected) / (1 - expected),
        "alpha": 1 - (n - 1) * apart / chance if chance else float("nan"),
    }


ratings = st.lists(
    st.lists(st.sampled_from([None, 1, 2, 4, 5]), min_size=2, max_size=5), min_size=2, max_size=12
)


@given(ratings, st.sampled_from(WEIGHTS))
def test_all_three_are_those_of_a_slow_sum_over_pairs(rows: Rows, weights: str) -> None:
    assume(any(sum(v is not None for v in row) > 1 for row in rows))
    table = tabulate(rows, [1, 2, 4, 5])
    matrix = weight_matrix(table.categories, weights)
    twin = slow(rows, matrix, [1, 2, 4, 5])
    assert gwet(table, weights).value == pytest.approx(twin["ac"], abs=1e-12)
    assert percent_agreement(table, weights).value == pytest.approx(twin["agreement"], abs=1e-12)
    if np.isnan(twin["alpha"]):
        with pytest.raises(CannotBeComputed):
            alpha(table, matrix)
    else:
        assert alpha(table, matrix).value == pytest.approx(twin["alpha"], abs=1e-10)


@given(ratings, st.randoms())
def test_the_order_of_raters_and_items_does_not_matter(rows: Rows, random) -> None:
    assume(any(sum(v is not None for v in row) > 1 for row in rows))
    mixed = [random.sample(row, len(row)) for row in random.sample(rows, len(rows))]
    one, other = (gwet(tabulate(each, [1, 2, 4, 5]), "quadratic") for each in (rows, mixed))
    assert (one.value, one.se) == pytest.approx((other.value, other.se))


def test_other_names_for_categories_do_not_change_unweighted_figures() -> None:
    named = [[v if v is None else f"no. {9 - int(v)}" for v in row] for row in FOUR]
    assert gwet(tabulate(named)).value == pytest.approx(gwet(tabulate(FOUR)).value)
    assert alpha(tabulate(named)).value == pytest.approx(alpha(tabulate(FOUR)).value)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_perfect_agreement_is_one_with_no_error(weights: str) -> None:
    table = tabulate([[1, 1, 1], [2, 2, None], [3, 3, 3], [1, 1, 1]])
    rng = np.random.default_rng(0)
    for found in (gwet(table, weights, rng), percent_agreement(table, weights, rng)):
        assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
        assert found.se == pytest.approx(0, abs=1e-12)
    assert [alpha(table, metric).value for metric in METRICS] == pytest.approx([1] * 4)


def test_raters_who_guess_agree_by_chance_only() -> None:
    rng = np.random.default_rng(1)
    table = tabulate(rng.integers(1, 5, size=(4000, 3)).tolist())
    assert abs(gwet(table).value) < 0.02
    assert abs(gwet(table, "quadratic").value) < 0.02
    assert [abs(alpha(table, metric).value) < 0.03 for metric in METRICS] == [True] * 4


def test_where_one_category_prevails_ac1_stays_high_and_alpha_falls() -> None:
    table = tabulate([[1, 1]] * 95 + [[1, 2]] * 5, [1, 2])
    assert gwet(table).value > 0.9
    assert alpha(table).value < 0


def test_the_bootstrap_is_as_wide_as_the_standard_error_says() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(1, 8, size=400)
    rows = np.clip(truth[:, None] + rng.integers(-1, 2, size=(400, 3)), 1, 7).tolist()
    table = tabulate(rows)
    for found in (
        gwet(table, "ordinal", rng),
        alpha(table, "interval", rng),
        percent_agreement(table, "linear", rng),
    ):
        assert found.low < found.value < found.high
        assert (found.high - found.low) / (2 * 1.96 * found.se) == pytest.approx(1, abs=0.15)


def test_equal_generators_give_equal_intervals() -> None:
    one, other = (gwet(tabulate(FOUR), rng=np.random.default_rng(3)) for _ in range(2))
    assert one == other


def test_items_in_one_row_of_the_table_resample_like_items_apart() -> None:
    rows = [[1, 1], [1, 1], [1, 2], [2, 2], [2, 1], [2, 2]] * 30
    whole = tabulate(rows)
    apart = Table(np.repeat(whole.counts, whole.times.astype(int), 0), np.ones(180), (1, 2))
    ends = [gwet(t, rng=np.random.default_rng(4), rounds=4000) for t in (whole, apart)]
    assert ends[0].se == pytest.approx(ends[1].se)
    assert ends[0].low == pytest.approx(ends[1].low, abs=0.02)
    assert ends[0].high == pytest.approx(ends[1].high, abs=0.02)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no item has two ratings"),
        ([[1, None], [2, None]], "no item has two ratings"),
        ([[1], [2], [1]], "no item has two ratings"),
        ([[1, 1], [1, 1]], "one category only"),
    ],
)
def test_what_cannot_be_computed_is_said_and_is_no_nan(rows: Rows, reason: str) -> None:
    for compute in (gwet, alpha):
        with pytest.raises(CannotBeComputed, match=f"cannot be computed: .*{reason}"):
            compute(tabulate(rows))


def test_alpha_of_equal_ratings_cannot_be_computed_and_ac1_is_one() -> None:
    table = tabulate([[1, 1], [1, 1]], [1, 2])
    assert gwet(table).value == 1
    with pytest.raises(CannotBeComputed, match="all ratings that can be compared are equal"):
        alpha(table)


def test_one_item_has_a_value_and_no_interval() -> None:
    found = gwet(tabulate([[1, 2, 2]]), rng=np.random.default_rng(0))
    assert (found.se, found.low, found.high, found.items) == (None, None, None, 1)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("cubic", "expected one of identity, linear"),
        (np.eye(3), "expected 5 by 5"),
        (np.full((5, 5), 0.5), "1 on the diagonal"),
        (np.eye(5) - 0.1, "between 0 and 1"),
        (np.eye(5) + np.eye(5, k=1) / 2, "symmetric"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        gwet(tabulate(FOUR), weights)  # type: ignore[arg-type]


def test_a_matrix_of_weights_is_taken_as_it_is() -> None:
    table = tabulate(FOUR)
    own = weight_matrix(table.categories, "quadratic")
    assert gwet(table, own).value == gwet(table, "quadratic").value


# krippendorff 0.9 (PyPI) says 0.6792398972 of the same ratings
def test_ratio_weights_refuse_a_scale_below_zero_and_take_zero() -> None:
    with pytest.raises(InputError, match="ratio needs categories from 0 on, not -1"):
        gwet(tabulate([[-1, 1], [0, 1]]), "ratio")
    assert alpha(tabulate(FIVE), "ratio").value == pytest.approx(0.67923990)


def test_a_rating_outside_the_scale_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="ratings: 9, expected one of 1, 2"):
        tabulate([[1, 9]], [1, 2])
