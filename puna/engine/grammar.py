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
from puna.text.patterns import expanded, expanded_lark, expanded_schema, refuse_counts
from puna.text.tokenizer import SentencePieceTokenizer, Tokenizer

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
        self._first = self._allowed
        if isinstance(tokenizer, SentencePieceTokenizer):  # a space that begins a text is lost
            spaced = [piece.startswith(b" ") for piece in self._vocabulary.tokens]
            self._first = self._allowed & ~torch.tensor(spaced)
        self.kept: OrderedDict[Grammar, GrammarState] = OrderedDict()

    def compile(self, grammar: Grammar) -> "GrammarState":
        """The beginning of a grammar, for one answer.

        InputError if it makes no sense, has something llguidance does not know, or costs too much.
        """
        state = self.kept.pop(grammar, None) or self._compile(grammar)
        self.kept[grammar] = state
        if len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return state.fresh()

    def _compile(self, grammar: Grammar) -> "GrammarState":
        matcher = llguidance.LLMatcher(
            self._library, _translated(grammar), log_level=0, limits=LIMITS
        )
        if matcher.is_error():
            raise InputError(f"{grammar.kind}: {_reason(matcher)}")
        state = GrammarState(matcher, self._allowed, self._eos_id, self._first)
        state.mask()  # what fails at the first token fails here
        if state.finished and not matcher.is_accepting():
            raise InputError(f"{grammar.kind}: no text can obey it")
        return state


class GrammarState:
    """How far one answer has come in its grammar."""

    def __init__(self, matcher: Any, allowed: Tensor, eos_id: int, first: Tensor) -> None:
        """Begin at the beginning; `allowed` [V] are the tokens that have text, and the end.

        `first` [V] are those whose text is the same at the beginning of an answer.
        """
        self._start, self._matcher = matcher, matcher.deep_copy()
        self._allowed, self._eos_id = allowed, eos_id
        self._first, self._begun = first, False

    @property
    def finished(self) -> bool:
        """Whether nothing but the end token may follow."""
        return bool(self._matcher.is_stopped())

    def fresh(self) -> "GrammarState":
        """The beginning of the same grammar, for another answer."""
        return GrammarState(self._start, self._allowed, self._eos_id, self._first)

    def copy(self) -> "GrammarState":
        """The same place in the grammar; neither moves the other."""
        state = self.fresh()
        state._matcher, state._begun = self._matcher.deep_copy(), self._begun
        return state

    def mask(self) -> Tensor:
        """Which tokens may come next: bool [V], True for those that may.

        InputError if the grammar costs too much here, or no token leads on.
        """
        mask = torch.zeros_like(self._allowed)
        if not self.finished:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            found = np.unpackbits(bits, count=len(self._allowed), bitorder="little")
            mask = torch.from_numpy(found).bool() & self._allowed
            mask &= self._allowed if self._begun else self._first
        self._refuse_errors()
        if self.finished:  # which computing the mask may have found out
            mask[:] = False
            mask[self._eos_id] = True
        if not mask.any():
            raise InputError("grammar: no token leads on from here")
        return mask

    def advance(self, id: int) -> None:
        """Take the token that was drawn; after the end any token, which changes nothing.

        InputError if the grammar costs too much here, or does not allow the token.
        """
        if not self.finished:
            self._begun = True
            self._matcher.consume_token(id)
            self._refuse_errors()

    def _refuse_errors(self) -> None:
        if self._matcher.is_error():
            raise InputError(f"grammar: {_reason(self._matcher)}")


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
    """The grammar in llguidance's own form; InputError for a schema that is refused.

    Texts without a choice are not computed ahead: a regular expression may ask for millions of
    letters.
    """
    rules = grammar.text
    if grammar.kind == "regex":
        refuse_counts("regex", expanded(grammar.text))
        rules = f"start: /{llguidance.regex_to_lark(grammar.text)}/"
    elif grammar.kind == "json_schema":
        rules = f"start: %json {json.dumps(_schema(grammar.text))}"
    elif "%llguidance" in rules:
        raise InputError("lark: %llguidance is not allowed, expected rules only")
    else:
        refuse_counts("lark", expanded_lark(grammar.text))
    head = '%llguidance {"no_forcing": true}'
    return str(llguidance.LLMatcher.grammar_from_lark(f"{head}\n{rules}\n"))


def _schema(text: str) -> dict[str, Any]:
    """A JSON schema with the form that answers have; InputError if it is none or too deep."""
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise InputError(f"json_schema: is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"json_schema: is nested deeper than {MAX_DEPTH}") from None
    if not isinstance(schema, dict):
        raise InputError("json_schema: is not an object, expected an object")
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        parts = [part.values() if isinstance(part, dict) else part for part in level]
        level = [x for part in parts for x in part if isinstance(x, dict | list)]
    if level:
        raise InputError(f"json_schema: is nested deeper than {MAX_DEPTH}")
    refuse_counts("json_schema", expanded_schema(schema))
    return {**schema, "x-guidance": {"whitespace_flexible": False, "lenient": False}}


def _reason(matcher: Any) -> str:
    """What llguidance says is wrong, in a few words."""
    lines = str(matcher.get_error()).split("\n")
    if lines[0].startswith("panic"):
        return "cannot be read"
    return lines[0][:200]
