"""The pure parts of the recipes, each against something slower and plainer."""

import copy
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from puna.data.batches import by_length, fork, forked_length, pack, pad, shared, stack
from puna.data.shards import TokenStream, filled, write_shards
from puna.engine.engine import Engine
from puna.errors import InputError
from puna.model.heads import RewardModel
from puna.model.transformer import ModelArgs, Transformer
from puna.numerics.optim import OptimConfig
from puna.recipes import distill, ppo, reward, steps
from puna.text.completion import SamplingParams
from puna.text.dialog import Dialog, Message, Preference
from puna.text.files import write_preferences
from puna.text.template import encode_dialog, encode_prompt

CONFIG = OptimConfig(lr=1e-2, warmup=0)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


def user(text: str, tags: dict | None = None, system: str | None = None) -> Dialog:
    first = (Message("system", system),) if system else ()
    return Dialog((*first, Message("user", text)), "d", tags or {})


def small(vocab_size: int, seed: int = 0) -> Transformer:
    args = ModelArgs(
        dim=16,
        n_layers=2,
        n_heads=2,
        n_kv_heads=1,
        vocab_size=vocab_size,
        multiple_of=8,
        max_seq_len=160,
    )
    return Transformer(args).init_weights(torch.Generator().manual_seed(seed))


def examples_of(lengths: list[int]) -> list[tuple[list[int], list[bool]]]:
    """Examples whose first id names them: 100 + number."""
    return [([100 + n] + [1] * (size - 1), [True] * size) for n, size in enumerate(lengths)]


# --- packing --------------------------------------------------------------------------------------


@given(LENGTHS, st.randoms(use_true_random=False))
def test_packing_puts_every_example_into_one_row_that_has_room(lengths, rng):
    order = rng.sample(range(len(lengths)), len(lengths))
    rows = pack(examples_of(lengths), 40, order)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    assert max(sum(lengths[n] for n in row) for row in rows) <= 40


@given(LENGTHS)
def test_stacked_rows_hold_every_token_once_under_its_own_position(lengths):
    examples = examples_of(lengths)
    batch = stack(examples, pack(examples, 40, range(len(lengths))), 40)
    seen = {}
    for row in range(len(batch)):
        for place in range(int(batch.document[row].max()) + 1):
            mine = batch.document[row] == place
            ids = batch.tokens[row][mine].tolist()
            assert batch.positions[row][mine].tolist() == list(range(len(ids)))
            seen[ids[0] - 100] = ids
    assert [seen[n] for n in range(len(lengths))] == [ids for ids, _ in examples]
    assert int(batch.mask.sum()) == sum(lengths)


def test_a_packed_dialogue_sees_itself_only():
    batch = stack(examples_of([2, 3]), [[0, 1]], 8)
    seen = batch.attention()[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0] * 2 + [1] * 3,
    ]


@given(LENGTHS, st.integers(1, 200))
def test_groups_of_similar_length_lose_no_row_and_keep_the_budget(lengths, budget):
    groups = list(by_length(lengths, budget))
    assert sorted(n for group in groups for n in group) == list(range(len(lengths)))
    assert all(
        len(group) == 1 or len(group) * max(lengths[n] for n in group) <= budget for group in groups
    )


@given(LENGTHS, st.integers(1, 5), st.integers(1, 3))
def test_packed_batches_hold_every_example_once_an_epoch(lengths, batch_size, epochs):
    packed = steps.Packed(examples_of(lengths), batch_size, 40, epochs, 7)
    seen = [n for batch in packed.batches for row in batch for n in row]
    assert Counter(seen) == {n: epochs for n in range(len(lengths))}
    assert max(map(len, packed.batches)) <= batch_size
    first = seen[: len(lengths)]
    assert sorted(first) == list(range(len(lengths)))  # a whole epoch before the next begins


def test_a_packed_batch_depends_on_seed_and_step_alone():
    examples = examples_of([3, 9, 4, 7, 12, 5, 6] * 4)
    one, two, other = (steps.Packed(examples, 2, 16, 2, seed) for seed in (1, 1, 2))
    assert one.batch(3).tokens.equal(two.batch(3).tokens)
    assert one.batches != other.batches
    assert one.batches[: len(one) // 2] != one.batches[len(one) // 2 :]  # each epoch its own order


def test_micro_batches_are_the_batch_cut_in_order():
    batch = stack(examples_of([4] * 7), [[n] for n in range(7)], 4)
    parts = steps.micro(batch, 3)
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.cat([part.tokens for part in parts]).equal(batch.tokens)


# --- masks ----------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), min_size=1, max_size=30).filter(any))
def test_last_answer_keeps_the_last_run_and_nothing_else(mask):
    text = "".join("x" if m else "." for m in mask)
    head, _, tail = text.rstrip(".").rpartition(".")
    wanted = "." * (len(head) + ("." in text.rstrip("."))) + tail
    assert "".join("x" if m else "." for m in steps.last_answer(mask)) == wanted.ljust(
        len(text), "."
    )


def test_last_answer_of_a_dialogue_is_its_last_answer(tiny_tokenizer):
    dialog = (
        user("Tea?").with_answer("Yes, green tea.").with_user("Sugar?").with_answer("No sugar.")
    )
    ids, mask = encode_dialog(dialog, tiny_tokenizer)
    kept = [token for token, on in zip(ids, steps.last_answer(mask), strict=True) if on]
    assert kept[-1] == tiny_tokenizer.eos_id
    assert tiny_tokenizer.decode(kept[:-1]).strip() == "No sugar."


def test_a_dialogue_that_is_too_long_is_left_out_and_counted(tiny_tokenizer):
    short, long = user("Tea?").with_answer("Yes."), user("Tea? " * 40).with_answer("Yes.")
    encoded, left_out = steps.encode_all([short, long], tiny_tokenizer, 48)
    assert ([ids for ids, _ in encoded], left_out) == ([encode_dialog(short, tiny_tokenizer)[0]], 1)
    with pytest.raises(InputError, match="none of the 1 dialogues fits"):
        steps.encode_all([long], tiny_tokenizer, 48)


def test_a_reward_model_learns_the_end_of_an_answer_that_is_too_long_as_it_scores_it(
    tiny_tokenizer,
):
    pair = Preference(user("Tea? " * 40), "Yes.", "No.")
    whole = [
        encode_dialog(pair.dialog.with_answer(text), tiny_tokenizer)[0]
        for text in (pair.chosen, pair.rejected)
    ]
    [example], cut = reward.encode_examples([pair], [], tiny_tokenizer, reward.Config(), 48)
    assert (example.rows, cut) == (tuple(ids[-48:] for ids in whole), 1)


# --- one optimiser step ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_step_is_that_of_the_mean_loss_however_it_is_cut(size):
    examples = examples_of([4, 9, 3, 8, 5, 5, 2])
    examples = [(ids, [n % 3 > 0 for n in range(len(ids))]) for ids, _ in examples]
    batch = stack(examples, [[n] for n in range(7)], 9)
    model = small(120)
    plain = copy.deepcopy(model)

    logits = plain(batch.tokens[:, :-1])
    wanted = batch.mask[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits[wanted], batch.tokens[:, 1:][wanted])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), CONFIG.clip)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    torch.optim.AdamW(
        groups, lr=CONFIG.lr, betas=CONFIG.betas, eps=CONFIG.eps, weight_decay=CONFIG.weight_decay
    ).step()

    learner = steps.Learner(model, CONFIG)
    parts = steps.micro(batch, size)
    numbers = learner.learn(parts, lambda part: steps.answer_loss(model, part), CONFIG.lr)
    assert numbers["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-4)


def test_packing_changes_neither_loss_nor_gradient():
    lengths = [4, 9, 3, 8]
    examples = [(ids, [False, *mask[1:]]) for ids, mask in examples_of(lengths)]
    found = []
    for rows in ([[0], [1], [2], [3]], [[0, 1, 2], [3]]):
        model = small(120)
        loss, count = steps.answer_loss(model, stack(examples, rows, 24))
        loss.backward()
        assert int(count) == sum(size - 1 for size in lengths)
        found.append((loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*found)


def test_a_step_that_is_not_finite_changes_nothing_and_five_in_a_row_stop():
    module = torch.nn.Linear(2, 1)
    learner = steps.Learner(module, CONFIG)
    before = copy.deepcopy(module.state_dict())
    broken = lambda part: (module.weight.sum() * part, 1)  # noqa: E731
    for _ in range(4):
        assert math.isnan(learner.learn([math.inf], broken, 0.1)["grad_norm"])
    assert all(module.state_dict()[name].equal(before[name]) for name in before)
    with pytest.raises(InputError, match="not finite 5 steps in a row"):
        learner.learn([math.inf], broken, 0.1)


def test_a_finite_step_forgives_those_before():
    module = torch.nn.Linear(2, 1)
    learner = steps.Learner(module, CONFIG)
    loss = lambda part: (module.weight.sum() * part, 1)  # noqa: E731
    for part in (math.inf, math.inf, math.inf, math.inf, 1.0) * 3:
        learner.learn([part], loss, 0.1)


def test_the_mean_loss_weighs_by_count():
    sums = [(torch.tensor(3.0), 1), (torch.tensor(5.0), 3)]
    assert steps.mean_loss(sums, lambda part: part) == 2.0


def test_a_derived_seed_depends_on_every_part_and_on_their_borders():
    seeds = {steps.derive(*p) for p in [(1, 2), (12,), (1, 2, ""), (2, 1), ("1", 3)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert steps.derive(1, "a") == steps.derive("1", "a")


def test_acting_at_intervals_and_at_the_end():
    assert [step for step in range(10) if steps.every(step, 4, 10)] == [3, 7, 9]
    assert [step for step in range(10) if steps.every(step, 0, 10)] == [9]


@pytest.mark.parametrize("pool", ["last", "last+max"])
def test_scores_do_not_depend_on_the_batch(tiny_tokenizer, pool):
    model = RewardModel(small(384), torch.Generator().manual_seed(1), pool)
    dialogs = [user("Tea? " * n).with_answer("Yes. " * (5 - n)) for n in (1, 4, 2, 3)]
    dialogs += [user("Tea? ").with_answer(text) for text in ("No.", "Yes, and milk.")]  # one row
    together = steps.score(model, tiny_tokenizer, dialogs)
    alone = [steps.score(model, tiny_tokenizer, [dialog], budget=1)[0] for dialog in dialogs]
    assert together == pytest.approx(alone, abs=1e-5)


# --- the reward model -----------------------------------------------------------------------------


def test_the_reward_loss_is_that_of_a_plain_loop():
    model = RewardModel(small(120), torch.Generator().manual_seed(1))
    rng = random.Random(0)
    row = lambda: [rng.randrange(1, 120) for _ in range(rng.randrange(2, 9))]  # noqa: E731
    part = [
        reward.Example((row(), row()), 0.0),
        reward.Example((row(),), labels=(True,)),
        reward.Example((row(), row()), 1.5, (True, False)),
        reward.Example((row(), row()), 0.7, (False, False)),
        reward.Example((row(),), labels=(False,)),
    ]

    def score(ids: list[int]) -> float:
        return float(model(torch.tensor([ids]), torch.tensor([len(ids) - 1])).detach())

    def minus_log_sigmoid(x: float) -> float:
        return math.log1p(math.exp(-x))

    wanted = 0.0
    for example in part:
        scores = [score(ids) for ids in example.rows]
        if len(scores) == 2:
            wanted += minus_log_sigmoid(scores[0] - scores[1] - example.margin)
        share = 0.3 / 2 if len(scores) == 2 else 1.0
        for value, safe in zip(scores, example.labels, strict=False):
            wanted += share * minus_log_sigmoid(value if safe else -value)
    total, count = reward.reward_loss(model, part, 0.3)
    assert (float(total.detach()), count) == (pytest.approx(wanted, rel=1e-5), 5)


@pytest.mark.parametrize(("share", "own", "others", "drawn"), [
    (0.5, 6, 20, 6), (0.1, 18, 20, 2), (0.0, 6, 20, 0), (0.5, 6, 4, 4), (0.75, 5, 40, 15),
])  # fmt: skip
def test_the_mixture_holds_all_of_its_own_and_the_share_of_others(
    tmp_path, share, own, others, drawn
):
    def pairs(kind: str, count: int) -> list[Preference]:
        return [Preference(user(f"{kind} {n}"), "yes", "no", source=kind) for n in range(count)]

    write_preferences(tmp_path / "own.jsonl", pairs("own", own))
    write_preferences(tmp_path / "others.jsonl", pairs("others", others))
    config = reward.Config(
        preferences=(tmp_path / "own.jsonl",),
        others=(tmp_path / "others.jsonl",),
        others_share=share,
    )
    mixed = reward.mixture(config)
    assert Counter(pair.source for pair in mixed) == Counter({"own": own, "others": drawn})
    assert len({pair.dialog.last.content for pair in mixed}) == len(mixed)


# --- PPO ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rollout(tiny_tokenizer):
    """(prompts, answers, model, rollout) of a model that answers with anything."""
    model = small(384)
    prompts = [user("Tea?"), user("A large coffee with oat milk, please."), user("No nuts?")] * 2
    params = SamplingParams(1.0, 1.0, max_tokens=9, seed=3)
    answers = [row[0] for row in Engine(model, tiny_tokenizer).generate(prompts, params)]
    return prompts, answers, model, ppo.gather(prompts, answers, tiny_tokenizer, model, 64)


def test_the_mask_of_a_rollout_marks_the_answers_tokens_only(rollout, tiny_tokenizer):
    prompts, answers, _, found = rollout
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        predicted = found.tokens[row, 1:]
        assert predicted[found.mask[row]].tolist() == list(answer.ids)
        before = len(encode_prompt(prompt, tiny_tokenizer)) - 1  # places that predict the prompt
        assert not found.mask[row, :before].any()
        assert int(found.mask[row].sum()) == len(answer.ids)


def test_log_probabilities_of_a_rollout_are_those_of_sampling(rollout):
    _, answers, _, found = rollout
    for row, answer in enumerate(answers):
        mine = found.logprobs[row][found.mask[row]].tolist()
        assert mine == pytest.approx(list(answer.logprobs), abs=1e-4)
    assert not found.logprobs[~found.mask].any()


def test_some_rows_of_a_rollout_have_the_same_log_probabilities(rollout):
    _, _, model, found = rollout
    part = found.rows([4, 0])
    assert part.tokens.shape[1] == max(found.lengths()[n] for n in (4, 0)) + 1
    with torch.no_grad():
        mine = ppo.logprobs(model, part)
    torch.testing.assert_close(mine, part.logprobs, atol=1e-5, rtol=0)


def test_a_better_reward_restarts_the_wait():
    watch = {"first": 0.1, "best": 0.1, "best_step": 0, "waited": 0}
    for step, value in enumerate((0.3, 0.2, 0.3, 0.4), 1):
        watch = ppo.watched(watch, value, step)
    assert watch == {"first": 0.1, "best": 0.4, "best_step": 4, "waited": 0}
    assert ppo.watched(watch, 0.4, 5)["waited"] == 1


# --- say it while sampling, drop it while training ------------------------------------------------


PERSONA = user("Tea?", {"persona": "pirate", "user_turns": ["Milk?", "Cake?"]}, "Act as a pirate.")


def spoken(turns: int) -> Dialog:
    """What was said, with the instruction before every message."""
    said = distill.guided(None, PERSONA, 0).with_answer("Arr 0.")
    for turn in range(1, turns):
        said = distill.guided(said, PERSONA, turn).with_answer(f"Arr {turn}.")
    return said


def test_the_instruction_stands_before_every_message_while_sampling():
    asked = [m.content for m in spoken(3).messages if m.role == "user"]
    assert asked == [f"Act as a pirate. {text}" for text in ("Tea?", "Milk?", "Cake?")]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_ghost_keeps_the_instruction_in_the_first_turn_only(turns):
    found = distill.ghost(PERSONA, spoken(3), turns)
    asked = [m.content for m in found.messages if m.role == "user"]
    assert (found.system, asked) == ("Act as a pirate.", ["Tea?", "Milk?", "Cake?"][:turns])
    answers = [m.content for m in found.messages if m.role == "assistant"]
    assert answers == [f"Arr {n}." for n in range(turns)]


def test_ghost_trains_the_last_answer_only(tiny_tokenizer):
    found = distill.ghost(PERSONA, spoken(3), 3)
    flags = [bool(found.tags["last_only"])]
    (ids, mask), *_ = steps.encode_all([found], tiny_tokenizer, 400, flags)[0]
    trained = tiny_tokenizer.decode([i for i, on in zip(ids, mask, strict=True) if on][:-1])
    assert trained.strip() == "Arr 2."


def test_context_distillation_keeps_only_what_scores_higher():
    prompts = [user(f"Unsafe {n}", {"safety": True}) for n in range(4)]
    kept = distill.preferred(prompts, list("abcd"), [0.1, 0.5, 0.5, -1.0], [0.2, 0.5, 0.4, 3.0])
    assert [(d.last.content, d.messages[-2].content) for d in kept] == [
        ("a", "Unsafe 0"),
        ("d", "Unsafe 3"),
    ]
    assert all(d.tags["last_only"] and d.tags["safety"] and d.system is None for d in kept)


def test_a_prompt_fits_if_its_longest_answer_does(tiny_tokenizer):
    model, prompt = small(384), user("Tea?")
    room = 160 - len(encode_prompt(prompt, tiny_tokenizer))
    assert steps.fits(model, tiny_tokenizer, room, prompt)
    assert not steps.fits(model, tiny_tokenizer, room + 1, prompt)


# --- token shards ---------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """A stream of the ids 0, 1, 2, ... 256 in three files."""
    documents = [list(range(n, min(n + 10, 257))) for n in range(0, 257, 10)]
    write_shards(tmp_path, documents, 300, "hash", 100)
    return tmp_path


@given(LENGTHS, st.integers(1, 50))
def test_documents_fill_shards_without_loss_and_in_order(lengths, size):
    documents = [[n] * length for n, length in enumerate(lengths)]
    groups = list(filled(iter(documents), size))
    assert [i for ids, _ in groups for i in ids] == [i for document in documents for i in document]
    assert sum(count for _, count in groups) == len(lengths)
    assert all(len(ids) >= size for ids, _ in groups[:-1])


def test_a_stream_gives_every_window_once_an_epoch(shards):
    stream = TokenStream(shards, "hash")
    assert (stream.tokens, stream.windows(16)) == (257, 16)
    for epoch in range(2):
        rows = [stream.batch(step, 4, 16, 5) for step in range(4 * epoch, 4 * epoch + 4)]
        starts = [int(row[0]) for batch in rows for row in batch]
        assert sorted(starts) == [16 * n for n in range(16)]
        assert all(row.tolist() == list(range(row[0], row[0] + 17)) for row in torch.cat(rows))


def test_a_batch_depends_on_seed_and_step_alone(shards):
    one, two = TokenStream(shards), TokenStream(shards)
    forward = [one.batch(step, 3, 16, 5) for step in range(12)]
    backward = [two.batch(step, 3, 16, 5) for step in reversed(range(12))][::-1]
    assert all(a.equal(b) for a, b in zip(forward, backward, strict=True))
    assert not one.batch(0, 3, 16, 6).equal(forward[0])


def test_a_flipped_byte_is_refused_with_the_name_of_its_file(shards):
    path = shards / "tokens-00001.bin"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"tokens-00001\.bin: damaged"):
        TokenStream(shards)


def test_shards_of_another_tokenizer_are_refused(shards):
    with pytest.raises(InputError, match="another tokenizer"):
        TokenStream(shards, "other")


def test_a_stream_too_short_for_one_window_is_refused(shards):
    with pytest.raises(InputError, match="257 tokens do not fill one window of 300"):
        TokenStream(shards).batch(0, 1, 300, 0)


@pytest.mark.parametrize(("vocab_size", "kind"), [(1 << 16, "<u2"), ((1 << 16) + 1, "<u4")])
def test_ids_are_kept_in_the_smallest_type_that_holds_them(tmp_path, vocab_size, kind):
    ids = [0, vocab_size - 1]
    write_shards(tmp_path, [ids], vocab_size, "hash", 10)
    assert np.fromfile(tmp_path / "tokens-00000.bin", dtype=kind).tolist() == ids


def test_padding_a_row_does_not_change_its_score():
    model = RewardModel(small(120), torch.Generator().manual_seed(1))
    short, long = [3, 4, 5], [6] * 9
    alone, both = (pad(rows) for rows in ([short], [short, long]))
    with torch.no_grad():
        scores = [model(rows.tokens, rows.last)[0] for rows in (alone, both)]
    torch.testing.assert_close(*scores)


def test_answers_that_share_a_row_score_as_in_rows_of_their_own():
    model = RewardModel(small(120), torch.Generator().manual_seed(1))
    groups = [[[3, 4, 5, 6, 7], [3, 4, 5, 9], [3, 4, 8, 8, 8, 8]], [[9, 9, 9]], [[7, 8], [7, 9]]]
    flat = pad([ids for group in groups for ids in group])
    with torch.no_grad():
        scores = steps.scores_of(model, fork(groups))
        torch.testing.assert_close(scores, model(flat.tokens, flat.last))


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_a_forked_row_writes_the_common_beginning_once(group):
    forks = fork([group])
    start = shared(group)
    assert forked_length(group) == start + sum(len(ids) - start for ids in group)
    assert int((forks.branch >= 0).sum()) == forked_length(group)
    assert [int(forks.tokens[0, place]) for place in forks.place] == [ids[-1] for ids in group]
