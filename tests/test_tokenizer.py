"""The tokenizer against Meta's file, against sentencepiece, and by its properties."""

import pytest
import sentencepiece
from conftest import SENTENCES
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import InputError
from puna.text.template import TAGS
from puna.text.tokenizer import StreamDecoder, open_tokenizer, train_tokenizer

# Any text that UTF-8 holds but for U+2581, which SentencePiece keeps for the space.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"))
SPECIAL = st.lists(
    st.sampled_from(["<s>", "</s>", "<unk>", "<0x00>", "<0x02>", " ", "\u2581", "\0", "🙂", *TAGS])
).map("".join)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello", [22172]),
        (" hello", [29871, 22172]),
        ("2023", [29871, 29906, 29900, 29906, 29941]),
        ("[INST]", [518, 25580, 29962]),
        ("[/INST]", [518, 29914, 25580, 29962]),
        ("<<SYS>>\n", [3532, 14816, 29903, 6778, 13]),
        ("\n<</SYS>>\n\n", [29871, 13, 29966, 829, 14816, 29903, 6778, 13, 13]),
    ],
)
def test_meta_tokenizer_gives_the_golden_ids(llama, text, ids):
    assert llama.encode(text) == ids


@pytest.mark.shared
def test_meta_tokenizer_has_the_released_size_and_hash(llama):
    assert llama.vocab_size == 32_000
    assert llama.sha256 == "9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347"


@pytest.mark.shared
def test_a_four_byte_character_outside_the_vocabulary_becomes_its_bytes(llama):
    assert llama.encode("🦙") == [29871, *(3 + byte for byte in "🦙".encode())]


@pytest.mark.shared
@given(TEXT)
def test_meta_tokenizer_gives_every_text_back(llama, text):
    assert llama.decode(llama.encode(text)) == text


def test_bos_and_eos_stand_around_the_ids(tokenizer):
    ids = tokenizer.encode("tea")
    assert tokenizer.encode("tea", bos=True, eos=True) == [1, *ids, 2]


@given(TEXT | SPECIAL)
def test_no_text_gives_a_control_id(tokenizer, text):
    assert all(id >= 3 for id in tokenizer.encode(text))
    assert all(id >= 3 for id in tokenizer.encode_continuation(text))


@given(TEXT)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(TEXT, max_size=4))
def test_a_batch_is_encoded_as_its_texts(tokenizer, texts):
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@given(TEXT, TEXT)
def test_a_continuation_decodes_to_the_joined_text(tokenizer, first, second):
    ids = tokenizer.encode("a" + first) + tokenizer.encode_continuation(second)
    assert tokenizer.decode(ids) == "a" + first + second


@given(TEXT, TEXT)
def test_covering_counts_the_ids_that_decode_to_no_more_than_the_prefix(tokenizer, first, second):
    text = "a" + first
    ids = tokenizer.encode(text + second)
    count = tokenizer.covering(ids, text)
    spelled = len(b"".join(raw(tokenizer, id) for id in ids[:count]))
    beyond = spelled + (len(raw(tokenizer, ids[count])) if count < len(ids) else 1)
    assert spelled <= len((" " + text).encode()) < beyond


def raw(tokenizer, token):
    """The UTF-8 bytes that an id stands for, straight from the model file."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer.path))
    piece = model.id_to_piece(token)
    if model.is_byte(token):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def test_digits_are_single_pieces_and_newlines_bytes(tokenizer):
    pieces = [tokenizer.piece(id) for id in tokenizer.encode("12\n")]
    assert pieces[-3:] == ["1", "2", 10]


def test_a_symbol_is_one_id(tiny_tokenizer):
    for tag in TAGS:
        assert [tiny_tokenizer.piece(id) for id in tiny_tokenizer.encode(tag)] == [" ", tag]


def test_the_same_texts_train_the_same_file(tmp_path, tiny_tokenizer):
    again = train_tokenizer(SENTENCES * 4, tmp_path / "new" / "t.model", 384, TAGS)
    assert again.sha256 == tiny_tokenizer.sha256


def test_a_line_longer_than_the_trainer_reads_is_not_left_out(tmp_path):
    trained = train_tokenizer([" ".join(["zebra"] * 5000)], tmp_path / "t.model", 270)
    assert trained.piece(trained.encode("zebra")[-1]) == " zebra"


@pytest.mark.parametrize(
    ("size", "message"), [(50_000, "Vocabulary size too high"), (20, "smaller than required_chars")]
)
def test_a_vocabulary_size_that_does_not_fit_is_refused(tmp_path, size, message):
    with pytest.raises(InputError, match=rf"t.model: vocab_size {size}: .*{message}"):
        train_tokenizer(SENTENCES, tmp_path / "t.model", size)
    assert list(tmp_path.iterdir()) == []


def test_training_on_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="no text to train"):
        train_tokenizer(["", "\n"], tmp_path / "t.model", 300)


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("\ud83d")
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode_batch(["a", "\ud83d"])


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"t.model: cannot be read: No such file"):
        open_tokenizer(tmp_path / "t.model")


def test_a_shortened_model_is_refused_wherever_it_is_cut(tmp_path, tiny_tokenizer):
    whole, path = tiny_tokenizer.path.read_bytes(), tmp_path / "t.model"
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"t\.model: "):
            open_tokenizer(path)


def test_a_model_with_other_settings_is_refused(tmp_path):
    prefix = tmp_path / "unigram"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(prefix), vocab_size=60, minloglevel=2
    )
    with pytest.raises(InputError, match="does not give text back unchanged"):
        open_tokenizer(f"{prefix}.model")


def test_a_model_that_is_not_byte_pair_encoding_is_refused(tmp_path, tiny_tokenizer):
    unigram = tiny_tokenizer.content + b"\x12\x02\x18\x01"  # training: its kind, Unigram
    (tmp_path / "t.model").write_bytes(unigram)
    with pytest.raises(InputError, match=r"t\.model: is not byte-pair encoding"):
        open_tokenizer(tmp_path / "t.model")


def stream(tokenizer, ids):
    """All that a stream decoder gives out for ids, the end included."""
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(id) for id in ids), decoder.flush()]


@given(st.lists(st.integers(0, 383), max_size=12) | st.lists(st.integers(7, 262), max_size=12))
@settings(max_examples=300)
def test_streamed_pieces_join_to_the_decoded_text_for_any_ids(tokenizer, ids):
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@given(TEXT.filter(lambda text: "\ufffd" not in text))
def test_a_stream_never_shows_half_a_character(tokenizer, text):
    pieces = stream(tokenizer, tokenizer.encode(text))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stream_gives_a_character_out_with_its_last_byte(tiny_tokenizer):
    ids = tiny_tokenizer.encode("🙂!")
    assert stream(tiny_tokenizer, ids) == ["", "", "", "", "🙂", "!", ""]
