"""Items are prepared ahead: two variants answer, faults are told, pauses end, people come first."""

import threading
from pathlib import Path

import pytest

from puna.store import batches, campaigns
from puna.store.rules import Variant
from puna.store.tables import Item
from puna.text import wire
from puna.text.tokenizer import Tokenizer
from puna.web.site import preparing
from tests.campaigns import item_ids, made, upload
from tests.pages import Pages, add_account, serving_pages
from tests.web import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(preparing, "PAUSE", 0.02)


def states(pages: Pages, campaign: int) -> list[str]:
    """The states of a campaign's items."""
    with pages.store.read() as session:
        return [session.get_one(Item, one).state for one in item_ids(pages.store, campaign)]


def items(pages: Pages, campaign: int) -> list[Item]:
    """A campaign's items."""
    with pages.store.read() as session:
        return [session.get_one(Item, one) for one in item_ids(pages.store, campaign)]


def by_heat(asked: wire.Generate, sample: int) -> str:
    """An answer that tells the variants apart."""
    return f"at {asked.params.temperature:g} with {asked.params.seed}"


def test_items_get_two_answers_that_say_who_wrote_them(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.script = by_heat
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "\n".join(f"question {n}" for n in range(12)))
        assert until(lambda: states(pages, campaign) == ["ready"] * 12)
        found = items(pages, campaign)
    for item in found:
        assert {answer["variant"] for answer in item.answers} == {0, 1}
        for answer in item.answers:
            assert answer["temperature"] == (0.6, 1.0)[answer["variant"]]
            assert answer["text"].startswith(f"at {answer['temperature']:g} with {answer['seed']}")
            assert answer["model"] == "tiny" and answer["version"].startswith("fp_")
    assert {item.answers[0]["variant"] for item in found} == {0, 1}


def test_equal_answers_are_asked_for_again_with_another_seed_and_then_given_up(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        fake = pages.running.fake
        fake.script = lambda asked, sample: "tea"
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "question")
        assert until(lambda: states(pages, campaign) == ["failed"])
        [item] = items(pages, campaign)
        heats = [asked.params.temperature for asked in fake.asked]
        seeds = {asked.params.seed for asked in fake.asked}
        fake.script = by_heat
        with pages.store.write() as session:
            assert batches.retry(session, 1, campaign) == 1
        assert until(lambda: states(pages, campaign) == ["ready"])
    assert item.failure == "equal answers: 5 times the two variants said the same"
    assert heats.count(0.6) == 1 and heats.count(1.0) == 1 + preparing.TRIES
    assert len(seeds) == len(heats)


def test_an_item_whose_second_try_differs_is_ready(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        fake = pages.running.fake
        fake.script = lambda asked, sample: "tea" if len(fake.asked) < 4 else "coffee"
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "question")
        assert until(lambda: states(pages, campaign) == ["ready"])
        [item] = items(pages, campaign)
    assert sorted(answer["text"] for answer in item.answers) == ["coffee", "tea"]


def test_an_engine_that_is_away_pauses_and_loses_nothing(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer, ready=False) as pages:
        pages.running.fake.script = by_heat
        ada = pages.person("Ada", "admin")
        campaign = made(pages.store, ada.id)
        upload(pages.store, ada.id, campaign, "one\ntwo\nthree")
        preparer = pages.site.preparer
        assert until(lambda: preparer.why_paused(campaign))
        why = preparer.why_paused(campaign)
        before = states(pages, campaign)
        pages.running.source.gone = False
        assert until(lambda: states(pages, campaign) == ["ready"] * 3)
        assert until(lambda: preparer.why_paused(campaign) == "")
    assert why == "tiny: the model is not loaded"
    assert before == ["preparing"] * 3


def test_a_model_that_fails_over_one_item_again_and_again_gives_that_item_up(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.failure = "internal"
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "question")
        assert until(lambda: states(pages, campaign) == ["failed"])
        [item] = items(pages, campaign)
    assert item.failure.startswith("model failed: ")


def test_a_model_that_there_is_not_fails_the_item_with_its_reason(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        add_account(pages.store, "Ada", "admin")
        campaign = made(pages.store, 1, name="Wrong")
        with pages.store.write() as session:
            row = campaigns.find(session, campaign)
            row.variants = [{**one, "model": "nobody"} for one in row.variants]
        upload(pages.store, 1, campaign, "question")
        assert until(lambda: states(pages, campaign) == ["failed"])
        [item] = items(pages, campaign)
    assert item.failure == "model: there is none of this name"


def test_prompts_longer_than_an_evaluation_s_limit_are_dropped_and_counted(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.script = by_heat
        add_account(pages.store, "Ada", "admin")
        variants = [Variant("tiny", 0.1, 0.9, 100), Variant("tiny:fr", 0.1, 0.9, 100)]
        settings = {"categories": [], "review_share": 0.0, "context_tokens": 40}
        campaign = made(
            pages.store,
            *(1,),
            kind="evaluation",
            own_prompts=False,
            max_turns=1,
            settings=settings,
        )
        with pages.store.write() as session:
            campaigns.find(session, campaign).variants = [vars(one) for one in variants]
        upload(pages.store, 1, campaign, f"tea?\n{'coffee and cake ' * 20}")
        assert until(lambda: states(pages, campaign) == ["ready", "failed"])
        with pages.store.read() as session:
            [batch] = campaigns.progress(session, campaign)
        models = {answer["model"] for answer in items(pages, campaign)[0].answers}
    assert batch["failures"] == {"too long": 1}
    assert batch["counts"]["ready"] == 1
    assert models == {"tiny", "tiny:fr"}


def test_a_server_that_starts_again_goes_on_with_what_is_left(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.mute = True
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "one\ntwo\nthree")
        assert until(lambda: pages.running.fake.asked)
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        pages.running.fake.script = by_heat
        assert until(lambda: states(pages, campaign) == ["ready"] * 3, 20)


def own_threads(before: set[threading.Thread]) -> list[str]:
    """Threads of the store and of passwords that were not there before."""
    new = set(threading.enumerate()) - before
    return [thread.name for thread in new if thread.name.startswith(("store", "hash"))]


def test_a_site_that_ends_cancels_what_the_engine_writes_for_it(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    before = set(threading.enumerate())
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        fake = pages.running.fake
        fake.script, fake.pause = (lambda asked, sample: "tea " * 200), 0.05
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "one")
        assert until(lambda: fake.running)
        thread = pages.running.thread
    assert not thread.is_alive()
    assert until(lambda: not own_threads(before))
    assert not fake.running


def test_at_most_two_items_are_asked_for_and_one_while_somebody_else_asks(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        fake = pages.running.fake
        fake.mute = True
        campaign = made(pages.store, add_account(pages.store, "Ada", "admin"))
        upload(pages.store, 1, campaign, "\n".join(f"question {n}" for n in range(6)))
        assert until(lambda: len(fake.asked) == 2)
        preparer = pages.site.preparer
        assert preparer._room() == preparing.ITEMS
        pages.running.service.admission.used += 1
        alone = preparer._room()
        pages.running.service.admission.used -= 1
        asked = len(fake.asked)
    assert alone == 1
    assert asked == 2
    assert {one.tenant for one in fake.asked} == {preparing.TENANT}


def test_the_items_of_a_closed_campaign_are_not_prepared(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    with serving_pages(tmp_path, tiny_tokenizer, ready=False) as pages:
        pages.running.fake.script = by_heat
        add_account(pages.store, "Ada", "admin")
        first, second = made(pages.store, 1, name="A"), made(pages.store, 1, name="B")
        upload(pages.store, 1, first, "never")
        upload(pages.store, 1, second, "one\ntwo")
        with pages.store.write() as session:
            campaigns.change_state(session, 1, first, "open")
            campaigns.change_state(session, 1, first, "closed")
        pages.running.source.gone = False
        assert until(lambda: states(pages, second) == ["ready", "ready"])
        assert states(pages, first) == ["preparing"]


def test_equal_answers_in_an_evaluation_are_kept_and_no_other_is_drawn(
    tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    variants = [Variant("tiny", 0.1, 0.9, 32), Variant("tiny:fr", 0.1, 0.9, 32)]
    with serving_pages(tmp_path, tiny_tokenizer) as pages:
        fake = pages.running.fake
        fake.script = lambda asked, sample: "tea"
        ada = add_account(pages.store, "Ada", "admin")
        kind = {"kind": "evaluation", "own_prompts": False, "max_turns": 1, "settings": {}}
        campaign = made(pages.store, ada, variants=variants, **kind)
        upload(pages.store, ada, campaign, "question")
        assert until(lambda: states(pages, campaign) == ["ready"])
        [item] = items(pages, campaign)
    assert [answer["text"] for answer in item.answers] == ["tea", "tea"]
    assert len(fake.asked) == 2
