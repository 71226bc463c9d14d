"""One engine with one model, alive in a process of its own, that measures when it is told to.

    python benchmarks/arms.py llama.cpp model.gguf Q8_0 < requests

Run by `inference_cpu.py` with the Python of the engine's own environment, so it imports nothing of
Puna unless the engine is Puna. Each line on standard input is a request in JSON, each line on
standard output its answer: `{"task": "decode", "batch": 8, "prompt": 128, "new": 64, "seed": 1}`
gives tokens a second of decoding alone, `prefill` those of reading a prompt (to its first token),
`loss` the mean negative log-likelihood of rows of tokens, `exit` ends it. Prompts are random ids,
new ones with each seed, so that no cache of prefixes helps; sampling is greedy, or none at all.
"""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

THREADS = int(os.environ.get("PUNA_BENCH_THREADS", "2"))
ROWS = 8  # the largest batch
CONTEXT = 1024  # tokens a row: the longest prompt and its answer fit


def prompts(batch: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids, clear of the special ones, the same for each engine."""
    numbers = random.Random(seed)
    return [[numbers.randrange(100, 30000) for _ in range(length)] for _ in range(batch)]


class Arm:
    """An engine that can only generate: decoding is a long answer's time less a short one's."""

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        """Seconds of `new` steps for so many rows, after prompts of so many tokens."""
        short = self.seconds(prompts(batch, prompt, seed), 1)
        return self.seconds(prompts(batch, prompt, seed + 1_000_000), new + 1) - short

    def prefill(self, prompt: int, seed: int) -> float:
        """Seconds to the first token of one prompt."""
        return self.seconds(prompts(1, prompt, seed), 1)

    def seconds(self, rows: list[list[int]], new: int) -> float:
        """Seconds to generate so many tokens for each row."""
        started = time.perf_counter()
        self.generate(rows, new)
        return time.perf_counter() - started

    def generate(self, rows: list[list[int]], new: int) -> None:
        """Generate `new` tokens for each row, greedily, whatever they are."""
        raise NotImplementedError


class LlamaCpp(Arm):
    """llama.cpp through its C interface, as llama-bench uses it: tokens in, logits out, no draw."""

    def __init__(self, path: str, kind: str) -> None:
        import ctypes

        import llama_cpp
        import numpy

        self.numpy, self.lib = numpy, llama_cpp
        quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.log = quiet(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.log, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = ROWS * CONTEXT, 512, 512
        settings.n_seq_max, settings.n_threads, settings.n_threads_batch = ROWS, THREADS, THREADS
        settings.kv_unified = bool(int(os.environ.get("LLAMA_UNIFIED", "0")))
        if "LLAMA_FA" in os.environ: settings.flash_attn_type = int(os.environ["LLAMA_FA"])
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def forward(self, rows: list[tuple[int, int, int]], wanted: set[int]) -> None:
        """One batch of (token, position, sequence), logits at the indices in `wanted`."""
        for i, (token, position, sequence) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i] = token, position
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
            self.batch.logits[i] = i in wanted
        self.batch.n_tokens = len(rows)
        if self.lib.llama_decode(self.context, self.batch):
            raise RuntimeError("llama_decode failed")
        self.lib.llama_synchronize(self.context)

    def clear(self) -> None:
        """Forget all sequences."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def decode(self, batch: int, prompt: int, new: int, seed: int) -> float:
        self.clear()
        rows = prompts(batch, prompt + new, seed)
        for number, row in enumerate(rows):
            self.forward([(t, p, number) for p, t in enumerate(row[:prompt])], {prompt - 1})
        started = time.perf_counter()
        for place in range(prompt, prompt + new):
            step = [(row[place], place, number) for number, row in enumerate(rows)]
            self.forward(step, set(range(batch)))
        return time.perf_counter() - started

    def prefill(self, prompt: int, seed: int) -> float:
        self.clear()
        (row,) = prompts(1, prompt, seed)
        started = time.perf_counter()
        self.forward([(t, p, 0) for p, t in enumerate(row)], {prompt - 1})
        return time.perf_counter() - started

    def loss(self, rows: list[list[int]]) -> float:
        """Mean negative log-likelihood of each row's tokens after its first."""
        total = 0.0
        for row in rows:
            self.clear()
            self.forward([(t, p, 0) for p, t in enumerate(row)], set(range(len(row))))
            raw = self.lib.llama_get_logits(self.context)
            shape = (len(row), self.vocab_size)
            logits = self.numpy.ctypeslib.as_array(raw, shape=shape)[:-1].astype("float64")
            logits -= logits.max(axis=1, keepdims=True)
            right = logits[range(len(row) - 1), row[1:]]
            total += float((self.numpy.log(self.numpy.exp(logits).sum(axis=1)) - right).sum())
        return total / sum(len(row) - 1 for row in rows)


ARMS: dict[str, Callable[[str, str], Arm]] = {"llama.cpp": LlamaCpp}


def answer(arm: Arm, request: dict) -> dict:
    """What a request asks for: a rate in tokens a second, or a loss."""
    task = request["task"]
    if task == "loss":
        return {"loss": arm.loss(request["rows"])}
    before = time.process_time()
    started = time.perf_counter()
    if task == "decode":
        seconds = arm.decode(
            request["batch"], request["prompt"], request["new"], request["seed"]
        )
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
