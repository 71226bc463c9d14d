"""Workers as subprocesses: ready, dead, started again, given up, ended."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from puna.text import wire
from puna.text.completion import SamplingParams
from puna.web.supervisor import Supervisor, Unavailable, worker_command
from tests.fake_worker import CRASH

ROOT = Path(__file__).resolve().parent.parent
FAKE = [sys.executable, "-m", "tests.fake_worker"]
SECONDS = 10.0


def watched(
    test: Callable[[Supervisor, list[str]], Awaitable[None]], *options: str, **settings: Any
) -> list[str]:
    """Run a test with a supervisor of the fake worker, stop it, and return the log."""
    log: list[str] = []

    async def run() -> None:
        settings.setdefault("back_off", 0.01)
        supervisor = Supervisor("fake", [*FAKE, *options], log=log.append, **settings)
        supervisor.start()
        try:
            async with asyncio.timeout(SECONDS):
                await test(supervisor, log)
        finally:
            await supervisor.stop()

    asyncio.run(run())
    return log


def generate(id: str, last: int = 0, tokens: int = 3) -> bytes:
    params = SamplingParams(max_tokens=tokens)
    return wire.encode(wire.Generate(id=id, prompt=[last], params=params))


async def ends(link: Any) -> list[wire.Reply]:
    """All replies until the connection is over."""
    found = []
    try:
        while (record := await wire.REPLIES.receive(link.reader)) is not None:
            found.append(record)
    except ConnectionError:  # killed while something was on its way
        pass
    link.writer.close()
    return found


def test_a_worker_that_is_ready_gives_a_link_with_its_hello() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        assert supervisor.health["state"] == "starting"
        link = await supervisor.link()
        assert (link.number, link.hello.model, supervisor.state) == (1, "fake", "ready")
        link.writer.write(generate("a", 5))
        replies = [await wire.REPLIES.receive(link.reader) for _ in range(4)]
        assert [type(reply).__name__ for reply in replies] == ["Piece"] * 3 + ["Done"]
        link.writer.close()

    log = watched(test)
    assert any(line.startswith("[fake] ready: fake") for line in log)
    assert log[-1] == "[fake] stopped"


def test_kill_9_in_mid_stream_closes_the_link_and_a_new_worker_answers() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        link = await supervisor.link()
        link.writer.write(generate("a", tokens=10**7))
        assert isinstance(await wire.REPLIES.receive(link.reader), wire.Piece)
        first = supervisor.health["pid"]
        assert isinstance(first, int)
        os.kill(first, signal.SIGKILL)
        assert not any(isinstance(record, wire.Done) for record in await ends(link))
        again = await supervisor.link(link.number)
        assert again.number == 2 and supervisor.health["pid"] != first
        assert supervisor.restarts == 1
        again.writer.write(generate("a"))
        assert isinstance(await wire.REPLIES.receive(again.reader), wire.Piece)
        again.writer.close()

    log = watched(test)
    assert any("the worker ended (SIGKILL)" in line for line in log)


def test_a_worker_that_dies_at_every_start_is_given_up_in_one_line() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        with pytest.raises(Unavailable) as caught:
            await supervisor.link()
        assert str(caught.value) == supervisor.health["reason"]
        assert supervisor.state == "failed"

    log = watched(test, "--crash", tries=3)
    assert log.count("[fake] planted at the start") == 3
    expected = "fake: the worker ended (status 7): planted at the start; given up, 3 times in a row"
    assert log[-1] == expected


def test_a_worker_that_crashes_at_a_request_again_and_again_is_given_up() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        number = 0
        with pytest.raises(Unavailable):
            while True:
                link = await supervisor.link(number)
                number = link.number
                link.writer.write(generate("a", CRASH))
                await ends(link)
        assert number == 2

    watched(test, tries=2)


def test_a_worker_that_lived_long_enough_begins_the_count_again() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        number = 0
        for _ in range(3):
            link = await supervisor.link(number)
            number = link.number
            supervisor.kill()
            await ends(link)
        (await supervisor.link(number)).writer.close()

    watched(test, tries=2, healthy=0.0)


def test_a_setting_that_cannot_be_followed_is_not_tried_again() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        with pytest.raises(Unavailable, match="nowhere, expected a model; given up"):
            await supervisor.link()

    log = watched(test, "--refuse")
    assert log.count("[fake] model: nowhere, expected a model") == 1


def test_a_worker_that_does_not_get_ready_is_killed() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        with pytest.raises(Unavailable, match=r"not ready after 0\.3 s"):
            await supervisor.link()

    watched(test, "--slow", tries=1, start_seconds=0.3)


def test_a_program_that_is_not_there_is_told_and_not_tried_for_ever() -> None:
    async def run() -> None:
        log: list[str] = []
        supervisor = Supervisor("none", ["/nonexistent/program"], log=log.append)
        supervisor.start()
        with pytest.raises(Unavailable, match="cannot be started"):
            await supervisor.link()
        await supervisor.stop()
        assert len(log) == 1

    asyncio.run(run())


def test_a_broken_link_to_a_live_worker_is_made_again() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        link = await supervisor.link()
        pid = supervisor.health["pid"]
        link.writer.write(b"\xff" * 8)  # the worker hangs up
        await ends(link)
        again = await supervisor.link(link.number)
        assert (again.number, supervisor.health["pid"]) == (2, pid)
        again.writer.close()

    watched(test)


def test_stop_lets_a_running_answer_finish() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        link = await supervisor.link()
        link.writer.write(generate("a", tokens=300))
        assert isinstance(await wire.REPLIES.receive(link.reader), wire.Piece)
        stopping = asyncio.create_task(supervisor.stop())
        assert isinstance((await ends(link))[-1], wire.Done)
        await stopping
        assert supervisor.process is not None and supervisor.process.returncode == 0
        assert supervisor.state == "stopped"
        with pytest.raises(Unavailable):
            await supervisor.link(link.number)

    watched(test)


def test_stop_while_the_model_is_loading_ends_it() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        while supervisor.process is None:
            await asyncio.sleep(0.01)
        await supervisor.stop()
        assert supervisor.state == "stopped"

    watched(test, "--slow")


def test_a_worker_that_does_not_end_in_the_grace_is_killed() -> None:
    async def test(supervisor: Supervisor, log: list[str]) -> None:
        link = await supervisor.link()
        assert supervisor.process is not None
        supervisor.process.send_signal(signal.SIGSTOP)
        supervisor.grace = -4.5  # the margin of 5 s is for the worker's own end
        await supervisor.stop()
        assert supervisor.process.returncode == -signal.SIGKILL
        link.writer.close()

    watched(test)


PARENT = """
import asyncio, sys
from puna.web.supervisor import Supervisor
async def run():
    s = Supervisor("fake", [sys.executable, "-m", "tests.fake_worker"])
    s.start()
    await s.link()
    print(s.health["pid"], flush=True)
    await asyncio.sleep(60)
asyncio.run(run())
"""


def test_no_worker_and_no_socket_outlives_a_web_process_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert len(list(tmp_path.iterdir())) == 1
    parent.kill()
    parent.communicate()
    for _ in range(int(SECONDS / 0.02)):
        if _gone(pid) and not list(tmp_path.iterdir()):
            return
        time.sleep(0.02)
    raise AssertionError("the worker lives on")


def _gone(pid: int) -> bool:
    """Whether a process is over; one that nobody has waited for yet counts as over."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_the_command_of_a_worker_names_its_model_and_options() -> None:
    command = worker_command("smollm2", ["--quant", "int8"])
    assert command[1:] == ["-m", "puna.engine.worker", "--model", "smollm2", "--quant", "int8"]
