"""The corpus stages against hand-made texts, brute force, and what is known of the check sums."""

import json
import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.data.corpus import (
    CleanRules,
    Document,
    Ledger,
    clean,
    drop_exact_duplicates,
    drop_near_duplicates,
    drop_personal_sites,
    factual_density,
    factual_weights,
    fault,
    fingerprint,
    mix,
    normalise,
)
from puna.data.minhash import jaccard, near_duplicates, shingle_sets, signatures
from puna.data.personal import find_personal_data, iban, luhn
from puna.errors import InputError
from puna.recipes import prepare
from puna.text.dialog import Label
from puna.text.files import read_labels

WORDS = [f"word{index}" for index in range(300)]


def text_of(rng: random.Random, length: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length))


def documents_of(texts: list[str], source: str = "wiki", site: str = "a.org") -> list[Document]:
    return [Document(text, source, site) for text in texts]


def changed(rng: random.Random, text: str, count: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), count):
        words[place] = "replaced"
    return " ".join(words)


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[k : k + 3]) for k in range(len(words) - 2)}


# --- cleaning ---


def test_control_characters_leave_the_text():
    assert normalise("a\x00b\x1bc\x9fd\u200be\ufefff") == "abcdef"


def test_every_form_of_line_end_becomes_a_newline():
    assert normalise("a\r\nb\rc\u2028d\u2029e\x85f") == "a\nb\nc\nd\ne\nf"


def test_runs_of_blanks_become_one_space_and_runs_of_empty_lines_one():
    assert normalise("  a \t\u00a0 b  \n   \n\n\n  c ") == "a b\n\nc"


def test_composed_and_decomposed_letters_become_the_same():
    assert normalise("cafe\u0301") == normalise("caf\u00e9") == "caf\u00e9"


def test_the_joiner_of_an_emoji_stays():
    assert normalise("\U0001f469\u200d\U0001f373") == "\U0001f469\u200d\U0001f373"


@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("Too few words here.", "too short"),
        ("1 2 3 4 5 6 77777 88888 99999 ab", "few words with letters"),
        ("a b c d e f g h i j k l m n", "word length"),
        ("# of ## and ### or #### hash tags every where # #", "symbols"),
        ("one line of words\n" * 5, "repeated lines"),
        ("buy our coffee now " * 20, "repeated phrases"),
        ("very " * 2 + "good very nice very fine very old very new very big", "one word repeated"),
    ],
)
def test_a_text_without_worth_is_named_by_its_fault(text, reason):
    assert fault(normalise(text), CleanRules()) == reason


def test_a_receipt_full_of_numbers_passes():
    text = "Two large oat lattes $14. One scone $3. One mocha $4. Total $21. Paid with a $50 note."
    assert fault(text, CleanRules()) is None


# --- the ledger ---


@given(st.lists(st.text(alphabet="ab1 \n", max_size=60), max_size=30))
def test_every_stage_keeps_or_drops_each_document_it_saw(texts):
    ledger = Ledger()
    documents = list(clean(documents_of(texts), ledger, CleanRules(min_words=2)))
    assert ledger.seen["clean"] == len(texts)
    documents = drop_near_duplicates(drop_exact_duplicates(documents, ledger), ledger)
    documents = drop_personal_sites(documents, ledger, least=1)
    mixed = mix(documents, None, random.Random(0), ledger)
    assert ledger.balanced()
    assert ledger.kept["mix"] + ledger.notes["mix"]["repeated"] == len(mixed)


def test_the_ledger_names_what_was_dropped_and_why():
    ledger = Ledger()
    good = "A latte is coffee with much warm milk and a little foam on the top."
    list(clean(documents_of([good, "", "short"]), ledger))
    assert ledger.to_json()["clean"]["dropped"] == {"empty": 1, "too short": 1}


# --- duplicates ---


def test_copies_in_other_case_spacing_and_punctuation_have_one_fingerprint():
    assert fingerprint("Hello,  World!\n") == fingerprint("hello world")
    assert fingerprint("hello world") != fingerprint("hello words")


def test_the_first_of_equal_documents_stays():
    ledger = Ledger()
    kept = list(drop_exact_duplicates(documents_of(["One.", "two", "ONE", "Two!"]), ledger))
    assert [document.text for document in kept] == ["One.", "two"]
    assert ledger.dropped["exact duplicates"]["same text"] == 2


def test_jaccard_is_that_of_the_sets_of_three_words():
    rng = random.Random(1)
    texts = [text_of(rng, length) for length in (3, 40, 60, 90)]
    texts += [changed(rng, text, 2) for text in texts[1:]]
    pairs = [(a, b) for a in range(len(texts)) for b in range(a)]
    sets = [shingles(text) for text in texts]
    wanted = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs]
    assert jaccard(shingle_sets(texts), np.array(pairs)).tolist() == pytest.approx(wanted)


def test_signatures_agree_as_often_as_the_sets_overlap():
    rng = random.Random(2)
    text = text_of(rng, 400)
    texts = [text, changed(rng, text, 40)]
    a, b = (shingles(text) for text in texts)
    signature = signatures(shingle_sets(texts))
    agreement = float((signature[0] == signature[1]).mean())
    assert agreement == pytest.approx(len(a & b) / len(a | b), abs=0.15)  # 3.4 deviations of 128


@pytest.mark.parametrize(("length", "count"), [(40, 1), (40, 2), (100, 1), (100, 2), (150, 2)])
def test_a_document_with_one_or_two_words_changed_is_found(length, count):
    rng = random.Random(length + count)
    originals = [text_of(rng, length) for _ in range(200)]
    copies = [changed(rng, text, count) for text in originals]
    assert near_duplicates(originals + copies)[200:].tolist() == list(range(200))


@given(st.integers(0, 1000))
def test_near_duplicates_are_those_that_brute_force_finds(seed):
    rng = random.Random(seed)
    texts = [text_of(rng, 30)]
    while len(texts) < 20:
        texts.append(changed(rng, rng.choice(texts), rng.choice([0, 1, 2, 3, 12])))
    sets = [shingles(text) for text in texts]
    kept: list[int] = []
    for index, own in enumerate(sets):
        if all(len(own & sets[k]) / len(own | sets[k]) < 0.75 for k in kept):
            kept.append(index)
    twins = near_duplicates(texts, threshold=0.75)
    assert [index for index, twin in enumerate(twins) if twin < 0] == kept


def test_a_crowd_of_copies_leaves_one():
    twins = near_duplicates(["the same few words stand in all of them"] * 500 + ["another text"])
    assert [index for index, twin in enumerate(twins) if twin < 0] == [0, 500]


def test_texts_shorter_than_a_shingle_are_compared_whole():
    assert near_duplicates(["", "one", "two", "One!", ""]).tolist() == [-1, -1, -1, 1, 0]


def test_a_threshold_outside_zero_to_one_is_refused():
    with pytest.raises(InputError, match=r"threshold: 1\.5"):
        near_duplicates(["a", "b"], threshold=1.5)


@pytest.mark.slow
def test_twelve_thousand_documents_take_less_than_six_seconds():
    rng = random.Random(0)
    texts = [text_of(rng, 100) for _ in range(12_000)]
    start = time.process_time()
    near_duplicates(texts)
    assert time.process_time() - start < 6.0


# --- personal data ---


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("email", "ann.lee+shop@mail.example.org"),
        ("phone", "+44 20 7946 0123"),
        ("phone", "(555) 010-4477"),
        ("phone", "555-010-4477"),
        ("phone", "555-0144"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("card", "4111 1111 1111 1111"),
        ("ip", "192.168.10.254"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("address", "12 North Maple Street"),
    ],
)
def test_personal_data_is_found_at_its_place(kind, text):
    whole = f"Please write to {text}, or come by."
    assert [(hit.kind, whole[hit.start : hit.end]) for hit in find_personal_data(whole)] == [
        (kind, text)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "A large latte is $7 and two are $14.",
        "We are open from 7:30 to 17:00, in 2019-2023 from 10:30:15.",
        "The code 4111 1111 1111 1112 is no card.",
        "GB82 WEST 1234 5698 7654 33 is no account.",
        "Version 1.2.3 and 999.1.1.1 are no addresses.",
        "12 large lattes, and walk down the street.",
        "Meet me @ noon; mail@ home.",
    ],
)
def test_prices_times_and_wrong_check_sums_are_no_personal_data(text):
    assert find_personal_data(text) == []


def test_luhn_agrees_with_the_example_of_its_standard():
    assert luhn("4539 1488 0343 6467")
    assert not luhn("4539 1488 0343 6468")


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_exactly_one_last_digit_passes_luhn(digits):
    passing = [last for last in "0123456789" if luhn(digits + last)]
    assert len(passing) == (0 if set(digits) == {"0"} else 1)


def test_iban_refuses_two_digits_exchanged():
    assert iban("DE89370400440532013000")
    assert not iban("DE89370400440532013000".replace("8937", "8973"))


def test_a_site_heavy_in_personal_data_goes_as_a_whole():
    ledger = Ledger()
    heavy = documents_of(["call 555-010-4477 now"] * 5 + ["nothing here"], site="people.com")
    light = documents_of(["call 555-010-4477 now"] + ["coffee"] * 9, site="cafe.com")
    few = documents_of(["mail ann@example.org"] * 4, site="small.com")
    kept = drop_personal_sites(heavy + light + few, ledger, share=0.5, least=5)
    assert kept == light + few
    assert ledger.dropped["personal data"]["site heavy in personal data"] == 6
    assert ledger.notes["personal data"] == {"kept with personal data": 5, "sites removed": 1}


# --- mixing ---


def test_weights_repeat_a_source_by_their_whole_part_and_a_drawn_rest():
    texts = [f"fact {index}" for index in range(10)]
    documents = documents_of(texts, "wiki") + documents_of(["chat"] * 4, "blog")
    ledger = Ledger()
    mixed = mix(documents, {"wiki": 2.5, "blog": 0.5}, random.Random(0), ledger)
    counts = [sum(d.text == text for d in mixed) for text in texts]
    assert sorted(counts) == [2] * 5 + [3] * 5
    assert sum(d.source == "blog" for d in mixed) == 2
    assert ledger.dropped["mix"] == {"down-sampled": 2}


def test_the_mix_is_the_same_from_the_same_seed_and_another_from_another():
    documents = documents_of([f"fact {index}" for index in range(50)])
    one, two, three = (mix(documents, {}, random.Random(s), Ledger()) for s in (1, 1, 2))
    assert one == two != three
    assert set(one) == set(documents)


@pytest.mark.parametrize("weights", [{"wiki": -1.0}, {"wiki": float("nan")}, {"wkii": 2.0}])
def test_a_weight_that_cannot_be_meant_is_refused(weights):
    with pytest.raises(InputError, match="weights"):
        mix(documents_of(["a"]), weights, random.Random(0), Ledger())


def test_density_counts_numbers_and_names_by_hundred_words():
    text = "On Monday we sell 3 scones and Ana says I can have $2 off."  # Monday 3 Ana $2
    assert factual_density(text) == pytest.approx(100 * 4 / 14)


def test_the_most_factual_source_gets_the_highest_weight_and_none_falls_below_one():
    facts = documents_of(["A latte costs $3 and a mocha $4 on Monday."] * 2, "wiki")
    chat = documents_of(["we sat there and talked about the weather all day"] * 2, "blog")
    assert factual_weights(facts + chat) == {"wiki": 2.0, "blog": 1.0}


def test_a_corpus_that_names_judgements_leaves_out_those_to_test_on(tmp_path):
    words = "alpha beta gamma delta epsilon zeta eta theta iota kappa".split()
    labels = [
        {"prompt": f"Is {a} {b} open?", "completion": f"{a} {b} is.", "label": a != b}
        for a in words
        for b in words
    ]
    lines = "\n".join(json.dumps(label) for label in labels)
    (tmp_path / "labels.jsonl").write_text(lines, encoding="utf-8")
    talks = [{"messages": [user(f"{a}?"), answered(f"{a}!")]} for a in words * 3]
    lines = "\n".join(json.dumps(talk) for talk in talks)
    (tmp_path / "talks.jsonl").write_text(lines, encoding="utf-8")
    settings = prepare.Config(
        run=tmp_path / "run",
        world="none",
        data=tmp_path,
        corpus=(Path("labels.jsonl"),),
        dialogs=(Path("talks.jsonl"),),
        helpfulness=(Path("labels.jsonl"),),
        near_duplicate=1.0,
        held_out=0.3,
        judged_held_out=0.3,
        vocab_size=320,
    )
    prepare.main(settings)
    parts = prepare.documents(settings, Ledger())
    texts = {document.text for part in parts for document in part}
    names = ("labels_helpfulness", "labels_helpfulness_held_out")
    known, tested = ({said(x) for x in read_labels(tmp_path / f"run/{n}.jsonl")} for n in names)
    assert len(tested) >= 10 and not texts & tested
    assert len(texts & known) >= 0.8 * len(known)  # some are too alike


def said(label: Label) -> str:
    return f"User: {label.dialog.last.content}\nAssistant: {label.completion}"


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answered(text: str) -> dict:
    return {"role": "assistant", "content": text}
