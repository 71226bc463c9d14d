"""The accounts of the cache: every block is free, cached or referenced, exactly as counted."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.engine.blocks import BLOCK, Blocks, OutOfBlocks, blocks_for, next_key, root_key


def keys(tenant: str, adapter: str | None, tokens: list[int]) -> list[bytes]:
    found, before = [], root_key(tenant, adapter)
    for start in range(0, len(tokens) - len(tokens) % BLOCK, BLOCK):
        before = next_key(before, tokens[start : start + BLOCK])
        found.append(before)
    return found


@pytest.mark.parametrize("tokens, count", [(0, 0), (1, 1), (16, 1), (17, 2), (32, 2)])
def test_blocks_are_counted_upwards(tokens, count):
    assert blocks_for(tokens) == count


def test_a_block_is_taken_until_none_is_left():
    blocks = Blocks(2)
    assert [blocks.take(), blocks.take()] == [0, 1]
    with pytest.raises(OutOfBlocks, match="all 2 blocks are in use"):
        blocks.take()


def test_a_shared_block_is_free_when_its_last_owner_lets_go():
    blocks = Blocks(1)
    block = blocks.take()
    blocks.share([block])
    blocks.release([block])
    assert (blocks.shared(block), blocks.available) == (False, 0)
    blocks.release([block])
    assert blocks.available == 1


def test_a_block_cannot_be_released_twice():
    blocks = Blocks(1)
    block = blocks.take()
    blocks.release([block])
    with pytest.raises(AssertionError, match="released twice"):
        blocks.release([block])


def test_a_free_block_cannot_be_shared():
    with pytest.raises(KeyError):
        Blocks(1).share([0])


def test_a_full_block_is_found_again_after_its_owner_let_go():
    blocks = Blocks(4)
    [key] = keys("a", None, [5] * 16)
    block = blocks.take()
    blocks.name(block, key)
    blocks.release([block])
    assert blocks.find([key]) == [block]


def test_a_prefix_is_found_up_to_the_first_block_that_differs():
    blocks = Blocks(4)
    text, other = list(range(48)), [*range(32), *[7] * 16]
    owned = [blocks.take() for _ in range(3)]
    for block, key in zip(owned, keys("a", None, text), strict=True):
        blocks.name(block, key)
    assert blocks.find(keys("a", None, other)) == owned[:2]


@pytest.mark.parametrize(
    "one, other",
    [
        (("a", None), ("b", None)),
        (("a", None), ("a", "x")),
        (("a", None), ("a", "")),
        (("a", "b"), ("a/=b", None)),
        (("", "a"), ("", None)),
        (("1:a", None), ("a", None)),
    ],
)
def test_a_prefix_of_one_tenant_or_adapter_is_not_that_of_another(one, other):
    text = [3] * 32
    assert not set(keys(*one, text)) & set(keys(*other, text))


def test_the_block_let_go_longest_ago_is_evicted_first():
    blocks = Blocks(3)
    names = keys("a", None, list(range(48)))
    owned = [blocks.take() for _ in range(3)]
    for block, key in zip(owned, names, strict=True):
        blocks.name(block, key)
    blocks.release([owned[1]])
    blocks.release([owned[0], owned[2]])
    assert [blocks.take(), blocks.take(), blocks.take()] == [owned[1], owned[2], owned[0]]
    assert blocks.evicted == 3 and blocks.find(names) == []


def test_nothing_is_found_after_the_weights_have_changed():
    blocks = Blocks(2)
    names = keys("a", None, list(range(32)))
    owned = [blocks.take(), blocks.take()]
    for block, key in zip(owned, names, strict=True):
        blocks.name(block, key)
    blocks.release(owned[1:])
    blocks.forget()
    blocks.check([owned[:1]])
    assert (blocks.find(names), blocks.available) == ([], 1)


def test_a_pool_that_grows_keeps_what_it_holds():
    blocks = Blocks(1)
    held = [blocks.take()]
    blocks.grow(3)
    blocks.check([held])
    assert {blocks.take(), blocks.take()} == {1, 2}


@given(seed=st.integers(0, 10**9), count=st.integers(1, 12))
@settings(max_examples=150)
def test_after_any_operations_every_block_is_where_it_is_counted(seed, count):
    draw = random.Random(seed)
    blocks, owners = Blocks(count), []
    for _ in range(draw.randint(1, 80)):
        held = [owner for owner in owners if owner]
        match draw.choice(["take", "share", "release", "name", "find", "forget", "grow"]):
            case "take":
                if blocks.available:
                    owners.append([blocks.take()])
                else:
                    with pytest.raises(OutOfBlocks):
                        blocks.take()
            case "share" if held:
                owner = draw.choice(held)
                blocks.share(owner)
                owners.append(list(owner))
            case "release" if held:
                owner = draw.choice(held)
                blocks.release(owner)
                owners.remove(owner)
            case "name" if held:
                blocks.name(draw.choice(held)[0], bytes([draw.randrange(20)]))
            case "find":
                found = blocks.find([bytes([draw.randrange(20)])])
                blocks.share(found)
                owners.append(found)
            case "forget" if draw.random() < 0.2:
                blocks.forget()
            case "grow" if draw.random() < 0.1:
                blocks.grow(blocks.count + 2)
        blocks.check(owners)
    for owner in owners:
        blocks.release(owner)
    blocks.check([])
    assert blocks.used == 0


def test_a_wrong_count_is_noticed():
    blocks = Blocks(2)
    blocks.take()
    with pytest.raises(AssertionError, match="counts differ"):
        blocks.check([])
