"""A page's own way to a model: the API's, for somebody who is logged in."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from puna.web.failures import ApiError
from puna.web.site.answers import Ask, Written, answer, write
from tests.pages import Pages, serving_pages
from tests.web import CONTEXT, until

TEA = [{"role": "user", "content": "tea"}]


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_tokenizer) -> Iterator[Pages]:
    with serving_pages(tmp_path_factory.mktemp("answers"), tiny_tokenizer) as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(pages: Pages) -> None:
    pages.running.fake.reset()


def in_server(pages: Pages, work: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine returns that runs where the server's endpoints run."""
    loop = pages.running.service._tasks[0].get_loop()
    return asyncio.run_coroutine_threadsafe(work(), loop).result(10)


def test_an_answer_comes_in_pieces_and_then_as_a_whole_with_its_figures(pages):
    fake = pages.running.fake
    fake.pause, fake.script = 0.005, lambda asked, sample: "a cup of green tea"

    async def all_of_it():
        return [part async for part in write(pages.site, "account:1", Ask("tiny", TEA))]

    *pieces, written = in_server(pages, all_of_it)
    assert "".join(pieces) == written.text == "a cup of green tea"
    assert len(pieces) > 1
    assert isinstance(written, Written) and written.finish == "stop"
    assert written.version == pages.running.service.models["tiny"].fingerprint
    figures = written.figures
    assert figures["context"] == CONTEXT and figures["dropped"] == [] and figures["why"] == ""
    assert figures["context_used"] == figures["prompt_tokens"] + figures["completion_tokens"]


def test_closing_the_iterator_cancels_the_work_and_frees_its_place(pages):
    fake, service = pages.running.fake, pages.running.service
    fake.pause, fake.script = 0.01, lambda asked, sample: "tea " * 400

    async def a_little():
        parts = write(pages.site, "account:1", Ask("tiny", TEA, max_tokens=300))
        async for _ in parts:
            break
        await parts.aclose()
        return service.admission.used, service.models["tiny"].worker.running

    assert in_server(pages, a_little) == (0, 0)
    assert until(lambda: fake.cancelled == [fake.asked[0].id])
    assert not fake.running


def test_the_tenant_is_who_asks_and_a_message_of_the_assistant_is_gone_on_with(pages):
    begun = [*TEA, {"role": "assistant", "content": "We have"}]

    async def both():
        await answer(pages.site, "account:7", Ask("tiny", TEA))
        return await answer(pages.site, "account:8", Ask("tiny:fr", begun, seed=3))

    written = in_server(pages, both)
    first, second = pages.running.fake.asked
    assert (first.tenant, second.tenant) == ("account:7", "account:8")
    assert (second.adapter, second.params.seed) == ("fr", 3)
    assert second.prompt[-1] != first.prompt[-1]
    assert written.model == "tiny:fr"


def test_what_was_left_out_is_told_by_place_and_reason(pages):
    turn = [{"role": "user", "content": "green tea " * 20}, {"role": "assistant", "content": "yes"}]
    messages = [{"role": "system", "content": "be kind"}, *turn * 12, *TEA]

    async def one():
        return await answer(pages.site, "account:1", Ask("tiny", messages, max_tokens=100))

    figures = in_server(pages, one).figures
    count = len(figures["dropped"])
    assert count > 0 and figures["dropped"] == list(range(1, 1 + count))
    assert figures["why"].startswith(f"{count} oldest messages were left out")


@pytest.mark.parametrize(
    ("ask", "status", "param"),
    [
        (Ask("gone", TEA), 404, "model"),
        (Ask("tiny", TEA, temperature=3.0), 400, "temperature"),
        (Ask("tiny", []), 400, "messages"),
        (Ask("tiny", TEA, truncation="error", max_tokens=4000), 400, "max_tokens"),
    ],
)
def test_what_is_asked_wrongly_is_told_with_its_field(pages, ask, status, param):
    async def one():
        return await answer(pages.site, "account:1", ask)

    with pytest.raises(ApiError) as raised:
        in_server(pages, one)
    assert (raised.value.status, raised.value.param) == (status, param)


def test_while_the_model_loads_it_is_unavailable(tmp_path, tiny_tokenizer):
    with serving_pages(tmp_path, tiny_tokenizer, ready=False) as pages:

        async def one():
            return await answer(pages.site, "account:1", Ask("tiny", TEA))

        with pytest.raises(ApiError) as raised:
            in_server(pages, one)
    assert (raised.value.status, raised.value.code) == (503, "loading")
