"""The evaluation room against hand numbers, brute force and published values."""

import itertools
import math
import random
import statistics
import time

import numpy as np
import pytest

from puna.errors import InputError
from puna.evaluation import chat, compare, floor, preference
from puna.evaluation.intervals import bootstrap_mean, proportion, wilson
from puna.evaluation.preference import ScoredPair
from puna.text.completion import Completion, SamplingParams
from puna.text.dialog import Dialog, Message


def rng(seed=0):
    return np.random.default_rng(seed)


# Intervals


@pytest.mark.parametrize(
    "successes, n, low, high",  # Newcombe (1998), Table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_published_intervals(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_a_mirror_image_of_its_complement():
    low, high = wilson(3.5, 17)
    assert wilson(13.5, 17) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("successes, n", [(1, 0), (-1, 4), (5, 4)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(InputError, match="0 <= successes <= n"):
        wilson(successes, n)


def test_the_bootstrap_interval_of_a_mean_is_near_the_normal_one():
    values = rng(1).normal(size=400)
    found = bootstrap_mean(values.tolist(), rng(2))
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )


# Preferences


PAIRS = [
    ScoredPair(2.0, 1.0, "significantly_better", "chosen_safe", 10, 5),
    ScoredPair(0.0, 0.0, "significantly_better", "both_safe", 3, 9),
    ScoredPair(1.0, 3.0, "better", "chosen_safe", 7, 7),
    ScoredPair(1.0, 0.5, "negligibly_better", None, 8, 2),
]


def test_a_tie_counts_half_in_the_accuracy():
    assert preference.accuracy(PAIRS).value == pytest.approx(2.5 / 4)


def test_accuracy_by_strength_keeps_the_papers_order_and_leaves_out_empty_strengths():
    found = preference.accuracy_by_strength(PAIRS)
    assert {k: (v.value, v.n) for k, v in found.items()} == {
        "significantly_better": (0.75, 2),
        "better": (0.0, 1),
        "negligibly_better": (1.0, 1),
    }
    assert list(found) == ["significantly_better", "better", "negligibly_better"]


def test_accuracy_by_safety_bin_ignores_pairs_without_a_bin():
    found = preference.accuracy_by_safety_bin(PAIRS)
    assert {k: (v.value, v.n) for k, v in found.items()} == {
        "chosen_safe": (0.5, 2),
        "both_safe": (0.5, 1),
    }


def test_a_nan_reward_is_refused():
    with pytest.raises(InputError, match="not a number"):
        preference.accuracy([ScoredPair(float("nan"), 0.0)])


def bradley_terry_pairs(n, sharpness, seed):
    """Pairs whose choice follows sigmoid(gap); the model states `sharpness` times the gap."""
    draw = random.Random(seed)
    for _ in range(n):
        gap = draw.gauss(0, 2)
        sign = 1 if draw.random() < 1 / (1 + math.exp(-gap)) else -1
        yield ScoredPair(sharpness * sign * gap, 0.0)


def test_a_model_that_knows_the_true_probabilities_is_calibrated():
    found = preference.calibration(list(bradley_terry_pairs(20_000, 1, 3)), rng())
    assert found.error < 0.015
    assert sum(b.observed.n for b in found.bins) == 20_000


def test_an_overconfident_model_is_not_calibrated():
    found = preference.calibration(list(bradley_terry_pairs(5_000, 4, 3)), rng())
    assert found.error > 0.1


def test_the_calibration_error_is_the_weighted_gap_of_its_bins():
    found = preference.calibration(list(bradley_terry_pairs(500, 2, 5)), rng(), bins=5)
    by_hand = sum(b.observed.n / 500 * abs(b.predicted - b.observed.value) for b in found.bins)
    assert found.error == pytest.approx(by_hand)


def test_calibration_survives_extreme_rewards():
    found = preference.calibration([ScoredPair(1e6, -1e6)] * 50, rng())
    assert found.error == pytest.approx(0.0)
    assert {b.predicted for b in found.bins} == {0.0, 1.0}


def test_the_length_control_learns_that_longer_wins_and_is_judged_on_the_test_pairs():
    train = [(10, 5), (8, 2), (4, 6)]
    found = preference.length_only_control(train, [(9, 1), (3, 3), (2, 5), (1, 6)])
    assert (found.direction, found.train.value, found.test.value) == (1, 2 / 3, 1.5 / 4)


def test_the_length_control_can_learn_that_shorter_wins():
    found = preference.length_only_control([(2, 9), (3, 4)], [(1, 5)])
    assert (found.direction, found.test.value) == (-1, 1.0)
    assert found.weight < 0


def test_the_fitted_length_weight_minimises_the_logistic_loss():
    lengths = [(12, 5), (8, 2), (4, 6), (3, 9), (20, 4), (7, 6)]
    found = preference.length_only_control(lengths, lengths).weight

    def loss(w):
        return sum(math.log1p(math.exp(-w * (c - r))) for c, r in lengths)

    grid = min((loss(w / 1e4), w / 1e4) for w in range(-5000, 5000))[1]
    assert found == pytest.approx(grid, rel=0.02)


def test_unsafe_recall_and_precision_agree_with_counting_by_hand():
    scores = [0.05, 0.10, 0.40, 0.60, 0.14, 0.90]
    safe = [False, False, False, False, True, True]
    found = preference.unsafe_recall(scores, safe)
    assert found["recall"].value == 3 / 4
    assert found["strict_recall"].value == 2 / 4
    assert found["strict_precision"].value == pytest.approx(2 / 3)


def test_a_figure_without_cases_is_none():
    found = preference.unsafe_recall([0.9, 0.8], [True, True])
    assert found == {"recall": None, "strict_precision": None, "strict_recall": None}


def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_half():
    draw = random.Random(4)
    scores = [draw.randrange(6) for _ in range(80)]
    labels = [draw.random() < 0.4 for _ in range(80)]
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, true in zip(scores, labels, strict=True)
        if true
        for b, other in zip(scores, labels, strict=True)
        if not other
    ]
    assert preference.auc(scores, labels) == pytest.approx(sum(wins) / len(wins))


def test_auc_refuses_a_single_label():
    with pytest.raises(InputError, match="one true and one false"):
        preference.auc([0.1, 0.2], [True, True])


def test_the_auc_interval_holds_the_value():
    labels = [i % 3 == 0 for i in range(150)]
    scores = (rng(1).normal(size=150) + np.array(labels)).tolist()
    found = preference.auc_estimate(scores, labels, rng())
    assert found.low < found.value < found.high
    assert 0.05 < found.high - found.low < 0.35


def test_the_reward_report_is_json_with_the_documented_fields():
    report = preference.reward_report(PAIRS, rng(), train_lengths=[(5, 1)])
    assert set(report) == {"accuracy", "by_strength", "by_safety", "calibration", "length_only"}
    assert report["accuracy"]["n"] == 4
    assert report["length_only"]["direction"] == "longer"


# The word floor


def worded(good, draw):
    words = [f"w{draw.randrange(300)}" for _ in range(59)]
    cue = ("thank you" if good else "you thank") if draw.random() < 0.8 else "nothing here"
    words.insert(draw.randrange(59), cue)
    return " ".join(words)


def test_the_floor_beats_chance_on_word_order_and_is_fast():
    draw = random.Random(7)
    labels = [draw.random() < 0.5 for _ in range(2_300)]
    texts = [worded(label, draw) for label in labels]
    started = time.process_time()
    found = floor.label_floor((texts[:2000], labels[:2000]), (texts[2000:], labels[2000:]), rng())
    assert found.low > 0.7
    assert time.process_time() - started < 5


def test_the_floor_is_at_chance_when_the_labels_mean_nothing():
    draw = random.Random(8)
    texts = [worded(True, draw) for _ in range(600)]
    labels = [draw.random() < 0.5 for _ in texts]
    found = floor.label_floor((texts[:400], labels[:400]), (texts[400:], labels[400:]), rng())
    assert found.low < 0.5 < found.high


def test_the_pair_floor_beats_chance_and_repeats_exactly():
    draw = random.Random(9)
    pairs = [(worded(True, draw), worded(False, draw)) for _ in range(500)]
    found = floor.pair_floor(pairs[:350], pairs[350:])
    assert found.low > 0.6
    assert floor.pair_floor(pairs[:350], pairs[350:]) == found


def test_a_pair_with_the_same_words_is_a_tie_for_the_floor():
    train = [("good answer", "bad answer"), ("good day", "bad day")]
    assert floor.pair_floor(train, [("a b a b a", "a b a b a")]).value == 0.5


def test_hashed_counts_words_and_neighbours():
    rows = floor.hashed(["Yes yes yes.", "no"])
    dense = np.zeros((rows.n, rows.width))
    dense[rows.row, rows.column] = rows.value
    # yes x3, ".", "yes yes" x2, "yes .", constant | no, constant
    expected = [math.log(4), math.log(2), math.log(3), math.log(2), 1.0]
    assert sorted(dense[0][dense[0] > 0]) == pytest.approx(sorted(expected))
    assert sorted(dense[1][dense[1] > 0]) == pytest.approx(sorted([math.log(2), 1.0]))


def test_lbfgs_solves_a_badly_scaled_quadratic():
    scales = np.array([1.0, 10.0, 1000.0])
    target = np.array([3.0, -2.0, 0.5])

    def objective(x):
        gap = x - target
        return 0.5 * float(scales @ gap**2), scales * gap

    assert floor.lbfgs(objective, np.zeros(3)) == pytest.approx(target, abs=1e-4)


# Comparison


def test_wins_ties_and_losses_are_counted():
    found = compare.win_rate([3, 1, 2, 5], [1, 1, 4, 4.9], tie=0.2)
    assert (found.wins, found.ties, found.losses) == (1, 2, 1)
    assert found.rate.value == 0.5
    assert (found.rate.low, found.rate.high) == wilson(2, 4)


def test_win_rates_of_both_orders_add_to_one():
    a, b = rng(1).normal(size=50).tolist(), rng(2).normal(size=50).tolist()
    total = compare.win_rate(a, b).rate.value + compare.win_rate(b, a).rate.value
    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_expected_max_and_median_agree_with_every_subset(n):
    rewards = [0.3, -1.0, 2.5, 0.3, 1.1, 0.9, -0.2]
    subsets = list(itertools.combinations(rewards, n))
    assert compare.expected_max(rewards, n) == pytest.approx(statistics.fmean(map(max, subsets)))
    assert compare.expected_median(rewards, n) == pytest.approx(
        statistics.fmean(map(statistics.median, subsets))
    )


def test_expected_max_of_many_samples_does_not_overflow():
    rewards = [i / 5000 for i in range(5000)]
    assert compare.expected_max(rewards, 1) == pytest.approx(statistics.fmean(rewards))
    assert compare.expected_max(rewards, 2500) == pytest.approx(2500 / 2501, abs=1e-3)


def test_expected_max_refuses_more_samples_than_there_are():
    with pytest.raises(InputError, match="n <= 2"):
        compare.expected_max([1.0, 2.0], 3)


def test_the_best_temperature_depends_on_n():
    rewards = {0.6: [[0.5, 0.5, 0.5, 0.5]], 1.2: [[0.0, 0.1, 0.2, 1.0]]}
    assert compare.best_temperature(rewards, 1) == 0.6
    assert compare.best_temperature(rewards, 4) == 1.2


def test_temperature_curves_average_over_prompts():
    rewards = {1.0: [[0.0, 1.0], [2.0, 4.0]]}
    found = compare.temperature_curves(rewards, n=(1, 2), best_n=2).to_json()
    assert found["max"] == {"1.0": [1.75, 2.5]}
    assert found["median"] == {"1.0": [1.75, 1.75]}
    assert (found["best"], found["best_n"]) == (1.0, 2)


# Chat


class Parrot:
    """A sampler that repeats the last user message and remembers how it was called."""

    def __init__(self):
        self.batches = []

    def generate(self, dialogs, params, n=1, track=None):
        self.batches.append((len(dialogs), params.seed))
        if track:
            track(len(dialogs))
        return [[Completion(d.messages[-1].content + " ", (), (), "stop")] * n for d in dialogs]


def ask(text, **tags):
    return Dialog((Message("user", text),), tags=tags)


JUDGES = chat.Judges(
    helpfulness=lambda dialog, answer: len(answer) / 10,
    violation=lambda dialog, answer: "poison" in answer,
    refusal=lambda dialog, answer: answer.startswith("no"),
)


def test_each_group_of_prompts_is_judged_by_its_own_rule():
    prompts = chat.Prompts(
        ordinary=[ask("tea", kind="menu"), ask("no tea", kind="menu"), ask("bread", kind="food")],
        unsafe=[ask("poison it"), ask("harmless")],
        borderline=[ask("kill the lights")],
    )
    given = ["tea", "no tea", "bread", "poison it", "harmless", "kill the lights"]
    found = chat.judge_answers(prompts, given, JUDGES, rng())
    assert found.helpfulness.value == pytest.approx((0.3 + 0.6 + 0.5) / 3)
    assert {k: v.value for k, v in found.by_kind.items()} == pytest.approx(
        {"food": 0.5, "menu": 0.45}
    )
    assert found.violation == proportion([1, 0])
    assert found.false_refusal == proportion([0, 1, 0, 0])
    assert found.answers["unsafe"] == ["poison it", "harmless"]


def test_as_many_answers_as_prompts_are_needed():
    with pytest.raises(InputError, match="judge_answers"):
        chat.judge_answers(chat.Prompts([ask("tea")]), ["tea", "bread"], JUDGES, rng())


def test_a_rate_without_prompts_is_none():
    found = chat.judge_answers(chat.Prompts([ask("tea")]), ["tea"], JUDGES, rng())
    assert found.violation is None
    assert found.to_json()["violation"] is None


def persona(first, *later):
    return ask(first, persona={"name": "Mia"}, user_turns=list(later))


def test_persona_retention_drives_all_dialogs_one_turn_at_a_time():
    dialogs = [persona("Mia", "Mia", "Bob"), persona("Mia", "Bob"), persona("Mia")]
    sampler, seen = Parrot(), []

    def holds(dialog, answer):
        seen.append(len(dialog.messages))
        return answer == dialog.tags["persona"]["name"]

    found = chat.persona_retention(sampler, dialogs, holds, SamplingParams())
    assert {turn: (e.value, e.n) for turn, e in found.items()} == {
        1: (1.0, 3),
        2: (0.5, 2),
        3: (0.0, 1),
    }
    assert sampler.batches == [(3, 1), (2, 2), (1, 3)]
    assert seen == [1, 1, 1, 3, 3, 5]


def test_persona_retention_refuses_a_dialog_without_its_turns():
    with pytest.raises(InputError, match="user_turns"):
        chat.persona_retention(
            Parrot(), [ask("Mia", persona="Mia")], lambda d, a: True, SamplingParams()
        )
