"""Answers that obey a grammar: which tokens may come next, by the library llguidance.

A grammar is compiled once and kept; each answer has a state of its own. Nothing is ever fetched:
a JSON schema may refer to itself only.
"""

import json
from collections import OrderedDict
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from puna.errors import InputError
from puna.text.completion import Grammar
from puna.text.tokenizer import Tokenizer

MAX_DEPTH = 64  # objects and lists inside one another in a JSON schema
KEPT = 32  # compiled grammars that are kept

# What compiling and each step may cost. Fuel is llguidance's measure: 50,000 units of the first
# and 14,000 of the second take about a millisecond; a state takes one or two kilobytes.
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=10_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)


class Grammars:
    """The grammars for one tokenizer; the last few that were compiled are kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Spell out the vocabulary."""
        self._vocabulary = _Vocabulary(tokenizer)
        self._library = llguidance.LLTokenizer(self._vocabulary)
        self._eos_id = tokenizer.eos_id
        self._allowed = torch.tensor([bool(piece) for piece in self._vocabulary.tokens])
        self._allowed[self._eos_id] = True
        self._kept: OrderedDict[Grammar, GrammarState] = OrderedDict()

    def compile(self, grammar: Grammar) -> "GrammarState":
        """The beginning of a grammar, for one answer.

        InputError if it makes no sense, has something llguidance does not know, or costs too much.
        """
        state = self._kept.pop(grammar, None) or self._compile(grammar)
        self._kept[grammar] = state
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return state.fresh()

    def _compile(self, grammar: Grammar) -> "GrammarState":
        matcher = llguidance.LLMatcher(
            self._library, _translated(grammar), log_level=0, limits=LIMITS
        )
        if matcher.is_error():
            raise InputError(f"{grammar.kind}: {matcher.get_error()[:300]}")
        return GrammarState(matcher, self._allowed, self._eos_id)


class GrammarState:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: Any, allowed: Tensor, eos_id: int) -> None:
        """Begin at the beginning; `allowed` [V] are the tokens that have text, and the end."""
        self._start, self._matcher = matcher, matcher.deep_copy()
        self._allowed, self._eos_id = allowed, eos_id

    @property
    def finished(self) -> bool:
        """Whether nothing but the end token may follow."""
        return bool(self._matcher.is_stopped())

    def fresh(self) -> "GrammarState":
        """The beginning of the same grammar, for another answer."""
        return GrammarState(self._start, self._allowed, self._eos_id)

    def copy(self) -> "GrammarState":
        """The same place in the grammar; neither moves the other."""
        state = GrammarState(self._start, self._allowed, self._eos_id)
        state._matcher = self._matcher.deep_copy()
        return state

    def mask(self) -> Tensor:
        """Which tokens may come next: bool [V], True for those that may.

        InputError if the grammar costs too much here, or no token leads on.
        """
        if self.finished:
            mask = torch.zeros_like(self._allowed)
            mask[self._eos_id] = True
            return mask
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        found = np.unpackbits(bits, count=len(self._allowed), bitorder="little")
        mask = torch.from_numpy(found).bool() & self._allowed
        if not mask.any():
            raise InputError("grammar: no token leads on from here")
        return mask

    def advance(self, id: int) -> None:
        """Take the token that was drawn; ValueError if the grammar does not allow it."""
        if not self.finished and not self._matcher.consume_token(id):
            raise ValueError(f"id {id} is not allowed: {self._matcher.get_error()}")


class _Vocabulary(llguidance.TokenizerWrapper):
    """A tokenizer as llguidance wants it: the bytes of every id, none for what has no text."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.bos_token_id, self.eos_token_id = tokenizer.bos_id, tokenizer.eos_id
        self.tokens = [_spelled(tokenizer, id) for id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted({*tokenizer.control.values(), tokenizer.eos_id})

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode_continuation(text)


def _spelled(tokenizer: Tokenizer, id: int) -> bytes:
    piece = tokenizer.piece(id)
    if piece is None or id == tokenizer.unk_id:
        return b""
    if isinstance(piece, int):
        return bytes([piece])
    return piece.encode() if isinstance(piece, str) else piece


def _translated(grammar: Grammar) -> str:
    """The grammar in llguidance's own form; InputError for a schema that is refused."""
    if grammar.kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(grammar.text))
    if grammar.kind == "lark":
        return str(llguidance.LLMatcher.grammar_from_lark(grammar.text))
    try:
        schema = json.loads(grammar.text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"json_schema: is not JSON: {error}") from None
    form: Any = {"whitespace_flexible": False, "lenient": False}
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=form))
