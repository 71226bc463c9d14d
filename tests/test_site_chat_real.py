"""Stop in the middle of a long answer, with a real engine: what runs falls to 0 at once."""

import asyncio
import sys
from dataclasses import replace

from puna.model import checkpoint
from puna.web.supervisor import Supervisor
from tests.models import ARGS, random_model
from tests.pages import serving_pages
from tests.test_site_chat import TINY, Listener
from tests.test_web_real import kind
from tests.web import until


def test_stop_leaves_nothing_running_in_the_engine(tmp_path, tiny_tokenizer):
    place = tmp_path / "checkpoint"
    checkpoint.save(place, random_model(replace(ARGS, max_seq_len=8192)), tiny_tokenizer)
    command = [sys.executable, "-m", "tests.planted_worker", "--model", str(place)]
    real = Supervisor("tiny", [*command, "--threads", "1", "--quant", kind()], log=lambda line: 0)
    with serving_pages(tmp_path, tiny_tokenizer, real=real, seconds=60) as pages:
        anna = pages.person("Anna")
        settings = {"max_tokens": 8000, "temperature": 1.5, "top_p": 1.0, "seed": 3}
        body = {"text": "tea?", "variants": [{**TINY, "settings": settings}] * 2}
        heard = Listener(anna, "/api/chat/ask", body)
        worker = pages.running.service.models["tiny"].worker
        loop = pages.running.service._tasks[0].get_loop()

        def figures() -> dict[str, float]:
            return asyncio.run_coroutine_threadsafe(worker.counters(), loop).result(10)

        assert until(lambda: figures()["running"] == 2)
        for answer in heard.events[0]["begun"]["answers"]:
            anna.http.post(f"/api/chat/turns/{answer['id']}/stop", json={})
        # The worker answers between two steps; whoever asks after a stop is told after it.
        after = figures()
        assert (after["running"], after["waiting"]) == (0, 0)
        heard.thread.join(10)
        assert {event["end"]["state"] for event in heard.events if "end" in event} == {"stopped"}
