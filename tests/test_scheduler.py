"""Whose tokens are computed next: turns, budgets, rows, blocks, and who gives way."""

from puna.engine.blocks import Blocks
from puna.engine.scheduler import Plan, Scheduler
from puna.engine.sequence import Request, Sequence
from puna.text.completion import SamplingParams


def answers(
    id: str, length: int, n: int = 1, tenant: str = "", limit: int = 50, first: int = 3
) -> Sequence:
    """The first sample of a request, followed by the others; its prompt is its own."""
    prompt = [first + ord(id[0]), *range(3, 3 + length - 1)]
    request = Request(id, prompt, SamplingParams(), n, tenant=tenant)
    first_sample, *others = [Sequence(request, sample, limit) for sample in range(n)]
    first_sample.followers = others
    return first_sample


def scheduler_of(blocks: int = 64, rows: int = 8, chunk: int = 64, patience: int = 1) -> Scheduler:
    return Scheduler(Blocks(blocks), rows, chunk, patience)


def carry_out(scheduler: Scheduler, plan: Plan) -> list[str]:
    """Do as a runner and a draw would; the ids of those that were computed."""
    for work in plan.works:
        sequence = work.sequence
        sequence.computed = work.start + work.count
        scheduler.keep(sequence)
        if sequence.left == 0:
            for one in (sequence, *scheduler.fork(sequence)):
                one.push(7)
    return [work.sequence.request.id for work in plan.works]


def spans(plan: Plan) -> list[tuple[str, int, int]]:
    return [(w.sequence.request.id, w.start, w.count) for w in plan.works]


def test_a_long_prompt_is_read_in_pieces_while_others_go_on():
    scheduler = scheduler_of(chunk=16)
    scheduler.add(answers("a", 5))
    carry_out(scheduler, scheduler.plan())
    scheduler.add(answers("b", 40))
    found = []
    for _ in range(4):
        plan = scheduler.plan()
        found.append(spans(plan))
        carry_out(scheduler, plan)
    assert found == [
        [("a", 5, 1), ("b", 0, 16)],
        [("a", 6, 1), ("b", 16, 16)],
        [("a", 7, 1), ("b", 32, 8)],
        [("a", 8, 1), ("b", 40, 1)],
    ]


def test_a_prompt_that_fits_in_a_step_is_not_cut():
    scheduler = scheduler_of(chunk=16)
    scheduler.add(answers("a", 10))
    scheduler.add(answers("b", 10))
    assert spans(scheduler.plan()) == [("a", 0, 10)]


def test_a_prompt_whose_last_piece_is_one_token_is_read_to_its_end():
    scheduler = scheduler_of(chunk=16)
    scheduler.add(answers("a", 17))
    carry_out(scheduler, scheduler.plan())
    plan = scheduler.plan()
    assert spans(plan) == [("a", 16, 1)] and plan.works[0].wanted == 1


def test_tenants_take_turns_and_each_is_served_in_its_order():
    scheduler = scheduler_of(rows=1)
    for id in ("a1", "a2", "a3"):
        scheduler.add(answers(id, 4, tenant="a"))
    for id in ("b1", "b2"):
        scheduler.add(answers(id, 4, tenant="b"))
    order = []
    while not scheduler.idle:
        order += carry_out(scheduler, scheduler.plan())
        scheduler.remove(scheduler.running[0])
    assert order == ["a1", "b1", "a2", "b2", "a3"]


def test_no_more_than_the_rows_run():
    scheduler = scheduler_of(rows=3)
    for id in "abcde":
        scheduler.add(answers(id, 4))
    carry_out(scheduler, scheduler.plan())
    assert len(scheduler.running) == 3 and len(scheduler.plan().works) == 3


def test_samples_that_do_not_fit_in_the_rows_wait_and_lose_nothing():
    scheduler = scheduler_of(rows=3)
    scheduler.add(answers("a", 20, n=5))
    carry_out(scheduler, scheduler.plan())
    assert sorted(s.sample for s in scheduler.running) == [0, 1, 2]
    for sequence in list(scheduler.running):
        scheduler.remove(sequence)
    carry_out(scheduler, scheduler.plan())
    assert sorted(s.sample for s in scheduler.running) == [3, 4]


def test_samples_share_the_blocks_of_their_prompt_until_they_write():
    scheduler = scheduler_of()
    scheduler.add(answers("a", 20, n=3))
    carry_out(scheduler, scheduler.plan())
    assert scheduler.blocks.used == 2
    plan = scheduler.plan()
    assert len(plan.copies) == 2  # the last of the three writes where it is
    assert len({sequence.blocks[1] for sequence in scheduler.running}) == 3
    assert len({sequence.blocks[0] for sequence in scheduler.running}) == 1


def test_a_cached_prefix_is_not_computed_again():
    scheduler = scheduler_of()
    scheduler.add(answers("a", 40))
    carry_out(scheduler, scheduler.plan())
    scheduler.remove(scheduler.running[0])
    scheduler.add(answers("a", 40))
    assert spans(scheduler.plan()) == [("a", 32, 8)]
    assert scheduler.running[0].timings.cached_tokens == 32


def test_the_last_token_of_a_cached_prompt_is_computed():
    scheduler = scheduler_of()
    scheduler.add(answers("a", 32))
    carry_out(scheduler, scheduler.plan())
    scheduler.remove(scheduler.running[0])
    scheduler.add(answers("a", 32))
    assert spans(scheduler.plan()) == [("a", 16, 16)]


def test_a_prefix_of_one_tenant_is_not_found_by_another():
    scheduler = scheduler_of()
    scheduler.add(answers("a", 40, tenant="one"))
    carry_out(scheduler, scheduler.plan())
    scheduler.remove(scheduler.running[0])
    scheduler.add(answers("a", 40, tenant="two"))
    assert spans(scheduler.plan()) == [("a", 0, 40)]


def test_the_youngest_gives_way_when_the_blocks_run_out():
    scheduler = scheduler_of(blocks=4)
    scheduler.add(answers("a", 16))
    scheduler.add(answers("b", 16))
    carry_out(scheduler, scheduler.plan())
    for _ in range(16):
        carry_out(scheduler, scheduler.plan())
    assert carry_out(scheduler, scheduler.plan()) == ["a"]
    assert scheduler.preemptions == 1
    [waiting] = scheduler.waiting[""]
    assert (waiting.request.id, waiting.computed, waiting.blocks) == ("b", 0, [])
    assert len(waiting.ids) == 17  # its tokens stay


def test_one_that_gave_way_goes_on_where_it_was():
    scheduler = scheduler_of(blocks=4)
    scheduler.add(answers("a", 16))
    scheduler.add(answers("b", 16))
    for _ in range(18):
        carry_out(scheduler, scheduler.plan())
    scheduler.remove(scheduler.running[0])
    [work] = scheduler.plan().works
    assert work.sequence.request.id == "b"
    assert work.start + work.count == work.sequence.length and work.wanted == 1


def test_nobody_overtakes_a_prompt_that_waits_for_blocks():
    scheduler = scheduler_of(blocks=4)
    scheduler.add(answers("a", 30))
    scheduler.add(answers("b", 40))
    scheduler.add(answers("c", 3))
    assert carry_out(scheduler, scheduler.plan()) == ["a"]


def test_running_answers_are_not_held_up_for_a_single_free_row():
    scheduler = scheduler_of(rows=8, patience=4)
    for number in range(20):
        scheduler.add(answers(chr(97 + number), 4))
    carry_out(scheduler, scheduler.plan())
    for sequence in scheduler.running[:3]:
        scheduler.remove(sequence)
    assert len(scheduler.plan().works) == 5
    scheduler.remove(scheduler.running[0])
    assert len(scheduler.plan().works) == 8


def test_guesses_are_dropped_where_there_is_no_block_for_them():
    scheduler = scheduler_of(blocks=1)
    scheduler.add(answers("a", 14, limit=2))
    carry_out(scheduler, scheduler.plan())
    [work] = scheduler.plan(lambda sequence: [5] * 9).works
    assert work.proposed == [] and scheduler.preemptions == 0


def test_what_is_removed_while_it_waits_is_forgotten_with_its_samples():
    scheduler = scheduler_of()
    sequence = answers("a", 10, n=4)
    scheduler.add(sequence)
    scheduler.remove(sequence)
    assert scheduler.idle and list(scheduler.sequences()) == []
