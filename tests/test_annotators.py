"""Annotators and batches: each figure by hand, flags for planted habits, none for honest work."""

from math import comb

import numpy as np
import pytest

from puna.evaluation import annotators, drift
from puna.evaluation.annotators import Limits, binomial_p
from puna.evaluation.drift import FIGURE_25, TABLE_6, TABLE_26, Size
from puna.evaluation.judgements import GRADES, Judgement, agreed, disagreements
from puna.text.dialog import STRENGTHS, Dialog, Message


def judged(item: int, who: int, chosen: int, **given: object) -> Judgement:
    fields = {"strength": "better", "seconds": 30.0, "words": (20, 20), "batch": 1} | given
    return Judgement(id=item * 100 + who, item=item, annotator=who, chosen=chosen, **fields)


def crowd(items: int = 80, people: int = 4, seed: int = 0) -> list[Judgement]:
    """Honest people: most choose what is right, order and lengths are random."""
    rng = np.random.default_rng(seed)
    found = []
    for item in range(items):
        words = (int(rng.integers(10, 60)), int(rng.integers(10, 60)))
        truth = int(rng.integers(2))
        for who in range(people):
            chosen = truth if rng.random() < 0.85 else 1 - truth
            facts = {"words": words, "swapped": bool(rng.integers(2))}
            strength = STRENGTHS[int(rng.integers(4))]
            found.append(judged(item, who, chosen, strength=strength, **facts))
    return found


def figures(judgements: list[Judgement], who: int) -> dict:
    rows = annotators.figures(judgements, np.random.default_rng(0))
    return next(row for row in rows if row["annotator"] == who)


def flags(judgements: list[Judgement], who: int) -> list[str]:
    return [flag["name"] for flag in figures(judgements, who)["flags"]]


def test_honest_people_raise_no_flag() -> None:
    rows = annotators.figures(crowd(), np.random.default_rng(0))
    assert [row["flags"] for row in rows] == [[]] * 4


def test_agreement_is_the_mean_share_of_others_who_chose_the_same() -> None:
    rows = [judged(1, 1, 0), judged(1, 2, 0), judged(1, 3, 1), judged(2, 1, 1), judged(2, 2, 0)]
    rows += [judged(3, 1, 0)]  # nobody else
    found = figures(rows, 1)["agreement"]
    assert (found["value"], found["n"]) == (pytest.approx((0.5 + 0) / 2), 2)


def test_about_the_same_is_an_answer_of_its_own_in_the_agreement_with_others() -> None:
    ratings = {1: 2, 2: 1, 3: 0}
    rows = [
        Judgement(id=who, item=1, annotator=who, batch=1, rating=rating, words=(9, 9))
        for who, rating in ratings.items()
    ]
    assert [figures(rows, who)["agreement"]["value"] for who in ratings] == [0.5, 0.5, 0.0]
    assert figures(rows, 3)["without"] == 1.0


def test_the_coefficient_without_somebody_who_guesses_is_higher() -> None:
    rows = crowd()
    rng = np.random.default_rng(1)
    rows += [
        judged(item, 9, int(rng.integers(2)), strength=STRENGTHS[item % 4]) for item in range(80)
    ]
    with_all = agreed(rows, "identity", rng)["choice"]["AC"]["value"]
    assert figures(rows, 9)["without"] > with_all + 0.05
    assert figures(rows, 9)["without"] == pytest.approx(
        agreed(crowd(), "identity", rng)["choice"]["AC"]["value"]
    )
    assert flags(rows, 9) == ["agreement"]


def test_gold_accuracy_counts_gold_items_only_and_has_wilson_s_interval() -> None:
    gold = {"gold": True, "expected": {"chosen": 0}}
    rows = [judged(item, 1, int(item < 3), **gold) for item in range(10)]
    rows += [judged(50, 1, 1), judged(51, 1, 1)]
    found = figures(rows, 1)
    assert found["gold"] == {
        "value": 0.7,
        "low": pytest.approx(0.39677815),
        "high": pytest.approx(0.89220870),
        "n": 10,
    }
    assert found["judged"] == 12


def test_a_gold_item_is_right_when_everything_expected_was_said() -> None:
    expected = {"chosen": 0, "safety": "both_safe"}
    half = judged(1, 1, 0, gold=True, expected=expected, safety="both_unsafe")
    whole = judged(2, 1, 0, gold=True, expected=expected, safety="both_safe")
    assert annotators.gold_accuracy([half, whole])["value"] == 0.5


def test_who_misses_gold_items_is_flagged() -> None:
    gold = {"gold": True, "expected": {"chosen": 0}}
    rows = crowd() + [judged(200 + i, 2, int(i % 2), **gold) for i in range(20)]
    assert flags(rows, 2) == ["gold"]
    assert flags(rows[: -20 + Limits().gold_cases - 1], 2) == []


def test_position_is_seen_through_the_recorded_order() -> None:
    rows = [judged(i, 1, chosen=int(i % 2), swapped=bool(i % 2)) for i in range(30)]
    found = annotators.position(rows)
    assert found["value"] == 1.0  # the second answer is chosen exactly when it stood first
    assert found["p"] == pytest.approx(2 * 0.5**30)


def test_who_always_takes_the_left_is_flagged_for_the_position() -> None:
    rows = [row for row in crowd() if row.annotator != 3]
    rows += [
        judged(i, 3, int(i % 2), swapped=bool(i % 2), strength=STRENGTHS[i % 4]) for i in range(40)
    ]
    assert "position" in flags(rows, 3)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (3, 10), (5, 10), (9, 10), (37, 100)])
def test_the_binomial_test_is_the_exact_sum(k: int, n: int) -> None:
    tail = sum(comb(n, i) for i in range(min(k, n - k) + 1)) / 2**n
    assert binomial_p(k, n) == pytest.approx(min(1.0, 2 * tail))


def test_who_takes_the_longer_answer_is_flagged_with_a_positive_slope() -> None:
    rows = []
    for row in crowd():
        longer = int(row.words[1] > row.words[0])
        rows.append(
            judged(row.item, row.annotator, longer, words=row.words, strength=row.strength)
            if row.annotator == 0
            else row
        )
    found = figures(rows, 0)
    assert "length" in [flag["name"] for flag in found["flags"]]
    assert found["length"]["value"] == 1.0
    assert found["length"]["slope"] > 1


def test_answers_of_one_length_say_nothing_about_length() -> None:
    assert annotators.length([judged(1, 1, 0), judged(2, 1, 1)]) is None


def test_speed_is_the_median_and_too_fast_is_faster_than_both_answers_can_be_read() -> None:
    rows = [judged(i, 1, 0, seconds=s, words=(60, 60)) for i, s in enumerate((1, 9, 11, 40))]
    found = annotators.speed(rows, Limits())
    assert (found["median"], found["fast"]["value"]) == (10.0, 0.5)  # 120 words in 10 s


def test_who_judges_too_fast_is_flagged() -> None:
    rows = [
        judged(
            r.item,
            r.annotator,
            r.chosen,
            strength=r.strength,
            swapped=r.swapped,
            words=r.words,
            seconds=1.0 if r.annotator == 1 else 30.0,
        )
        for r in crowd()
    ]
    assert flags(rows, 1) == ["speed"]


def test_who_says_one_strength_only_is_flagged() -> None:
    rows = [row for row in crowd() if row.annotator != 2]
    rows += [judged(r.item, 2, r.chosen, swapped=r.swapped) for r in crowd() if r.annotator == 2]
    assert flags(rows, 2) == ["strength"]
    assert figures(rows, 2)["strengths"]["better"] == 80


def test_few_judgements_raise_no_flag() -> None:
    rows = [judged(i, 1, 0, seconds=0.1) for i in range(Limits().cases - 1)]
    assert flags(rows, 1) == []


def test_the_degree_runs_from_the_second_to_the_first_answer() -> None:
    found = [judged(1, 1, chosen, strength=s).grade for chosen in (1, 0) for s in STRENGTHS]
    assert sorted(found) == list(GRADES)
    assert judged(1, 1, 0, strength="significantly_better").grade == 4
    assert judged(1, 1, 1, strength="negligibly_better").grade == -1


def test_two_who_chose_differently_can_agree_on_which_answer_is_safe() -> None:
    one, other = judged(1, 1, 0, safety="chosen_safe"), judged(1, 2, 1, safety="rejected_safe")
    assert one.safe == other.safe == "first_safe"
    found = agreed([one, other], "identity", np.random.default_rng(0))
    assert found["safety"]["AC"]["value"] == 1.0
    assert found["choice"]["AC"]["value"] < 0


def test_gold_items_do_not_count_towards_agreement() -> None:
    rows = [judged(1, 1, 0, gold=True), judged(1, 2, 0, gold=True), judged(2, 1, 0)]
    found = agreed(rows, "ordinal", np.random.default_rng(0))
    assert found["choice"]["AC"] == {"why": "cannot be computed: no item has two ratings"}


def test_an_evaluation_s_points_are_the_degree_and_their_sign_the_choice() -> None:
    rows = [Judgement(1, 1, 1, 1, rating=3)]
    rows += [Judgement(2, 1, 2, 1, rating=1), Judgement(3, 1, 3, 1, rating=0)]
    assert [row.choice for row in rows] == [0, 0, None]
    found = agreed(rows, "linear", np.random.default_rng(0))
    assert found["choice"]["percent"]["value"] == pytest.approx(1 / 3)
    assert found["degree"]["percent"]["value"] == pytest.approx((4 / 6 + 3 / 6 + 5 / 6) / 3)


def test_the_widest_disagreement_comes_first_and_agreement_is_left_out() -> None:
    rows = [judged(1, 1, 0), judged(1, 2, 1), judged(2, 1, 0), judged(2, 2, 0)]
    rows += [judged(3, w, w % 2, strength="significantly_better") for w in (1, 2)]
    found = disagreements(rows)
    assert [row["item"] for row in found] == [3, 1]
    assert found[0]["grades"] == {1: -4, 2: 4}


def test_strengths_by_batch_are_shares_with_wilson_s_interval() -> None:
    rows = [judged(i, 1, 0, strength=STRENGTHS[i % 2], batch=1 + i // 6) for i in range(12)]
    found = drift.batches(rows, {}, "identity", np.random.default_rng(0))
    assert [row["batch"] for row in found] == [1, 2]
    assert found[0]["strengths"]["better"]["value"] == 0.5
    assert found[0]["strengths"]["better"]["low"] == pytest.approx(0.18761617)
    assert found[0]["strengths"]["slightly_better"]["value"] == 0.0
    assert found[0]["sizes"] is None


def test_a_comparison_is_as_large_as_its_dialogue_and_one_answer() -> None:
    dialog = Dialog((Message("user", "a b"), Message("assistant", "c"), Message("user", "d e f")))
    found = drift.size(dialog, ["g h", "i j k l"], lambda text: len(text.split()))
    assert found == Size(turns=2, example=2 + 1 + 3 + 3, prompt=3, response=3)


def test_sizes_are_means_over_judgements() -> None:
    known = {1: Size(1, 10, 4, 6), 2: Size(3, 40, 5, 15)}
    assert drift.sizes([1, 2, 2], known) == {
        "comparisons": 3,
        "turns": pytest.approx(7 / 3),
        "example": 30,
        "prompt": pytest.approx(14 / 3),
        "response": 12,
    }


def test_the_paper_s_batches_add_up_to_its_table_6() -> None:
    assert sum(row[0] for row in TABLE_26) == TABLE_6[0]
    for column in range(1, 5):
        mean = sum(row[0] * row[column] for row in TABLE_26) / TABLE_6[0]
        assert mean == pytest.approx(TABLE_6[column], rel=0.012)


def test_the_paper_s_strengths_are_whole_at_both_ends() -> None:
    assert sum(at[1] for at in FIGURE_25.values()) == pytest.approx(1)
    assert sum(at[14] for at in FIGURE_25.values()) == pytest.approx(0.99)  # read off the chart
