"""Talk to a model in the terminal (the chat format of Llama 2's released code).

    puna chat runs/cafe
    puna chat runs/cafe/sft/checkpoint --once="A latte, please."
    puna chat smollm2 --once="What is the capital of France?"

Reads the folder of a `puna paper` run (its final model; /models lists the others) or one model in
any format (see `puna convert`); writes nothing. Answers go to stdout, everything else to stderr.
When stdin is no terminal, each of its lines is a user message or a command of one conversation.
"""

import difflib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from puna.engine import opening
from puna.engine.engine import Engine
from puna.errors import InputError
from puna.model import folders, places
from puna.text.completion import SamplingParams
from puna.text.dialog import Dialog, Message
from puna.text.files import read_json
from puna.text.template import encode_prompt
from puna.text.tokenizer import StreamDecoder

POSITIONAL = "path"

HELP = """\
/system TEXT    the system message from now on; without TEXT: none
/retry          another answer to the last message
/temperature X  0: always the most likely token; 0.6: the default
/top_p X        draw from the most likely tokens that hold this probability
/clear          a new conversation; the system message stays
/models         the models of this run
/model NAME     go on with another model; the conversation stays
/help           this list
/quit           leave (or Ctrl-D); Ctrl-C stops an answer"""


@dataclass(frozen=True, kw_only=True)
class Config:
    path: Path  # run folder of `puna paper`, a model's folder or file, smollm2, hf:owner/name
    once: str = ""  # answer this one message and leave
    system: str = ""  # system message (paper: section 3.3)
    temperature: float = 0.6  # 0: always the most likely token (released code: 0.6)
    top_p: float = 0.9  # nucleus sampling (released code: 0.9)
    max_tokens: int = 256  # most tokens of one answer
    seed: int = 0  # first random seed; each answer adds one
    # how the weights are held; "same": as saved, and what is saved in 16 bits or fewer as bfloat16
    dtype: Literal["same", "float32", "bfloat16"] = "same"
    # the same choice, and kernels for weights in 8 and 4 bits; "auto": as dtype says
    quant: Literal["auto", "int8", "int4", "bfloat16", "float32"] = "auto"


def main(config: Config) -> None:
    params = SamplingParams(config.temperature, config.top_p, 0, config.max_tokens, config.seed)
    models, name, why = find(config.path)
    chat = Chat(models, name, params, held(config.dtype, config.quant))
    if config.system:
        chat.set_system(config.system)
    if config.once:
        chat.say(config.once)
        return
    note(f"{name}{why}. /help lists the commands.")
    for line in lines():
        if not chat.take(line):
            return


def held(dtype: str, quant: str) -> str | None:
    """How to hold the weights; None: as they are saved. InputError: two different answers."""
    wanted = {choice for choice in (dtype, quant) if choice not in ("same", "auto")}
    if len(wanted) > 1:
        raise InputError(f"quant is {quant} and dtype is {dtype}: expected one of them")
    return wanted.pop() if wanted else None


def find(path: Path) -> tuple[dict[str, Path], str, str]:
    """The chat models under `path` by name, oldest first; the one to start with; and why that one.

    InputError if there is none, or if results.json names a folder that is not one of them.
    """
    place = places.locate(path)
    if places.known(place):
        return {path.name: place}, path.name, ""
    found = [place.parent for place in path.rglob(folders.MANIFEST) if is_model(place.parent, path)]
    found.sort(key=lambda folder: (folder / folders.MANIFEST).stat().st_mtime_ns)
    if not found:
        raise InputError(
            f"{path}: no model here, expected the folder of a `puna paper` run or a checkpoint"
        )
    models = {model_name(folder, path): folder for folder in found}
    results = path / "results.json"
    if not results.is_file():
        why = f" (the run has no results.json yet: {found[-1]} is newest)"
        return models, model_name(found[-1], path), why
    record = read_json(results)
    final = record.get("final") if isinstance(record, dict) else None
    if not isinstance(final, str) or path / final not in found:
        raise InputError(f"{results}: final is {final!r}, expected a checkpoint folder of this run")
    return models, model_name(path / final, path), " (the run's final model)"


def is_model(folder: Path, root: Path) -> bool:
    """Whether `folder` is a finished language model, not a reward model or a training state."""
    hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
    complete = not hidden and (folder / "params.json").is_file()
    return complete and folders.manifest(folder).get("kind") == "transformer"


def model_name(folder: Path, root: Path) -> str:
    """sft/checkpoint: "sft"; v1/rejection/checkpoint: "v1"; v1/distill/checkpoint: "v1+distill"."""
    parts = folder.relative_to(root).parts
    name = "+".join(parts[:-1] if parts[-1] == "checkpoint" else parts)
    return name.removesuffix("+rejection") or folder.name


class Chat:
    """One conversation with one of several models.

    `turns` are the user's and the assistant's messages so far, in pairs; the system message stands
    beside them, so that it survives when old turns no longer fit into the context.
    """

    def __init__(
        self,
        models: dict[str, Path],
        name: str,
        params: SamplingParams,
        quant: str | None = None,
    ):
        self.models, self.params, self.quant = models, params, quant
        self.system: str | None = None
        self.turns: tuple[Message, ...] = ()
        self.load(name)

    def load(self, name: str) -> None:
        """Answer with the model of that name. InputError: no such model, or a damaged folder."""
        if name not in self.models:
            near = difflib.get_close_matches(name, self.models, n=1) or list(self.models)
            raise InputError(f"no model {name!r} in this run, expected {' or '.join(near)}")
        opened = opening.open_runner(opening.find(self.models[name]), self.quant)
        self.name, self.engine = name, Engine(opened.runner, opened.tokenizer, rows=1)

    def take(self, line: str) -> bool:
        """Answer a message or follow a command; False to leave. A refusal is told in one line."""
        word, _, rest = line.strip().partition(" ")
        if word in ("/quit", "/exit"):
            return False
        try:
            if word.startswith("/"):
                self.follow(word, rest.strip())
            elif word:
                self.say(line.strip())
        except InputError as error:
            note(str(error), style="red")
        return True

    def follow(self, word: str, rest: str) -> None:
        """One command. InputError names what is unknown or out of range."""
        commands: dict[str, Callable[[], None]] = {
            "/help": lambda: note(HELP),
            "/system": lambda: self.set_system(rest),
            "/retry": self.retry,
            "/clear": self.clear,
            "/temperature": lambda: self.set_number("temperature", rest),
            "/top_p": lambda: self.set_number("top_p", rest),
            "/models": self.show_models,
            "/model": lambda: self.switch(rest),
        }
        if word not in commands:
            near = difflib.get_close_matches(word, commands, n=1)
            hint = f", did you mean {near[0]}?" if near else ", /help lists the commands"
            raise InputError(f"unknown command {word}{hint}")
        commands[word]()

    def say(self, text: str) -> None:
        """Answer a user message. InputError (a tag in it, too long) changes nothing."""
        self.reply(self.turns, text)

    def retry(self) -> None:
        """Another answer, with another seed, in the place of the last one."""
        if not self.turns:
            raise InputError("/retry: nothing was said yet")
        self.reply(self.turns[:-2], self.turns[-2].content)

    def reply(self, before: tuple[Message, ...], text: str) -> None:
        """Answer `text` after the turns `before`, and go on from there if there is an answer."""
        turns, ids = self.fit((*before, Message("user", text)))
        answer = self.speak(ids)
        self.params = replace(self.params, seed=self.params.seed + 1)
        if answer:
            self.turns = (*turns, Message("assistant", answer))
        else:
            note("(no answer)")

    def fit(self, turns: tuple[Message, ...]) -> tuple[tuple[Message, ...], list[int]]:
        """The newest turns that leave room for an answer, and their tokens; a note if some go."""
        context, dropped = min(self.engine.runner.context, self.engine.room), 0
        room = min(self.params.max_tokens, context // 4)
        while len(ids := self.encode(turns)) > context - room and len(turns) > 1:
            turns, dropped = turns[2:], dropped + 1
        if dropped:
            oldest = "oldest turn is" if dropped == 1 else f"{dropped} oldest turns are"
            note(f"(the context of {context} tokens is full: the {oldest} forgotten)")
        return turns, ids

    def encode(self, turns: tuple[Message, ...]) -> list[int]:
        """The tokens of the system message and `turns`, which end with the user.

        A tag that the user wrote is refused; one that a model made up in an earlier answer is
        spelled so that it is no tag, or the conversation could not go on.
        """
        tokenizer = self.engine.tokenizer
        encode_prompt(Dialog(turns[-1:]).with_system(self.system), tokenizer)
        return encode_prompt(Dialog(turns).with_system(self.system), tokenizer, tags="escape")

    def speak(self, ids: list[int]) -> str:
        """Draw an answer and print it as it comes; Ctrl-C ends it. Returns what was said."""
        decoder, said, count = StreamDecoder(self.engine.tokenizer), "", 0
        [limit] = self.engine.limits([ids], self.params)
        stopped, started, first = False, time.perf_counter(), 0.0
        try:
            for token in self.engine.stream(ids, self.params):
                piece, count = decoder.push(token), count + 1
                first = first or time.perf_counter() - started
                said += show(piece if said else piece.lstrip())
            said += show(decoder.flush())
        except KeyboardInterrupt:
            stopped = True
        print(flush=True)
        if count:
            note(speed(len(ids), count, first, time.perf_counter() - started))
        if stopped:
            note("(stopped)")
        elif count == limit:
            note(f"(cut off after {limit} tokens)")
        return said.strip()

    def clear(self) -> None:
        """Forget the conversation."""
        self.turns = ()
        note("(a new conversation)")

    def set_system(self, text: str) -> None:
        """Use this system message from now on, or none. InputError: it holds a tag."""
        before, self.system = self.system, text or None
        try:
            self.encode((Message("user", "-"),))
        except InputError:
            self.system = before
            raise
        note(f"(system message: {text})" if text else "(no system message)")

    def set_number(self, name: Literal["temperature", "top_p"], text: str) -> None:
        """Set temperature or top_p; without a number, show it."""
        try:
            value = float(text) if text else getattr(self.params, name)
        except ValueError:
            raise InputError(f"/{name}: {text!r} is not a number") from None
        changes: dict[str, Any] = {name: value}
        self.params = replace(self.params, **changes)
        note(f"({name} {value:g})")

    def switch(self, name: str) -> None:
        """Go on with another model of the run."""
        if not name:
            return self.show_models()
        self.load(name)
        note(f"(model {name})")

    def show_models(self) -> None:
        """List the models, the present one marked."""
        for name, folder in self.models.items():
            note(f"{'*' if name == self.name else ' '} {name:<16} {folder}")


def speed(prompt: int, count: int, first: float, seconds: float) -> str:
    """How long the first token took, and how many a second came after it."""
    after = f", then {(count - 1) / (seconds - first):.1f} tokens/s" if count > 1 else ""
    return f"({prompt} tokens read, the first of {count} after {first:.2f} s{after})"


def show(text: str) -> str:
    """Print a piece of an answer at once, without control characters, and return it."""
    kept = "".join(c for c in text if c in "\n\t" or c.isprintable())
    print(kept, end="", flush=True)
    return kept


def note(text: str, style: str = "dim") -> None:
    """A line for the user on stderr, beside the conversation."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(text, style=style))


def lines() -> Iterator[str]:
    """What the user types, with line editing on a terminal; otherwise the lines of stdin."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    try:
        import readline  # noqa: F401  (gives `input` line editing and a history)
    except ImportError:  # not on every system; typing works without
        pass
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            note("(/quit or Ctrl-D leaves)")
