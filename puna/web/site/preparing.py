"""Items are prepared ahead: a background task asks two variants of a campaign for answers.

It asks few at a time, fewer while people ask, none while people wait, and pauses a campaign whose
model is away. What is done and what is left stands in the store alone.
"""

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from puna.errors import InputError
from puna.store import preparation
from puna.store.faults import Unavailable
from puna.store.preparation import Waiting
from puna.text.dialog import Dialog
from puna.text.template import encode_prompt
from puna.web.failures import ApiError
from puna.web.keys import Key
from puna.web.site import answers
from puna.web.site.site import Site

TENANT = "preparing"
ITEMS = 2  # prepared at the same time while nobody else asks
TRIES = 4  # more answers that are asked for where two are equal (a comparison), or one is empty
POLL_SECONDS = 1.0  # between two looks for new items
PAUSE, PAUSE_MOST = 2.0, 30.0  # seconds that a campaign waits for its model; doubled each time
BUSY = frozenset({429, 500, 502, 503, 504})  # statuses of a model that can be asked later


class Hopeless(Exception):
    """The item cannot be prepared; the text says why."""


class Preparer:
    """The background task of one site."""

    def __init__(self, site: Site, rng: random.Random | None = None) -> None:
        """`rng` draws the order of variants and the seeds."""
        self.site = site
        self._rng = rng or random.Random(secrets.randbits(64))
        self._running: dict[int, asyncio.Task[None]] = {}
        self._away: dict[int, tuple[float, float, str]] = {}  # campaign -> until, pause, why
        self._faults: Counter[int] = Counter()  # item -> times that its model failed over it
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for items now."""
        self._woken.set()

    def why_paused(self, campaign_id: int) -> str:
        """Why nothing of a campaign is prepared now; empty: it goes on."""
        _, _, why = self._away.get(campaign_id, (0.0, 0.0, ""))
        return why

    async def run(self) -> None:
        """Prepare items until this is cancelled."""
        try:
            while True:
                self._woken.clear()
                with contextlib.suppress(Unavailable, SQLAlchemyError, OSError):
                    await self._begin()  # a store that is away is asked again
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_SECONDS)
        finally:
            tasks = list(self._running.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self) -> None:
        """Begin as many items as there is room for."""
        room = self._room() - len(self._running)
        if room <= 0:
            return
        moment = time.monotonic()
        away = [campaign for campaign, (until, _, _) in self._away.items() if until > moment]
        found = await self.site.read(preparation.waiting, room, list(self._running), away)
        for item in found:
            self._running[item.id] = asyncio.create_task(self._prepare(item))

    def _room(self) -> int:
        """Items that may be prepared at one time; people's requests come first."""
        admission = self.site.service.admission
        if self.site.service.stopping or admission.waiting:
            return 0
        return 1 if admission.used > len(self._running) else ITEMS

    async def _prepare(self, item: Waiting) -> None:
        try:
            await self._ended(item)
        except (Unavailable, SQLAlchemyError, OSError):
            self._pause(item, "the store is away")
        finally:
            self._running.pop(item.id, None)
            self.wake()

    async def _ended(self, item: Waiting) -> None:
        """Prepare an item to its end, or pause its campaign."""
        try:
            found = await self._answers(item)
        except Hopeless as error:
            await self.site.write(preparation.failed, item.id, str(error))
        except ApiError as error:
            if error.status in BUSY:
                self._pause(item, error.message)
                return
            await self.site.write(preparation.failed, item.id, error.message)
        else:
            await self.site.write(preparation.prepared, item.id, found)
        self._away.pop(item.campaign_id, None)

    def _pause(self, item: Waiting, why: str) -> None:
        until, before, _ = self._away.get(item.campaign_id, (0.0, 0.0, ""))
        if until > time.monotonic():
            return  # another item of it has just said so
        pause = min(before * 2 or PAUSE, PAUSE_MOST)
        self._away[item.campaign_id] = (time.monotonic() + pause, pause, why)

    async def _answers(self, item: Waiting) -> list[dict[str, Any]]:
        """Two answers in random order; equal ones only in an evaluation, where they are a tie.

        Hopeless, ApiError.
        """
        if len(item.variants) < 2:
            raise Hopeless("no models: the campaign does not say two that are to be asked")
        numbers = self._rng.sample(range(len(item.variants)), 2)
        rooms = [await asyncio.to_thread(self._fitting, item, number) for number in numbers]
        found = [await self._said(item, *pair) for pair in zip(numbers, rooms, strict=True)]
        hotter = max((0, 1), key=lambda place: float(found[place]["temperature"]))
        for _ in range(TRIES):
            equal = found[0]["text"].strip() == found[1]["text"].strip()
            if not equal or item.kind == "evaluation":
                return found
            found[hotter] = await self._said(item, numbers[hotter], rooms[hotter])
        raise Hopeless(f"equal answers: {TRIES + 1} times the two variants said the same")

    def _fitting(self, item: Waiting, number: int) -> int:
        """Tokens that an answer may have. Hopeless: the prompt is too long (Sec. 3.4.2)."""
        variant, service = item.variants[number], self.site.service
        model, _ = service.find(variant["model"], Key(name=TENANT, sha256="0" * 64))
        ready = model.ready
        try:
            dialog = Dialog.from_json({"messages": item.messages})
            length = len(encode_prompt(dialog, ready.tokenizer, service.limits.tags))
        except InputError as error:
            raise Hopeless(f"prompt: {error}") from None
        if item.context_tokens and length > item.context_tokens:
            raise Hopeless(f"too long: {length} tokens, expected at most {item.context_tokens}")
        wanted = int(variant["max_tokens"])
        left = ready.hello.context - length
        if left < (wanted if item.kind == "evaluation" else 1):
            held = f"{model.name} holds {ready.hello.context} with its answer of {wanted}"
            raise Hopeless(f"too long: {length} tokens, {held}")
        return min(wanted, left)

    async def _said(self, item: Waiting, number: int, max_tokens: int) -> dict[str, Any]:
        """What a variant answers. Hopeless: nothing, however often it is asked."""
        variant = item.variants[number]
        for _ in range(TRIES + 1):
            seed = self._rng.randrange(1 << 31)
            ask = answers.Ask(
                model=variant["model"],
                messages=item.messages,
                temperature=float(variant["temperature"]),
                top_p=float(variant["top_p"]),
                max_tokens=max_tokens,
                seed=seed,
                truncation="error",
            )
            written = await self._written(item, ask)
            whole = written.finish in ("stop", "length") and not written.figures.get("ended")
            if whole and written.text.strip():
                asked = {name: variant[name] for name in ("model", "temperature", "top_p")}
                about = {"version": written.version, "variant": number, "seed": seed}
                tokens = written.figures.get("completion_tokens", 0)
                told = {"finish": written.finish, "max_tokens": max_tokens, "tokens": tokens}
                return {"text": written.text, **asked, **about, **told}
        raise Hopeless(f"no answer: {variant['model']} said nothing, {TRIES + 1} times")

    async def _written(self, item: Waiting, ask: answers.Ask) -> answers.Written:
        """What the model writes. Hopeless: it has failed over this item again and again."""
        try:
            return await answers.answer(self.site, TENANT, ask)
        except ApiError as error:
            if error.status in BUSY and not self.site.service.stopping:
                self._faults[item.id] += error.status != 429
                if self._faults[item.id] > TRIES:
                    del self._faults[item.id]
                    raise Hopeless(f"model failed: {error.message}") from None
            raise


@contextlib.asynccontextmanager
async def running(site: Site) -> AsyncIterator[None]:
    """A site has its preparer as long as the block runs."""
    site.preparer = Preparer(site)
    task = asyncio.create_task(site.preparer.run(), name="preparing")
    try:
        yield
    finally:
        site.preparer = None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
