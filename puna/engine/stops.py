"""Where an answer ends, and what of its text may be shown already.

Stop strings and the chat format's tags are looked for in the text, wherever the borders of tokens
are. Text is held back only as long as it could still become one of them.
"""

from collections import deque
from functools import lru_cache

from puna.text.completion import SamplingParams
from puna.text.template import tag_names
from puna.text.tokenizer import StreamDecoder, Tokenizer


class Stops:
    """The text of one answer as its tokens arrive, up to what ends it.

    An answer ends ("stop") with the tokenizer's end token, unless `ignore_eos`, with an id of
    `stop_ids`, or when the text of its tokens completes a stop string; `reason` is then None, the
    id or the string. Of stop strings the one that is complete first counts, of several that end
    together the longest, so it does not matter where the borders of tokens are. A stop string that
    is complete before `min_tokens` tokens is text like any other.

    A tag of the chat format, which a model made up, ends what is shown but not the answer: its
    tokens go on until something ends it, and `silent` is True (`before_tag` has the same rule).
    In an answer with a grammar a tag is text like any other: cut, it would not be what was asked.
    All pieces joined are the text up to that end; blanks around it are left in.
    """

    def __init__(self, tokenizer: Tokenizer, params: SamplingParams) -> None:
        """Start at the beginning of an answer."""
        self.finish: str | None = None  # "stop" when the answer has ended
        self.reason: str | int | None = None
        self.silent = False  # nothing more will be shown
        self._stop_ids = frozenset(params.stop_ids)
        self._eos = None if params.ignore_eos else tokenizer.eos_id
        self._min_tokens, self._count = params.min_tokens, 0
        self._decoder = StreamDecoder(tokenizer)
        tags = () if params.grammar else tag_names(tokenizer)
        self._finder = finder(params.stop, tags)
        self._state, self._held = 0, ""

    def push(self, id: int) -> str:
        """Take one id and return the text that may be shown now, maybe empty."""
        if self.finish:
            raise ValueError(f"the answer has ended before the id {id}")
        self._count += 1
        if id in self._stop_ids:
            self.finish, self.reason = "stop", id
        elif id == self._eos:
            self.finish = "stop"
        return self.flush() if self.finish else self._scan(self._decoder.push(id))

    def flush(self) -> str:
        """Return what is held back, when nothing more will come."""
        shown = self._scan(self._decoder.flush()) + self._held
        self._held = ""
        return shown

    def _scan(self, text: str) -> str:
        """Look through new text, and return what of the held and the new may be shown."""
        held, end = self._held + text, None
        for place, character in enumerate(text, start=len(self._held) + 1):
            self._state = self._finder.step(self._state, character)
            for length, stop in self._finder.found[self._state]:
                if stop is not None and self._count < self._min_tokens:
                    continue
                end = place - length if end is None else end
                if stop is not None and not self.finish:
                    self.finish, self.reason = "stop", stop
            if self.finish and end is not None:
                break
        if self.silent or end is not None:
            self._held, shown = "", "" if self.silent else held[:end]
            self.silent = True
            return shown
        border = len(held) - self._finder.depth[self._state]
        self._held = held[border:]
        return held[:border]


class Finder:
    """Many texts looked for at once, character by character (Aho and Corasick, 1975).

    A state is the longest end of what was read that begins one of the texts; `depth` is its length
    and `found` what is complete there, the longest first: pairs of its length and, if it is a stop
    string, the string. State 0 is the start. A finder is never changed.
    """

    def __init__(self, stops: tuple[str, ...], tags: tuple[str, ...]) -> None:
        """Build the states for stop strings and tags."""
        self.depth = [0]
        self.found: list[tuple[tuple[int, str | None], ...]] = [()]
        self._next: list[dict[str, int]] = [{}]
        self._shorter = [0]  # the state of the longest proper end that begins a text
        for text in stops:
            self._add(text, text)
        for text in tags:
            self._add(text, None)
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, child in self._next[state].items():
                self._shorter[child] = self.step(self._shorter[state], character)
                self.found[child] += self.found[self._shorter[child]]
                waiting.append(child)

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while state and character not in self._next[state]:
            state = self._shorter[state]
        return self._next[state].get(character, 0)

    def _add(self, text: str, stop: str | None) -> None:
        state = 0
        for depth, character in enumerate(text, start=1):
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._shorter.append(0)
                self.depth.append(depth)
                self.found.append(())
            state = self._next[state][character]
        self.found[state] += ((len(text), stop),)


finder = lru_cache(maxsize=8)(Finder)  # one for each pair of stop strings and tags in use
