"""The stages that make a pretraining corpus (paper section 2.1): pure, seeded, and counted.

    raw documents -> clean -> drop_exact_duplicates -> drop_near_duplicates
                  -> drop_personal_sites -> mix -> training order

As in the paper, sites with much personal data go as a whole, factual sources are repeated, and
nothing is filtered for toxicity. Each stage writes into a `Ledger` what it kept and why it dropped.
"""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from puna.data.minhash import near_duplicates
from puna.data.personal import find_personal_data
from puna.errors import InputError


@dataclass(frozen=True)
class Document:
    """One pretraining document: its text, the source it belongs to, and the site it came from."""

    text: str
    source: str
    site: str


@dataclass
class Ledger:
    """What each stage saw, kept and dropped by reason: seen = kept + dropped at every stage.

    `notes` counts what a stage changed or added besides.
    """

    seen: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    dropped: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    notes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def see(self, stage: str, count: int = 1) -> None:
        """Count items that entered the stage."""
        self.seen[stage] += count

    def keep(self, stage: str, count: int = 1) -> None:
        """Count items that left the stage."""
        self.kept[stage] += count

    def drop(self, stage: str, reason: str, count: int = 1) -> None:
        """Count items that the stage dropped for the reason."""
        self.dropped[stage][reason] += count

    def note(self, stage: str, what: str, count: int = 1) -> None:
        """Count something else that the stage did, such as a repair."""
        self.notes[stage][what] += count

    def balanced(self) -> bool:
        """Whether seen = kept + dropped holds at every stage."""
        return all(n == self.kept[s] + self.dropped[s].total() for s, n in list(self.seen.items()))

    def to_json(self) -> dict[str, Any]:
        """{stage: {seen, kept, dropped: {reason: count}, notes: {what: count}}}."""
        return {
            stage: {
                "seen": seen,
                "kept": self.kept.get(stage, 0),
                "dropped": dict(self.dropped.get(stage, {})),
                "notes": dict(self.notes.get(stage, {})),
            }
            for stage, seen in self.seen.items()
        }


# --- cleaning -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CleanRules:
    """Bounds outside which a document is dropped, after Gopher's rules (Rae et al. 2021, A.1.1).

    Gopher's own bounds are made for web pages; the laxer ones are for documents of 40-150 words.
    """

    min_words: int = 8  # Gopher: 50
    max_words: int = 100_000  # Gopher: 100,000
    min_word_length: float = 2.0  # mean, characters; Gopher: 3
    max_word_length: float = 12.0  # mean, characters; Gopher: 10
    min_alphabetic: float = 0.5  # share of words with a letter; Gopher: 0.8 (receipts hold numbers)
    max_symbols: float = 0.1  # '#' and ellipses a word; Gopher: 0.1
    max_repeated_lines: float = 0.3  # share of lines seen before; Gopher: 0.3
    max_repeated_ngrams: float = 0.5  # share of 4-grams seen before; Gopher bounds characters
    max_top_word: float = 0.3  # share of the most frequent word


_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029\v\f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_SPACES = re.compile(r"[^\S\n]+")
_EDGES = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")


def normalise(text: str) -> str:
    """Text in NFC with `\\n` line ends, without control and invisible characters, runs of spaces.

    Lines lose their indentation and at most one blank line stands between two; the joiners that
    Indic and Arabic scripts and emoji need (U+200C, U+200D) stay.
    """
    text = _LINE_ENDS.sub("\n", text)
    text = _INVISIBLE.sub("", _CONTROLS.sub("", text))
    text = _EDGES.sub("\n", _SPACES.sub(" ", unicodedata.normalize("NFC", text)))
    return _BLANK_LINES.sub("\n\n", text).strip()


def fault(text: str, rules: CleanRules) -> str | None:
    """Why a normalised text is not worth training on, or None."""
    words = text.split()
    if not words:
        return "empty"
    if len(words) < rules.min_words:
        return "too short"
    if len(words) > rules.max_words:
        return "too long"
    mean = sum(map(len, words)) / len(words)
    if not rules.min_word_length <= mean <= rules.max_word_length:
        return "word length"
    if sum(any(c.isalpha() for c in word) for word in words) < rules.min_alphabetic * len(words):
        return "few words with letters"
    if text.count("#") + text.count("...") + text.count("…") > rules.max_symbols * len(words):
        return "symbols"
    return _repetition(text, words, rules)


def _repetition(text: str, words: list[str], rules: CleanRules) -> str | None:
    lines = [line for line in text.split("\n") if line]
    if _repeated(lines) > rules.max_repeated_lines:
        return "repeated lines"
    lower = [word.casefold() for word in words]
    if _repeated(list(zip(*(lower[k:] for k in range(4)), strict=False))) > (
        rules.max_repeated_ngrams
    ):
        return "repeated phrases"
    if max(Counter(lower).values()) > rules.max_top_word * len(lower):
        return "one word repeated"
    return None


def _repeated(items: list[Any]) -> float:
    """Share of the items that stood before in the list."""
    return 1.0 - len(set(items)) / len(items) if items else 0.0


def clean(
    documents: Iterable[Document], ledger: Ledger, rules: CleanRules | None = None
) -> Iterator[Document]:
    """Yield the documents with normalised text; drop empty, too short and too repetitive ones."""
    rules = rules or CleanRules()
    for document in documents:
        ledger.see("clean")
        text = normalise(document.text)
        reason = fault(text, rules)
        if reason:
            ledger.drop("clean", reason)
            continue
        if text != document.text:
            ledger.note("clean", "normalised")
        ledger.keep("clean")
        yield Document(text, document.source, document.site)


# --- duplicates -----------------------------------------------------------------------------------

_NOT_WORDS = re.compile(r"[\W_]+")


def fingerprint(text: str) -> bytes:
    """16 bytes that texts share when they differ only in case, spacing and punctuation."""
    plain = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return blake2b(plain.encode("utf-8", "replace"), digest_size=16).digest()


def drop_exact_duplicates(documents: Iterable[Document], ledger: Ledger) -> Iterator[Document]:
    """Yield the first document of each fingerprint."""
    met: set[bytes] = set()
    for document in documents:
        ledger.see("exact duplicates")
        mark = fingerprint(document.text)
        if mark in met:
            ledger.drop("exact duplicates", "same text")
            continue
        met.add(mark)
        ledger.keep("exact duplicates")
        yield document


def drop_near_duplicates(
    documents: Iterable[Document], ledger: Ledger, threshold: float = 0.7
) -> list[Document]:
    """Documents without those whose word 3-grams overlap an earlier one's by Jaccard >= threshold.

    Raises:
        InputError: the threshold is not in (0, 1].
    """
    given = list(documents)
    twins = near_duplicates([document.text for document in given], threshold)
    kept = [document for document, twin in zip(given, twins, strict=True) if twin < 0]
    ledger.see("near duplicates", len(given))
    ledger.keep("near duplicates", len(kept))
    if len(kept) < len(given):
        ledger.drop("near duplicates", "nearly the same text", len(given) - len(kept))
    return kept


# --- personal data --------------------------------------------------------------------------------


def drop_personal_sites(
    documents: Iterable[Document], ledger: Ledger, share: float = 0.3, least: int = 5
) -> list[Document]:
    """Remove whole sites heavy in personal data (paper section 2.1).

    A site goes when at least `least` of its documents, and at least `share` of them, hold an
    e-mail, telephone, card or account number, or a street or IP address. Single documents with
    such data on other sites stay and are noted.

    Raises:
        InputError: the share is not in (0, 1], or least < 1.
    """
    if not 0.0 < share <= 1.0:
        raise InputError(f"share: {share}, expected a share of documents in (0, 1]")
    if least < 1:
        raise InputError(f"least: {least}, expected a number of documents >= 1")
    given = list(documents)
    personal = [bool(find_personal_data(document.text)) for document in given]
    heavy = _heavy_sites(given, personal, share, least)
    kept: list[Document] = []
    for document, hit in zip(given, personal, strict=True):
        ledger.see("personal data")
        if document.site in heavy:
            ledger.drop("personal data", "site heavy in personal data")
            continue
        if hit:
            ledger.note("personal data", "kept with personal data")
        ledger.keep("personal data")
        kept.append(document)
    if heavy:
        ledger.note("personal data", "sites removed", len(heavy))
    return kept


def _heavy_sites(
    documents: list[Document], personal: list[bool], share: float, least: int
) -> set[str]:
    total = Counter(document.site for document in documents)
    hits = Counter(d.site for d, hit in zip(documents, personal, strict=True) if hit)
    return {site for site, n in hits.items() if n >= least and n >= share * total[site]}


# --- mixing ---------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?<!\w)[$€£]?\d[\d.,:/%]*")
_NAME = re.compile(r"(?<=[\w,;] )(?!I\b)[A-Z][\w'\u2019]*(?: [A-Z][\w'\u2019]*)*")


def factual_density(text: str) -> float:
    """Facts a 100 words: numbers (prices, times, dates) and names inside a sentence.

    A rough measure of how much checkable knowledge a text carries; 0.0 for an empty text.
    """
    words = len(text.split())
    if not words:
        return 0.0
    facts = len(_NUMBER.findall(text)) + len(_NAME.findall(text))
    return 100.0 * facts / words


def factual_weights(documents: Iterable[Document], most: float = 2.0) -> dict[str, float]:
    """Weights for `mix` by source: density over the corpus' mean, held in [1, most], to 0.1.

    The paper up-samples the most factual sources (section 2.1) and prints no weights.
    """
    by_source: defaultdict[str, list[float]] = defaultdict(list)
    for document in documents:
        by_source[document.source].append(factual_density(document.text))
    everything = [density for densities in by_source.values() for density in densities]
    mean = math.fsum(everything) / max(len(everything), 1)
    return {
        source: round(min(max(_ratio(math.fsum(d) / len(d), mean), 1.0), most), 1)
        for source, d in sorted(by_source.items())
    }


def _ratio(value: float, mean: float) -> float:
    return value / mean if mean > 0.0 else 1.0


def mix(
    documents: Iterable[Document],
    weights: Mapping[str, float] | None,
    rng: random.Random,
    ledger: Ledger,
) -> list[Document]:
    """Repeat each source by its weight and shuffle: the training order of one epoch.

    Weight 2.0 is every document twice, 1.5 each once and a drawn half of them twice, 0.5 a drawn
    half; a source without a weight has 1.0; None takes `factual_weights`.

    Raises:
        InputError: a weight is negative or not finite, or names a source that no document has.
    """
    by_source: defaultdict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[document.source].append(document)
    given = [document for group in by_source.values() for document in group]
    weights = factual_weights(given) if weights is None else weights
    _check_weights(weights, by_source)
    result: list[Document] = []
    for source, group in sorted(by_source.items()):
        result.extend(_repeat(group, weights.get(source, 1.0), rng, ledger))
    rng.shuffle(result)
    return result


def _check_weights(weights: Mapping[str, float], sources: Iterable[str]) -> None:
    known = sorted(sources)
    for source, weight in weights.items():
        if source not in known:
            raise InputError(f"weights: no document of source {source!r}, there are {known}")
        if not math.isfinite(weight) or weight < 0.0:
            raise InputError(f"weights.{source}: {weight}, expected a finite number >= 0")


def _repeat(
    group: list[Document], weight: float, rng: random.Random, ledger: Ledger
) -> list[Document]:
    """The group as often as the weight's whole part, and a drawn part of it once more."""
    whole, part = divmod(weight, 1.0)
    extra = rng.sample(group, round(part * len(group)))
    result = group * int(whole) + extra
    kept = len(group) if whole else len(extra)
    ledger.see("mix", len(group))
    ledger.keep("mix", kept)
    if kept < len(group):
        ledger.drop("mix", "down-sampled", len(group) - kept)
    if len(result) > kept:
        ledger.note("mix", "repeated", len(result) - kept)
    return result
