"""The worker process over its socket, with an engine of plain Python: faults, ends, limits."""

import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.engine import worker
from puna.engine.connection import OUTBOX_BYTES
from puna.text import wire
from puna.text.completion import SamplingParams
from tests.fake_worker import BLOCKS, CONTEXT, LONG, SAMPLER, STEP

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10.0  # no wait in these tests is meant to last so long


class Client:
    """A blocking web process."""

    def __init__(self, path: Path):
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.link.settimeout(SECONDS)
        try:
            self.link.connect(str(path))
        except OSError:
            self.link.close()
            raise
        self.stream = self.link.makefile("rb")

    def send(self, *records: wire.Request) -> None:
        self.link.sendall(b"".join(map(wire.encode, records)))

    def next(self) -> wire.Reply | None:
        """The next reply; None at the end, also where the worker left something unread."""
        try:
            return wire.REPLIES.read(self.stream)
        except ConnectionResetError:
            return None

    def until(self, kind: type[Any], id: str | None = None) -> Any:
        """The next reply of a kind; what comes before is dropped."""
        while (record := self.next()) is not None:
            if isinstance(record, kind) and (id is None or record.id == id):
                return record
        raise AssertionError(f"the connection ended before {kind.__name__}")

    def counters(self) -> dict[str, float]:
        self.send(wire.Stats())
        return self.until(wire.Counters).values

    def close(self) -> None:
        self.stream.close()
        self.link.close()


def generate(
    id: str, last: int = 0, tokens: int = 3, length: int = 1, **more: Any
) -> wire.Generate:
    params = more.pop("params", SamplingParams(max_tokens=tokens))
    return wire.Generate(id=id, prompt=[*range(1, length), last], params=params, **more)


def launched(folder: Path, *options: str, **more: Any) -> tuple[subprocess.Popen[bytes], Path]:
    folder.chmod(0o700)
    path = folder / "s"
    command = [sys.executable, "-m", "tests.fake_worker", "--socket", str(path), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **more)
    return process, path


def wait_for(path: Path) -> None:
    """Until something listens there; torch may take long to be imported on a busy machine."""
    for _ in range(int(6 * SECONDS / 0.01)):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError("the worker does not listen")


def finished(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Exit status and log."""
    _, log = process.communicate(timeout=SECONDS)
    return process.returncode, log.decode()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker that listens."""
    process, path = launched(tmp_path)
    wait_for(path)
    yield process, path
    process.kill()
    process.communicate()


@pytest.fixture
def client(running: tuple[subprocess.Popen[bytes], Path]) -> Iterator[Client]:
    """A connection to it that has had its hello."""
    found = Client(running[1])
    assert isinstance(found.next(), wire.Hello)
    yield found
    found.close()


def test_the_socket_is_its_owners_alone(running: Any) -> None:
    assert stat.S_IMODE(running[1].stat().st_mode) == 0o600


def test_an_answer_comes_as_pieces_and_a_done_for_every_sample(client: Client) -> None:
    client.send(generate("a", last=10, tokens=3, n=2))
    records = [client.next() for _ in range(8)]
    for sample in (0, 1):
        mine = [record for record in records if record.sample == sample]
        assert [record.ids for record in mine[:-1]] == [[11], [12], [13]]
        assert [record.text for record in mine[:-1]] == ["11 ", "12 ", "13 "]
        assert mine[-1] == wire.Done(
            id="a",
            sample=sample,
            finish="length",
            prompt_tokens=1,
            cached_tokens=2,
            completion_tokens=3,
            timings={"cached_tokens": 2.0, "seconds": 0.5},
        )


def test_alternatives_and_prompt_logprobs_are_passed_on(client: Client) -> None:
    params = SamplingParams(max_tokens=1, top_k=2)
    client.send(generate("a", last=7, length=3, params=params, prompt_logprobs=0))
    assert client.next() == wire.Prompt(id="a", logprobs=[None, -1.0, -1.0], tops=[[], [], []])
    assert client.next().tops == [[(8, -0.5)]]


def test_what_the_engine_refuses_is_the_users_fault(client: Client) -> None:
    client.send(generate("a", adapter="nowhere"), generate("b", length=CONTEXT))
    assert "nowhere" in client.until(wire.Failed, "a").message
    failed = client.until(wire.Failed, "b")
    assert failed.kind == "input" and str(CONTEXT) in failed.message


def test_an_id_that_runs_cannot_be_used_again_and_can_afterwards(client: Client) -> None:
    client.send(generate("a", tokens=3000), generate("a"))
    assert "in use" in client.until(wire.Failed, "a").message
    client.send(generate("a"))
    assert client.until(wire.Done, "a").finish == "length"


def test_a_deadline_that_passes_ends_the_answer(client: Client) -> None:
    client.send(generate("a", tokens=4000, seconds=0.05))
    done = client.until(wire.Done)
    assert done.finish == "deadline" and 0 < done.completion_tokens < 4000


def test_cancel_frees_blocks_before_the_next_step(client: Client) -> None:
    client.send(generate("a", tokens=4000, length=300, n=2))
    client.until(wire.Piece, "a")
    assert client.counters()["blocks_free"] < BLOCKS
    client.send(wire.Cancel(id="a"), wire.Stats())
    dones = [client.until(wire.Done, "a") for _ in range(2)]
    assert [(done.finish, done.sample) for done in dones] == [("cancelled", 0), ("cancelled", 1)]
    assert dones[0].completion_tokens > 0
    record = client.next()
    assert isinstance(record, wire.Counters)  # no piece after the cancellation
    assert record.values["blocks_free"] == BLOCKS and record.values["running"] == 0


def test_cancelling_what_is_not_there_says_nothing(client: Client) -> None:
    client.send(wire.Cancel(id="ghost"), wire.Stats())
    assert isinstance(client.next(), wire.Counters)


def test_a_web_process_that_vanishes_frees_everything(running: Any, client: Client) -> None:
    client.send(*(generate(str(i), tokens=4000, length=100) for i in range(20)))
    client.until(wire.Piece)
    client.close()
    again = connected(running[1])
    values = again.counters()
    assert values["blocks_free"] == BLOCKS
    assert values["running"] == values["waiting"] == values["unfinished_requests"] == 0
    assert values["disconnected_requests"] == 20
    again.close()


def connected(path: Path) -> Client:
    """A connection that is accepted, once the worker has seen that the last one is over."""
    for _ in range(int(SECONDS / 0.01)):
        client = Client(path)
        try:
            if isinstance(client.next(), wire.Hello):
                return client
        except OSError:
            pass
        client.close()
        time.sleep(0.01)
    raise AssertionError("not accepted")


def test_a_second_web_process_is_refused_and_the_first_goes_on(
    running: Any, client: Client
) -> None:
    other = Client(running[1])
    assert other.next() is None
    other.close()
    client.send(generate("a"))
    assert client.until(wire.Done).finish == "length"


GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    struct.pack(">I", wire.REQUEST_BYTES + 1),
    bytes(4),
    struct.pack(">I", 3) + b"\xff\xff\xff",
    wire.encode(wire.Cancel(id="x"))[:-1],
    wire.encode(wire.Piece(id="a", sample=0, ids=[1], text="")),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=["http", "huge", "empty", "bytes", "cut", "reply"])
def test_garbage_ends_the_connection_and_not_the_worker(
    running: Any, client: Client, garbage: bytes
) -> None:
    client.send(generate("a", tokens=4000, length=100))
    client.until(wire.Piece)
    client.link.sendall(garbage)
    client.link.shutdown(socket.SHUT_WR)
    while client.next() is not None:
        pass
    again = connected(running[1])
    for _ in range(500):  # the step that runs may end first
        if (free := again.counters()["blocks_free"]) == BLOCKS:
            break
        time.sleep(0.01)
    assert free == BLOCKS
    again.close()
    running[0].terminate()
    # why is a race: what was read, or that nobody reads on
    assert "the web process is gone: " in finished(running[0])[1]


def test_a_fault_of_one_request_ends_that_request_alone(client: Client) -> None:
    client.send(generate("good", tokens=500), generate("bad", last=SAMPLER, n=2))
    failed = client.until(wire.Failed)
    assert (failed.id, failed.kind) == ("bad", "internal")
    assert "planted" not in failed.message
    done = client.until(wire.Done)
    assert (done.id, done.finish, done.completion_tokens) == ("good", "length", 500)


def test_a_fault_of_a_step_ends_what_ran_and_the_worker_lives(running: Any, client: Client) -> None:
    for _ in range(2):
        client.send(generate("good", tokens=4000), generate("bad", last=STEP))
        failed = [client.until(wire.Failed) for _ in range(2)]
        assert {(one.id, one.kind) for one in failed} == {("good", "internal"), ("bad", "internal")}
        client.send(generate("next"))
        assert client.until(wire.Done).finish == "length"
    assert client.counters()["faults"] == 2
    running[0].terminate()
    status, log = finished(running[0])
    assert status == 0 and "planted in the step" in log


def test_a_worker_whose_steps_all_fail_gives_up(running: Any, client: Client) -> None:
    for i in range(3):
        client.send(generate(str(i), last=STEP))
        client.until(wire.Failed)
    status, log = finished(running[0])
    assert status == 1 and "giving up: 3 steps have failed" in log


def test_embeddings_come_as_float32_in_the_order_of_the_prompts(client: Client) -> None:
    prompts = [[1, 2], [5], *([7] * 2000 for _ in range(3))]
    client.send(wire.Embed(id="e", prompts=prompts))
    found = client.until(wire.Embedded)
    numbers = [struct.unpack("<2f", vector) for vector in found.vectors]
    assert numbers == [(float(len(prompt)), float(sum(prompt))) for prompt in prompts]
    assert found.prompt_tokens == 6003


def test_a_fault_while_embedding_ends_that_request_alone(client: Client) -> None:
    client.send(wire.Embed(id="bad", prompts=[[SAMPLER]]), wire.Embed(id="good", prompts=[[1]]))
    assert client.until(wire.Failed).id == "bad"
    assert client.until(wire.Embedded).id == "good"


def test_a_web_process_that_does_not_read_holds_the_engine_up_with_bounded_memory(
    running: Any, client: Client
) -> None:
    client.send(*(generate(str(i), last=LONG, tokens=200) for i in range(10)))
    rss = Path(f"/proc/{running[0].pid}/statm")
    time.sleep(0.3)  # 200 MB would have been made by now
    before = int(rss.read_text().split()[1])
    time.sleep(0.3)
    assert (int(rss.read_text().split()[1]) - before) * 4096 < OUTBOX_BYTES
    text = {str(i): 0 for i in range(10)}
    dones = 0
    while dones < 10:
        record = client.next()
        if isinstance(record, wire.Piece):
            text[record.id] += len(record.text)
        dones += isinstance(record, wire.Done)
    assert set(text.values()) == {200 * 100_000}  # and nothing is lost


def test_sigterm_lets_what_runs_finish_refuses_the_rest_and_exits_with_0(
    running: Any, client: Client
) -> None:
    client.send(*(generate(str(i), tokens=300) for i in range(50)))
    client.until(wire.Piece)
    running[0].terminate()
    time.sleep(0.05)
    client.send(generate("late"))
    ends: dict[str, str] = {}
    while (record := client.next()) is not None:
        if isinstance(record, wire.Done):
            ends[record.id] = record.finish
        elif isinstance(record, wire.Failed):
            ends[record.id] = record.kind
    assert ends.pop("late") == "stopping"
    assert ends == {str(i): "length" for i in range(50)}
    assert finished(running[0])[0] == 0
    assert not running[1].exists()


def test_what_does_not_end_within_the_grace_is_told_so(tmp_path: Path) -> None:
    process, path = launched(tmp_path, "--grace", "0.1")
    wait_for(path)
    client = connected(path)
    client.send(generate("a", tokens=10**7))
    client.until(wire.Piece)
    process.terminate()
    assert client.until(wire.Failed).kind == "stopping"
    assert client.next() is None
    client.close()
    assert finished(process)[0] == 0


def test_sigterm_ends_an_idle_worker_that_nobody_is_connected_to(running: Any) -> None:
    running[0].terminate()
    assert finished(running[0])[0] == 0


def test_a_worker_with_a_lifeline_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    process, path = launched(tmp_path / ".", "--lifeline", stdin=subprocess.PIPE)
    wait_for(path)
    client = connected(path)
    client.send(generate("a", tokens=10**7))
    client.until(wire.Piece)
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    status, log = finished(process)
    assert status == 1 and "is gone" in log
    assert not path.exists()
    client.close()


def test_kill_9_in_mid_stream_closes_the_connection(running: Any, client: Client) -> None:
    client.send(generate("a", tokens=10**7))
    client.until(wire.Piece)
    os.kill(running[0].pid, signal.SIGKILL)
    while client.next() is not None:
        pass
    assert running[0].wait(SECONDS) == -signal.SIGKILL


def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    process, _ = launched(tmp_path)
    process.kill()
    process.communicate()
    tmp_path.chmod(0o755)
    command = [sys.executable, "-m", "tests.fake_worker", "--socket", str(tmp_path / "s")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ran.returncode == worker.WRONG_INPUT
    assert "mode 755" in ran.stderr and ran.stderr.count("\n") == 1


def test_a_socket_that_a_killed_worker_left_is_taken_over_and_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    process, path = launched(tmp_path)
    wait_for(path)
    second, _ = launched(tmp_path)
    status, log = finished(second)
    assert status == worker.WRONG_INPUT and "in use" in log
    process.kill()
    process.communicate()
    assert path.exists()
    third, _ = launched(tmp_path)
    client = None
    for _ in range(500):
        try:
            client = connected(path)
            break
        except OSError:
            time.sleep(0.01)
    assert client is not None
    client.close()
    third.terminate()
    assert finished(third)[0] == 0


@pytest.mark.parametrize(
    ("text", "expected"), [("1000", 1000), ("500M", 500 * 10**6), ("1.5g", 15 * 10**8)]
)
def test_an_amount_of_memory_is_read_with_its_unit(text: str, expected: int) -> None:
    assert worker.amount(text) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["--kv-memory", "-1"],
        ["--kv-memory", "much"],
        ["--kv-memory", "infG"],
        ["--kv-memory", "1G", "--blocks", "3"],
        ["--rows", "0"],
        ["--threads", "x"],
        ["--grace", "inf"],
        ["--quant", "int3"],
        ["--quant=int8", "--nonsense"],
    ],
)
def test_a_wrong_option_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        worker.parser().parse_args(["--model", "m", "--socket", "s", *words])
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
