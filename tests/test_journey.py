"""The whole human loop in a real browser: invited, qualified, judging, measured, exported, learnt
from, served, compared, and judged again.

PUNA_PICTURES=docs/pages keeps a picture of every page; PUNA_JOURNEY=runs/cafe takes the models of a
finished run instead of tiny ones that were trained for seconds.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.kill_resume import MICRO, run_whole
from tests.journey import Someone, puna, served, someone

pytestmark = pytest.mark.slow

PROMPTS = (
    "What does a latte cost?",
    "When do you open on Sunday?",
    "Do you have anything without milk?",
    "Two espressos and a croissant, please.",
    "Which tea would you recommend on a cold day?",
    "Is there walnut in the banana bread?",
    "Can I pay by card?",
    "What is the smallest thing on the menu?",
    "Who made the coffee today?",
    "Do you serve breakfast after noon?",
    "How much are a tea and a scone together?",
    "What would you take with a flat white?",
)
TEST = (
    ("Do you have oat milk?", "Yes, for every drink.", "Go away.", 0),
    ("Where can I sit?", "No.", "By the window, or outside.", 1),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the paper."""
    if given := os.environ.get("PUNA_JOURNEY"):
        return Path(given).absolute()
    folder = tmp_path_factory.mktemp("paper") / "run"
    run_whole(MICRO, folder)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures go."""
    return Path(os.environ.get("PUNA_PICTURES", tmp_path / "pictures"))
