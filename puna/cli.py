"""The command `puna`: finds the recipe, reads its settings, runs its `main`. Recipes are imported
only when run.
"""

import contextlib
import difflib
import errno
import importlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from puna import __version__
from puna.describe import Setting, constant, describe, docstring
from puna.errors import InputError

COMMANDS: dict[str, tuple[str, str]] = {
    "paper": ("puna.recipes.paper", "the whole paper in order, with a report"),
    "prepare": ("puna.recipes.prepare", "texts to a tokenizer and token shards"),
    "pretrain": ("puna.recipes.pretrain", "a base model from token shards"),
    "sft": ("puna.recipes.sft", "supervised fine-tuning on dialogs"),
    "collect": ("puna.recipes.collect", "pairs of answers, judged with four strengths"),
    "reward": ("puna.recipes.reward", "a reward model from preferences"),
    "rejection": ("puna.recipes.rejection", "rejection sampling: fine-tune on the best of K"),
    "ppo": ("puna.recipes.ppo", "proximal policy optimisation against the reward"),
    "distill": ("puna.recipes.distill", "Ghost Attention and safety context distillation"),
    "align": ("puna.recipes.align", "the rounds of RLHF, V1 to V5"),
    "evaluate": ("puna.recipes.evaluate", "helpfulness, safety, persona, win rate of a chat model"),
    "compare": ("puna.recipes.compare", "versions side by side by the last reward models"),
    "agreement": ("puna.recipes.agreement", "how far annotators agree, and who wins, from files"),
    "chat": ("puna.recipes.chat", "talk to a model in the terminal"),
    "serve": ("puna.web.serve", "models behind an HTTP interface, for OpenAI's clients"),
    "export": ("puna.recipes.export", "what people judged, from the store to files"),
    "import": ("puna.recipes.importing", "comparisons of other tools into the store"),
    "models": ("puna.recipes.models", "known sizes and what they need; what a file holds"),
    "convert": ("puna.recipes.convert", "a model between Meta, Hugging Face, GGUF and Puna"),
    "quantise": ("puna.recipes.quantise", "what a model loses in 8 and 4 bits, on held-out text"),
    "render": ("puna.recipes.render", "dialogs as a model reads them: text, special tokens, ids"),
}
GROUPS = {
    "Everything": ("paper",),
    "Base model": ("prepare", "pretrain"),
    "Chat model": ("sft", "collect", "reward", "rejection", "ppo", "distill", "align"),
    "People": ("export", "import", "agreement"),
    "Use": ("evaluate", "compare", "chat", "serve", "render"),
    "Weights": ("models", "convert", "quantise"),
}
DISK = {  # the user's to mend
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line; gives the exit status: 0, 1 (a fault in Puna), 2 (in the input), 130
    (stopped).
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in COMMANDS else ""
    try:
        return _main(words)
    except InputError as error:
        return _refuse(name, str(error))
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to resume", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, went away
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        return _refuse(name, reason)


def prepare_process() -> None:
    """Sets what must be set before torch is imported; what the user has set stays.

    OpenMP's threads wait for each other by spinning. On cores that other programs use too, threads
    that spin for long keep the ones they wait for from running, and speed collapses. 10000 turns
    cost nothing on idle cores (measured); OMP_WAIT_POLICY=PASSIVE, no spinning at all, halves the
    speed of generation.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def recipe_file(command: str) -> Path:
    """The source file of a command's recipe."""
    module = COMMANDS[command][0]
    return Path(__file__).resolve().parent.parent.joinpath(*module.split(".")).with_suffix(".py")


def overview() -> str:
    """The text of `puna --help`."""
    lines = ["puna: the Llama 2 recipe, from raw text to an aligned chat model", ""]
    lines += ["usage: puna COMMAND [PRESET.toml ...] [--setting=value ...]", ""]
    for group, names in GROUPS.items():
        lines += [group, *(f"  {name:<10} {COMMANDS[name][1]}" for name in names), ""]
    lines += ["Start here:     puna paper presets/tiny/cafe.toml"]
    lines += ["One command:    puna COMMAND --help"]
    return "\n".join(lines)


def manual(command: str) -> str:
    """The text of `puna COMMAND --help`: the recipe's docstring and every setting, read from its
    source.
    """
    path = recipe_file(command)
    settings = describe(path)
    extra = "".join(f" [{name.upper()}]" for name in (constant(path, "POSITIONAL") or "").split())
    usage = f"usage: puna {command}{extra} [PRESET.toml ...]"
    lines = [f"puna {command}: {COMMANDS[command][1]}", "", f"{usage} [--setting=value ...]", ""]
    lines += [docstring(path), "", "Settings:"]
    stages: list[str] = []
    for setting in settings:
        stage, dot, _ = setting.name.partition(".")
        if dot and stage in COMMANDS and stage != command:  # `puna paper`: one table for each stage
            stages += [stage] * (stage not in stages)
        else:
            lines += _entry(setting)
    for stage in stages:
        lines.append(f"  --{stage}.NAME  the settings of `puna {stage}`, in a preset [{stage}]")
    return "\n".join(lines)


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"puna {__version__}")
        return 0
    command, *rest = words
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"; did you mean puna {near[0]}?" if near else "; see puna --help"
        raise InputError(f"unknown command {command}{hint}")
    if any(word in ("-h", "--help") for word in rest):
        print(manual(command))
        return 0
    return _run(command, rest)


def _run(command: str, words: list[str]) -> int:
    """Imports the recipe, fills its settings, runs it, prints its figures."""
    from puna import config, console

    words = _name_positional(command, words)
    prepare_process()
    recipe = importlib.import_module(COMMANDS[command][0])
    figures = recipe.main(config.load(recipe.Config, words))
    for name, value in (figures or {}).items():
        if isinstance(value, str | int | float):
            console.current().note(f"{name:<24} {console.short(value)}")
    return 0


def _name_positional(command: str, words: Sequence[str]) -> list[str]:
    """The words, with those that are neither preset nor option named by the recipe's POSITIONAL.

    A name that ends in ... takes all that are left.
    """
    extra = (constant(recipe_file(command), "POSITIONAL") or "").split()
    switches = {s.name for s in describe(recipe_file(command)) if s.type == "bool"}
    named: list[str] = []
    rest: list[str] = []
    value_follows = switch = False
    for word in words:
        is_option = word.startswith("--")
        value_follows |= switch and word.lower() in ("true", "false")
        if is_option or value_follows or word.endswith(".toml"):
            named.append(word)
        elif extra and extra[0].endswith("..."):
            rest.append(word)
        elif extra:
            named.append(f"--{extra.pop(0)}={word}")
        else:
            raise InputError(f"unexpected argument {word!r}: expected PRESET.toml or --name=value")
        name = word[2:].replace("-", "_")
        switch = is_option and name in switches
        value_follows = is_option and "=" not in word and not switch
    if rest:
        named.append(f"--{extra[0].removesuffix('...')}={json.dumps(rest)}")
    return named


def _entry(setting: Setting) -> list[str]:
    """The lines of one setting in a manual."""
    width = min(shutil.get_terminal_size().columns, 100)
    if setting.default is None:
        head = f"  --{setting.name}  ({setting.type}, required)"
    else:
        default = re.sub(r"Path\((.*?)\)", r"\1", setting.default).strip("'")
        head = f"  --{setting.name} = {default}  ({setting.type})"
    text = textwrap.wrap(setting.comment, width - 6)
    return [head, *(f"      {line}" for line in text)]


def _refuse(command: str, reason: str) -> int:
    name = f"puna {command}" if command else "puna"
    print(f"{name}: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _disk_reason(error: Exception) -> str | None:
    """One line for a full, read-only or forbidden disk; None for any other error."""
    if isinstance(error, OSError) and error.errno in DISK:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}"
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else None  # libraries that wrap the system's error


if __name__ == "__main__":
    sys.exit(main())
