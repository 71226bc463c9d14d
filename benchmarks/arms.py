"""One engine with one model, alive in a process of its own, that measures when it is told to.

    python benchmarks/arms.py llama.cpp model.gguf Q8_0 < requests

Run by `inference_cpu.py` with the Python of the engine's own environment. Each line on standard
input is a request in JSON, each line on standard output its answer: `{"task": "decode", "batch": 8,
"prompt": 128, "new": 64, "seed": 1}` gives tokens a second of decoding alone, `prefill` those of
reading a prompt (to its first token), `loss` the mean negative log-likelihood of rows of tokens,
`exit` ends it.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Iterator

from engines import ARMS, Arm


def answer(arm: Arm, request: dict) -> dict:
    """What a request asks for: a rate in tokens a second, or a loss."""
    task = request["task"]
    if task == "loss":
        return {"loss": arm.loss(request["rows"])}
    before = time.process_time()
    started = time.perf_counter()
    if task == "decode":
        seconds = arm.decode(request["batch"], request["prompt"], request["new"], request["seed"])
        tokens = request["batch"] * request["new"]
    else:
        seconds = arm.prefill(request["prompt"], request["seed"])
        tokens = request["prompt"]
    busy = (time.process_time() - before) / (time.perf_counter() - started)
    return {"rate": tokens / seconds, "seconds": seconds, "cores": busy}


def peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def lines() -> Iterator[dict]:
    """Requests from standard input until `exit` or its end."""
    for line in sys.stdin:
        request = json.loads(line)
        if request["task"] == "exit":
            return
        yield request


def main() -> None:
    name, path, kind = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    started = time.perf_counter()
    arm = ARMS[name](path, kind)
    print(json.dumps({"loaded": time.perf_counter() - started}), file=out, flush=True)
    for request in lines():
        try:
            reply = answer(arm, request)
        except Exception as error:  # one measurement that fails must not end the comparison
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({**reply, "peak_mb": peak()}), file=out, flush=True)


if __name__ == "__main__":
    main()
