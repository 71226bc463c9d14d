"""Prepare: raw text and dialogues → tokenizer, token shards and dialogue files (section 2.2).

    puna prepare --run runs/prepare                                   the embedded cafe
    puna prepare --world none --data DIR --corpus sgd/train.jsonl.gz \\
        --dialogs taskmaster4/dialogs.jsonl.gz

Cleans the corpus, drops exact and near duplicates and sites heavy in personal data, repeats factual
sources, trains a SentencePiece BPE tokenizer, and writes tokens/train and tokens/held_out. Beside
them: dialogs.jsonl for fine-tuning, prompts.jsonl for sampling, personas.jsonl for Ghost Attention,
human preferences and labels where they were given; each with a held-out part that shares no prompt
with it.
"""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta

from puna.data import cafe_dialogs, cafe_documents, corpus, formats, shards
from puna.data.corpus import Document, Ledger
from puna.errors import InputError
from puna.model import checkpoint, places
from puna.recipes import judges, steps
from puna.run import Run
from puna.text.dialog import Dialog, Label, Preference
from puna.text.files import read_dialogs, write_dialogs, write_json, write_jsonl
from puna.text.template import TAGS, encode_prompt, tags_of
from puna.text.tokenizer import Tokenizer, train_tokenizer


@dataclass(frozen=True, kw_only=True)
class Config:
    run: Path = Path("runs/prepare")  # folder of this stage
    world: str = "cafe"  # the embedded world, or "none": only the files named below
    data: Path = Path(".")  # folder that the files below are relative to
    corpus: tuple[Path, ...] = ()  # text, dialogues, Parquet or folders to pretrain on
    dialogs: tuple[Path, ...] = ()  # human-written dialogues for fine-tuning (paper: 27,540)
    helpfulness: tuple[Path, ...] = ()  # human judgements of helpfulness: comparisons or 0/1 labels
    safety: tuple[Path, ...] = ()  # human comparisons of safety
    documents: int = 9000  # documents that the embedded world writes
    dialog_count: int = 4000  # dialogues of the embedded world for fine-tuning
    prompt_count: int = 6000  # prompts of the embedded world for sampling
    held_out_count: int = 600  # held-out dialogues and prompts of the embedded world
    persona_count: int = 800  # persona dialogues of the embedded world
    # share of given documents and dialogues kept for testing
    held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    # share of given judgements kept for testing
    judged_held_out: Annotated[float, Meta(gt=0, lt=1)] = 0.2
    # Jaccard similarity from which a document counts as a copy (paper: not stated)
    near_duplicate: float = 0.7
    # share of documents with personal data that condemns a site (paper: not stated)
    personal_share: float = 0.3
    vocab_size: int = 1024  # pieces of the tokenizer (paper: 32,000)
    # a model whose tokenizer is taken (then no vocab_size, and no need of a corpus); "": train one
    tokenizer: str = ""
    most: int = 0  # given dialogues, and given judgements of each kind, that are kept; 0: all
    shard_tokens: int = 1 << 20  # tokens in one shard file
    prompt_tokens: int = 256  # longest prompt that is kept for sampling, in tokens
    # user turns of a given dialogue that is kept for fine-tuning; longer ones are cut
    max_turns: int = 8
    seed: int = 0  # everything that is drawn


T = TypeVar("T")


def main(config: Config) -> dict:
    run = Run.start(config.run, config)
    if run.done:
        return run.figures
    ledger = Ledger()
    with run.track(6, "prepare") as advance:
        none = config.world == "none"  # the user's dialogues come first: a fault in them shows soon
        counts: dict[str, float] = {}
        base = tokenizer_of(config, run.folder) if config.tokenizer else None
        counts |= given(run.folder, config, ledger, base) if none else embedded(run.folder, config)
        text = not (none and config.tokenizer and not config.corpus)
        train, held_out = documents(config, ledger) if text else ([], [])
        advance(3)
        tokenizer = base or train_tokenizer(
            [document.text for document in train],
            run.folder / "tokenizer.model",
            config.vocab_size,
            TAGS,
        )
        advance(1)
        if text:
            counts |= shard(config, train, held_out, tokenizer)
        advance(1)
        write_json(run.folder / "ledger.json", ledger.to_json())
        counts["prompts_too_long"] = sum(
            shorten_prompts(run.folder / f"prompts{suffix}.jsonl", tokenizer, config.prompt_tokens)
            for suffix in ("", "_held_out")
        )
        advance(1)
    dropped = {f"dropped_{s.replace(' ', '_')}": sum(c.values()) for s, c in ledger.dropped.items()}
    return run.finish(documents=len(train), **dropped, **counts)


def tokenizer_of(config: Config, folder: Path) -> Tokenizer:
    """The tokenizer of the given model, written into the folder."""
    source = places.open_source(config.tokenizer, verify=False)
    tokenizer = checkpoint.tokenizer_for(source, config.tokenizer)
    tokenizer.save(folder)
    return tokenizer


def shard(
    config: Config, train: Sequence[Document], held_out: Sequence[Document], tokenizer: Tokenizer
) -> dict[str, float]:
    """Write the documents' tokens; how many there are, and characters in one."""
    tokens = {
        part: write_tokens(config.run / "tokens" / part, of, tokenizer, config)
        for part, of in (("train", train), ("held_out", held_out))
    }
    return {
        "tokens": tokens["train"],
        "held_out_tokens": tokens["held_out"],
        "characters_per_token": sum(len(d.text) for d in train) / tokens["train"],
    }


def documents(config: Config, ledger: Ledger) -> tuple[list[Document], list[Document]]:
    """The cleaned corpus, mixed for training, and held-out documents, which are not repeated."""
    found: Iterable[Document]
    rng = random.Random(steps.derive(config.seed, "documents"))
    if config.world == "none":
        found = (
            as_document(record, str(path))
            for path in config.corpus
            for record in formats.read_any(config.data / path, ledger)
            if not tested_on(record, config)
        )
    elif judges.world_of(config.world):
        found = cafe_documents.documents(rng, config.documents)
    else:
        known = ", ".join([*judges.WORLDS, "none"])
        raise InputError(f"world={config.world!r}: expected one of {known}")
    cleaned = corpus.drop_exact_duplicates(corpus.clean(found, ledger), ledger)
    kept = corpus.drop_near_duplicates(cleaned, ledger, config.near_duplicate)
    kept = corpus.drop_personal_sites(kept, ledger, config.personal_share)
    if not kept:
        raise InputError("corpus: no document is left after cleaning, expected some text")
    rng.shuffle(kept)
    count = max(1, round(config.held_out * len(kept)))
    return corpus.mix(kept[count:], None, rng, ledger), kept[:count]


def tested_on(record, config: Config) -> bool:
    """Whether a record of the corpus is a judgement that is held out for testing."""
    judged = isinstance(record, Label | Preference)
    return judged and formats.is_held_out(record, config.judged_held_out, config.seed)


def as_document(record, source: str) -> Document:
    """A record of any kind as text to pretrain on; a dialogue becomes a transcript.

    A labelled answer, good or bad, belongs to it; a comparison gives its prompt only.
    """
    if isinstance(record, Document):
        return record
    if isinstance(record, Label):
        dialog = record.dialog.with_answer(record.completion)
    else:
        dialog = record if isinstance(record, Dialog) else record.dialog
    lines = [f"{message.role.capitalize()}: {message.content}" for message in dialog.messages]
    site = f"{source}#{dialog.id}"  # every dialogue is its own
    return Document("\n".join(lines), source, site)


def write_tokens(folder: Path, of: Sequence[Document], tokenizer: Tokenizer, config: Config) -> int:
    """Each document as BOS, its tokens, EOS, into the shards of `folder`; how many tokens."""
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = ([*begin, *row, tokenizer.eos_id] for row in tokenizer.encode_batch([d.text for d in of]))
    return shards.write_shards(
        folder, ids, tokenizer.vocab_size, tokenizer.sha256, config.shard_tokens
    )


def embedded(folder: Path, config: Config) -> dict[str, int]:
    """The embedded world's dialogues, prompts and personas, train and held out by construction."""
    counts = {}
    for held_out, suffix in ((False, ""), (True, "_held_out")):
        rng = random.Random(steps.derive(config.seed, "dialogs", held_out))
        many = config.held_out_count
        found = {
            "dialogs": cafe_dialogs.sft_dialogs(
                rng, many if held_out else config.dialog_count, held_out
            ),
            "prompts": cafe_dialogs.prompts(
                rng, many if held_out else config.prompt_count, None, held_out
            ),
            "personas": cafe_dialogs.persona_dialogs(
                rng,
                many // 4 if held_out else config.persona_count,
                6 if held_out else None,
                held_out,
            ),
        }
        for name, dialogs in found.items():
            write_dialogs(folder / f"{name}{suffix}.jsonl", dialogs)
            counts[f"{name}{suffix}"] = len(dialogs)
    return counts


def given(
    folder: Path, config: Config, ledger: Ledger, tokenizer: Tokenizer | None
) -> dict[str, int]:
    """The user's dialogues, their prompts (`prompts_of`) and human judgements, split by prompt."""
    found = [d for path in config.dialogs for d in formats.iter_dialogs(config.data / path, ledger)]
    dialogs = some(
        [shortened(d, config.max_turns) for d in found if answered(d)], config, "dialogs"
    )
    helpful = some(judgements(config.data, config.helpfulness, ledger), config, "helpfulness")
    safe = some(judgements(config.data, config.safety, ledger), config, "safety")
    unsafe = [
        Dialog(x.dialog.messages, x.dialog.id, {"kind": "unsafe", "safety": True}) for x in safe
    ]
    records: dict[str, tuple[Sequence, float]] = {
        "dialogs": (dialogs, config.held_out),
        "prompts": ([p for d in dialogs for p in prompts_of(d)] + unsafe, config.held_out),
    }
    for kind, judged in (("helpfulness", helpful), ("safety", safe)):
        labels = [x for x in judged if isinstance(x, Label)]
        pairs = [x for x in judged if isinstance(x, Preference)]
        records[f"labels_{kind}"] = (labels, config.judged_held_out)
        records[f"preferences_{kind}"] = (pairs, config.judged_held_out)
    counts, tags = {}, tags_of(tokenizer)
    for name, (given_records, share) in records.items():
        if given_records:
            parts = formats.split_by_prompt(given_records, share, config.seed)
            for part, suffix in zip(parts, ("", "_held_out"), strict=True):
                clean = [record for record in part if not tags.search(said(record))]
                write_jsonl(
                    folder / f"{name}{suffix}.jsonl", (record.to_json() for record in clean)
                )
                counts[f"{name}{suffix}"] = len(clean)
                if len(clean) < len(part):
                    counts[f"{name}{suffix}_with_tags"] = len(part) - len(clean)
    return counts


def some(records: list[T], config: Config, name: str) -> list[T]:
    """`most` of the records, drawn without changing their order; all if there are no more."""
    if not 0 < config.most < len(records):
        return records
    rng = random.Random(steps.derive(config.seed, "most", name))
    return [records[i] for i in sorted(rng.sample(range(len(records)), config.most))]


def judgements(data: Path, paths: Sequence[Path], ledger: Ledger) -> list[Label | Preference]:
    """All comparisons and labels of the files; InputError on a file that holds anything else."""
    found = []
    for path in paths:
        for record in formats.read_any(data / path, ledger):
            if not isinstance(record, Label | Preference):
                kind = type(record).__name__.lower()
                raise InputError(f"{data / path}: holds a {kind}, expected a preference or label")
            found.append(record)
    return found


def said(record) -> str:
    """A record's whole text; one that holds a tag of the chat format is left out and counted."""
    return json.dumps(record.to_json(), ensure_ascii=False)


def answered(dialog: Dialog) -> bool:
    """Whether the dialogue holds an answer to learn."""
    return any(message.role == "assistant" for message in dialog.messages)


def shorten_prompts(path: Path, tokenizer: Tokenizer, limit: int) -> int:
    """Leave out prompts of more than `limit` tokens (no room for an answer); returns how many."""
    prompts = read_dialogs(path)
    kept = [prompt for prompt in prompts if len(encode_prompt(prompt, tokenizer)) <= limit]
    if not kept:
        raise InputError(f"{path}: no prompt has at most prompt_tokens={limit} tokens")
    write_dialogs(path, kept)
    return len(prompts) - len(kept)


def shortened(dialog: Dialog, turns: int) -> Dialog:
    """The first `turns` exchanges of a finished dialogue."""
    start = 1 if dialog.system is not None else 0
    kept = dialog.messages[: start + 2 * turns]
    kept = kept[:-1] if kept[-1].role == "user" else kept
    return Dialog(kept, dialog.id, {"kind": "dialog", "safety": False, **dialog.tags})


def prompts_of(dialog: Dialog) -> list[Dialog]:
    """The dialogue up to its first, and up to its last, user message."""
    users = [n for n, m in enumerate(dialog.messages) if m.role == "user"]
    ends = sorted({users[0], users[-1]})
    return [Dialog(dialog.messages[: n + 1], f"{dialog.id}/{n}", dialog.tags) for n in ends]
