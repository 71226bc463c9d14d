"""What several test files need: the real data if it is there, and a tokenizer made for tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from puna.model import checkpoint
from puna.text.template import TAGS
from puna.text.tokenizer import Tokenizer, open_tokenizer, train_tokenizer
from tests.browser import browser, chromium
from tests.models import new_model
from tests.stores import place, postgres, store

__all__ = ["place", "postgres", "store"]

__all__ = ["browser", "chromium"]  # fixtures

# The same examples on every run, on however slow a machine; new ones are looked for by
# `pytest --hypothesis-profile=search`.
_QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
settings.register_profile(
    "fixed", deadline=None, derandomize=True, database=None, suppress_health_check=_QUIET
)
settings.register_profile(
    "search", deadline=None, max_examples=2000, database=None, suppress_health_check=_QUIET
)
settings.load_profile("fixed")

# Runs keep freed memory (puna.allocator) unless the user has set the allocator: here they must not,
# for all tests share a process and some measure how much memory something takes.
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "131072")

ROOT = Path(__file__).resolve().parent.parent

SENTENCES = (
    "Good morning, what would you like to drink?",
    "I would like a large coffee with oat milk, please.",
    "That is 3.50 for the coffee and 2.20 for the tea.",
    "Do you have something without sugar? My friend cannot eat nuts.",
    "We have green tea, black tea and water; the cake has nuts in it.",
    "No, thank you. Could I sit by the window and read for a while?",
    "Of course! The table by the window is free until 12 o'clock.",
    "I am sorry, I cannot help with that, but I can bring you the menu.",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data: $PUNA_SHARED/data, or ../shared/data beside the checkout."""
    data = Path(os.environ.get("PUNA_SHARED", ROOT.parent / "shared")) / "data"
    if not data.is_dir():
        pytest.skip(f"needs the real data: {data} is not there (set PUNA_SHARED)")
    return data


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of 384 ids, trained on a few sentences, with one id for each chat tag."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_tokenizer(SENTENCES * 4, path, vocab_size=384, symbols=TAGS)


@pytest.fixture(scope="session")
def tagless_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of 420 ids that writes the chat tags with several pieces, as Llama's does."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    turns = [f"[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{text} [/INST]" for text in SENTENCES]
    return train_tokenizer(turns * 4, path, vocab_size=420)


@pytest.fixture(scope="session")
def llama(shared: Path) -> Tokenizer:
    """Meta's own tokenizer."""
    return open_tokenizer(shared / "llama2-tokenizer" / "tokenizer.model")


@pytest.fixture(params=["tiny", "tagless"])
def tokenizer(
    request: pytest.FixtureRequest, tiny_tokenizer: Tokenizer, tagless_tokenizer: Tokenizer
) -> Tokenizer:
    """A tokenizer with one id a tag, and one that writes tags with several."""
    return tiny_tokenizer if request.param == "tiny" else tagless_tokenizer


@pytest.fixture
def base(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    """A checkpoint of a small whole model with seed 0."""
    checkpoint.save(tmp_path / "base", new_model(), tiny_tokenizer)
    return tmp_path / "base"
