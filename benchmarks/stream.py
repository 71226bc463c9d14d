"""A light client of streamed completions, and the requests that it sends.

Plain sockets of asyncio and next to no parsing, so that measuring takes little from the server's
cores: a piece of an answer costs one search in its bytes. Both Puna's server and llama.cpp's speak
this part of OpenAI's interface, and both take a prompt as token ids.
"""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field

SHORTEST_PROMPT, LONGEST_PROMPT = 16, 512  # tokens
SHORTEST_ANSWER, LONGEST_ANSWER = 16, 256


@dataclass
class Asked:
    """One request: what is to be continued, for how long, and when it comes (s after the start)."""

    ids: list[int]
    new: int
    at: float = 0.0


@dataclass
class Answered:
    """When the pieces of one answer came, in seconds of the clock."""

    sent: float
    new: int
    pieces: list[float] = field(default_factory=list)
    counted: int = 0  # tokens, as the server counts them
    fault: str = ""


def workload(ids: list[int], count: int, seed: int, rate: float | None = None) -> list[Asked]:
    """Requests cut out of a text of `ids`; with a rate (requests a second) they come at random."""
    numbers, at = random.Random(seed), 0.0
    asked = []
    for _ in range(count):
        length = numbers.randint(SHORTEST_PROMPT, LONGEST_PROMPT)
        start = numbers.randrange(len(ids) - length)
        new = numbers.randint(SHORTEST_ANSWER, LONGEST_ANSWER)
        asked.append(Asked(ids[start : start + length], new, at))
        if rate is not None:
            at += numbers.expovariate(rate)
    return asked


def body(asked: Asked, model: str, seed: int) -> bytes:
    """The request as JSON: drawn at temperature 0.8 from all tokens, to the full length."""
    return json.dumps(
        {
            "model": model,
            "prompt": asked.ids,
            "max_tokens": asked.new,
            "temperature": 0.8,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": seed,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


async def ask(port: int, asked: Asked, model: str, seed: int) -> Answered:
    """Send one request on a connection of its own and note when each piece comes."""
    text = body(asked, model, seed)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    done = Answered(time.perf_counter(), asked.new)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + text)
        status = await reader.readline()
        if b" 200 " not in status:
            rest = (await reader.read(2000)).partition(b"\r\n\r\n")[2]
            done.fault = f"{status.decode().strip()} {rest.decode(errors='replace')[:200]}"
            return done
        await read_pieces(reader, done)
    except OSError as error:
        done.fault = str(error)
    finally:
        writer.close()
    if not done.fault and done.counted != asked.new:
        done.fault = f"{done.counted} tokens came, {asked.new} were asked for"
    return done


async def read_pieces(reader: asyncio.StreamReader, done: Answered) -> None:
    """Note the time of each record with text in it, and the usage at the end."""
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        if b'"usage":{' in line or b'"usage": {' in line:
            done.counted = json.loads(line[6:])["usage"]["completion_tokens"]
        if b'"text":"' in line or b'"text": "' in line:
            done.pieces.append(time.perf_counter())


async def closed(port: int, work: list[Asked], model: str, rows: int) -> list[Answered]:
    """`rows` requests at any time until all are answered."""
    waiting = iter(enumerate(work))
    done: list[Answered] = []

    async def visitor() -> None:
        for number, asked in waiting:
            done.append(await ask(port, asked, model, number))

    await asyncio.gather(*(visitor() for _ in range(rows)))
    return done


async def opened(port: int, work: list[Asked], model: str) -> list[Answered]:
    """Every request at its time, whatever became of those before it."""
    started = time.perf_counter()

    async def visit(number: int, asked: Asked) -> Answered:
        await asyncio.sleep(max(0.0, started + asked.at - time.perf_counter()))
        return await ask(port, asked, model, number)

    return list(await asyncio.gather(*(visit(n, a) for n, a in enumerate(work))))
