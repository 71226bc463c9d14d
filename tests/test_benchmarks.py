"""The benchmarks: their own arithmetic and processes, without a peer installed or a model read."""

import asyncio
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import bounds, inference_cpu, peers, serving, speculation, stream, weights
from benchmarks.inference_cpu import Process, Series, ratio

SCRIPTS = (inference_cpu, serving, speculation, bounds, peers, weights)
IDS = list(range(100, 5000))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_a_benchmark_says_what_it_does_and_how_it_is_called(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, "--help"])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage:") and script.__doc__.split()[0] in shown


def test_the_read_loop_reads_all_its_bytes() -> None:
    library = bounds.reader()
    if library is None:
        pytest.skip("no C compiler")
    place = bounds.torch.arange(1 << 14, dtype=bounds.torch.int64)
    wanted = 0
    for value in place.view(-1, 8)[:, 0].tolist():  # the first number of each 64 bytes
        wanted ^= value
    assert library.read_all(place.data_ptr(), place.nbytes, 2, 1) == wanted
    assert library.read_all(place.data_ptr(), place.nbytes, 2, 2) == 0  # each twice


def test_a_ratio_is_taken_round_by_round_against_the_quickest_peer() -> None:
    found = {
        "decode 1": {
            "ours": Series({0: 30.0, 1: 20.0, 2: 99.0}),
            "a": Series({0: 10.0, 1: 20.0}),
            "b": Series({0: 15.0, 1: 5.0}),
        }
    }
    line = ratio(found, ("decode 1", "ours", ("a", "b", "c")))
    assert (line["median"], line["least"], line["most"]) == (1.5, 1.0, 2.0)
    assert line["peers"] == ["a", "b"]


def test_a_series_shows_its_share_of_the_bound() -> None:
    series = Series({0: 10.0, 1: 30.0, 2: 20.0}, {0: 20.0, 1: 40.0, 2: 40.0}, [0.0, 0.1, 0.2])
    shown = series.summary()
    assert (shown["median"], shown["least"], shown["most"]) == (20.0, 10.0, 30.0)
    assert shown["share_of_bound"] == 0.5


def test_an_engine_that_cannot_start_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "place", lambda *_: tmp_path / "nothing")
    process = Process("puna-x:int8", "smollm2", 1.0)
    answer = process.ask({"task": "prefill", "prompt": 8, "seed": 1})
    assert "died" in answer["error"]
    assert process.ask({"task": "prefill"})["error"] == process.fault
    assert "KeyError" in (tmp_path / "arm-puna-x-int8.log").read_text(encoding="utf-8")


def test_a_peer_is_ready_when_its_environment_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_BENCH_CACHE", str(tmp_path))
    assert peers.ready("puna") and not peers.ready("vllm")
    (tmp_path / "vllm").mkdir()
    assert not peers.ready("vllm")
    (tmp_path / "vllm" / "ready").touch()
    assert peers.ready("vllm")


def test_a_failed_install_is_one_line_and_leaves_the_peer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUNA_BENCH_CACHE", str(tmp_path))
    python = peers.python("vllm")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such wheel\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    fault = peers.install("vllm")
    assert fault and fault.startswith("vllm: not installed") and "\n" not in fault
    assert not peers.ready("vllm")
    assert "no such wheel" in (tmp_path / "vllm.log").read_text(encoding="utf-8")


def test_a_workload_is_the_same_for_a_seed_and_within_its_bounds() -> None:
    work = stream.workload(IDS, 50, 3, rate=2.0)
    assert work == stream.workload(IDS, 50, 3, rate=2.0) != stream.workload(IDS, 50, 4, rate=2.0)
    assert all(16 <= len(a.ids) <= 512 and 16 <= a.new <= 256 for a in work)
    assert work[0].at == 0 and all(a.at < b.at for a, b in pairwise(work))
    assert 12 < work[-1].at < 50  # 49 gaps of half a second on average


async def fake_server(short: bool) -> tuple[asyncio.Server, list[dict]]:
    """A server that streams as many tokens as asked for (or one fewer), two a record."""
    asked: list[dict] = []

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        request = json.loads(await reader.readexactly(length))
        asked.append(request)
        count = request["max_tokens"] - short
        records = [{"choices": [{"text": "ab"}]} for _ in range(-(-count // 2))]
        records.append({"choices": [], "usage": {"completion_tokens": count}})
        lines = "".join(f"data: {json.dumps(record)}\n\n" for record in records)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + lines.encode())
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    return await asyncio.start_server(reply, "127.0.0.1", 0), asked


@pytest.mark.parametrize("load", ["closed", "open"])
def test_the_client_sends_all_requests_and_counts_their_pieces(load: str) -> None:
    work = stream.workload(IDS, 6, 1, rate=1000.0)

    async def visit() -> tuple[list[stream.Answered], list[dict]]:
        server, asked = await fake_server(short=False)
        async with server:
            port = server.sockets[0].getsockname()[1]
            if load == "closed":
                return await stream.closed(port, work, "m", 2), asked
            return await stream.opened(port, work, "m"), asked

    done, asked = asyncio.run(visit())
    assert sorted(map(str, (a.ids for a in work))) == sorted(str(a["prompt"]) for a in asked)
    assert not any(a.fault for a in done)
    assert sorted(a.counted for a in done) == sorted(a.new for a in work)
    assert all(len(a.pieces) == -(-a.new // 2) for a in done)
    shown = serving.figures(done, 2.0, 0.1)
    assert shown.tokens_a_second == sum(a.new for a in work) / 2 and shown.faults == 0


def test_an_answer_that_is_too_short_counts_as_a_fault() -> None:
    async def visit() -> stream.Answered:
        server, _ = await fake_server(short=True)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await stream.ask(port, stream.Asked([5], 20), "m", 0)

    done = asyncio.run(visit())
    assert "19 tokens came" in done.fault
    with pytest.raises(RuntimeError, match="no request was answered"):
        serving.figures([done], 1.0, 0.0)


def test_percentiles_are_values_that_occurred() -> None:
    assert serving.percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert serving.percentile([float(i) for i in range(100)], 0.5) == 50.0
