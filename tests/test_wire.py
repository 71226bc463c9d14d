"""The records between the web process and a worker: round trips, limits, damage."""

import asyncio
import io
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import InputError
from puna.text import wire
from puna.text.completion import SamplingParams

REQUESTS = [
    wire.Generate(id="a", prompt=[1, 2, 3], params=SamplingParams(seed=7, top_k=5), n=2),
    wire.Generate(
        id="b",
        prompt=[0],
        params=SamplingParams(temperature=0),
        adapter="fr",
        tenant="t",
        seconds=1.5,
        prompt_logprobs=3,
        speculate=False,
    ),
    wire.Embed(id="c", prompts=[[1], [2, 3]], tenant="t"),
    wire.Cancel(id="a"),
    wire.Stats(),
]
REPLIES = [
    wire.Hello(
        model="m",
        format="llama2",
        context=2048,
        vocab_size=32000,
        kind="int8",
        adapters=["fr"],
        tokenizer="m/tokenizer.model",
        blocks=128,
        version="0.1.0",
    ),
    wire.Piece(id="a", sample=1, ids=[5], text="é", logprobs=[-0.5], tops=[[(5, -0.5), (6, -1.0)]]),
    wire.Done(id="a", sample=0, finish="stop", stop_reason="\n", timings={"decode": 0.25}),
    wire.Done(id="a", sample=1, finish="deadline", stop_reason=17, completion_tokens=4),
    wire.Prompt(id="a", logprobs=[None, -2.0], tops=[[], [(1, -0.1)]]),
    wire.Embedded(id="c", vectors=[struct.pack("<2f", 1.0, -1.0)], prompt_tokens=3),
    wire.Failed(id="a", message="x", kind="stopping"),
    wire.Counters(values={"running": 2.0}),
]


def frame(value: Any) -> bytes:
    """A frame around any MessagePack value, written independently of `wire.encode`."""
    body = msgspec.msgpack.encode(value)
    return struct.pack(">I", len(body)) + body


def received(side: wire.Side[Any], data: bytes) -> list[Any]:
    """What the asyncio reader finds in some bytes, until their end."""

    async def run() -> list[Any]:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        found = []
        while (record := await side.receive(stream)) is not None:
            found.append(record)
        return found

    return asyncio.run(run())


def read(side: wire.Side[Any], data: bytes) -> list[Any]:
    """The same with the blocking reader."""
    stream, found = io.BytesIO(data), []
    while (record := side.read(stream)) is not None:
        found.append(record)
    return found


@pytest.mark.parametrize("reader", [read, received])
@pytest.mark.parametrize(
    ("side", "records"), [(wire.REQUESTS, REQUESTS), (wire.REPLIES, REPLIES)], ids=["to", "from"]
)
def test_a_stream_of_records_is_read_as_it_was_written(
    reader: Any, side: wire.Side[Any], records: list[Any]
) -> None:
    assert reader(side, b"".join(wire.encode(record) for record in records)) == records


def test_a_frame_is_a_big_endian_length_and_a_map_with_its_type() -> None:
    data = wire.encode(wire.Cancel(id="x"))
    assert data == frame({"type": "cancel", "id": "x"})


GENERATE = {"type": "generate", "id": "a", "prompt": [1], "params": {}}
DAMAGED: list[tuple[Any, str]] = [
    ({"type": "nothing"}, "nothing"),
    ({"id": "a"}, "type"),
    ({"type": "cancel"}, "id"),
    ({"type": "cancel", "id": "a", "why": 1}, "why"),
    ({"type": "cancel", "id": 7}, "id"),
    ({"type": "cancel", "id": ""}, "id"),
    ({"type": "cancel", "id": "x" * 129}, "id"),
    ({"type": "done", "id": "a"}, "done"),
    (GENERATE | {"prompt": []}, "prompt"),
    (GENERATE | {"prompt": [-1]}, "prompt"),
    (GENERATE | {"prompt": [1 << 31]}, "prompt"),
    (GENERATE | {"prompt": [1.0]}, "prompt"),
    (GENERATE | {"n": 0}, "n"),
    (GENERATE | {"n": 10**9}, "n"),
    (GENERATE | {"n": True}, "n"),
    (GENERATE | {"seconds": 0}, "seconds"),
    (GENERATE | {"prompt_logprobs": 21}, "prompt_logprobs"),
    (GENERATE | {"params": {"temprature": 1.0}}, "temprature"),
    (GENERATE | {"params": {"top_p": 2.0}}, "top_p"),
    (GENERATE | {"params": {"seed": "1"}}, "seed"),
    ({"type": "embed", "id": "a", "prompts": []}, "prompts"),
    ({"type": "embed", "id": "a", "prompts": [[]]}, "prompts"),
    ([1, 2], "object"),
    (None, "object"),
]


@pytest.mark.parametrize(("value", "named"), DAMAGED, ids=[str(i) for i in range(len(DAMAGED))])
def test_a_wrong_request_is_refused_in_one_line_that_names_it(value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named) as caught:
        read(wire.REQUESTS, frame(value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", [read, received])
def test_a_length_over_the_limit_is_refused_before_the_body_is_read(reader: Any) -> None:
    head = struct.pack(">I", wire.REQUEST_BYTES + 1)
    with pytest.raises(InputError, match=str(wire.REQUEST_BYTES + 1)):
        reader(wire.REQUESTS, head)


@pytest.mark.parametrize("reader", [read, received])
def test_an_empty_frame_is_refused(reader: Any) -> None:
    with pytest.raises(InputError, match="0 bytes"):
        reader(wire.REQUESTS, bytes(4))


@pytest.mark.parametrize("reader", [read, received])
def test_a_frame_that_breaks_off_is_refused_wherever_it_does(reader: Any) -> None:
    data = wire.encode(wire.Cancel(id="abc"))
    for end in range(1, len(data)):
        with pytest.raises(InputError, match="ends after"):
            reader(wire.REQUESTS, data[:end])


def test_a_record_larger_than_its_reader_accepts_is_not_written() -> None:
    with pytest.raises(InputError, match="Generate"):
        wire.encode(
            wire.Generate(
                id="a", prompt=[1 << 30] * (wire.REQUEST_BYTES // 5 + 1), params=SamplingParams()
            )
        )


def test_arrays_inside_arrays_without_end_are_refused() -> None:
    body = b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(InputError):
        read(wire.REQUESTS, struct.pack(">I", len(body)) + body)


@given(st.binary(max_size=64))
def test_random_bytes_are_a_record_or_an_input_error(body: bytes) -> None:
    for side in (wire.REQUESTS, wire.REPLIES):
        try:
            side.decode(body)
        except InputError:
            pass


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_changed_byte_gives_a_record_or_an_input_error(place: int, value: int) -> None:
    body = bytearray(wire.encode(REQUESTS[1])[4:])
    body[place % len(body)] = value
    try:
        wire.REQUESTS.decode(bytes(body))
    except InputError:
        pass
