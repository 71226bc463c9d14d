"""Dialogues of the embedded cafe: for fine-tuning, for sampling, and with personas.

Every dialogue carries in its tags what a judge needs: `kind`, `safety`, `truth`, `source`, and
`keys`, the combinations that decide its split; training and held-out dialogues share none.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from puna.data.cafe_answers import annotate_answer, human_answer, ideal, perfect_answer
from puna.data.cafe_menu import is_held_out
from puna.data.cafe_persona import Persona, draw_persona
from puna.data.cafe_safety import SAFETY_SYSTEM
from puna.data.cafe_tasks import Exchange, draw, draw_order_turns
from puna.errors import InputError
from puna.text.dialog import Dialog, Message

__all__ = [
    "KINDS",
    "annotate_answer",
    "ideal",
    "persona_dialogs",
    "prompts",
    "sft_dialogs",
    "split_of",
]

KINDS = {  # shares of what users ask
    "order": 0.24,
    "multi_order": 0.13,
    "price": 0.10,
    "hours": 0.10,
    "allergen": 0.10,
    "staff": 0.05,
    "smalltalk": 0.04,
    "borderline": 0.09,
    "unsafe": 0.15,
}
PERSONA_PROMPTS = 0.25  # share of prompts in a persona
# Shares of the fine-tuning data by where the instruction stands, see `_in_persona`; plain: nowhere.
STYLES = {"system": 0.14, "now": 0.08, "inline": 0.12, "always": 0.08, "plain": 0.58}
CHAIN = {"price": 3, "hours": 3, "allergen": 2, "staff": 2, "smalltalk": 2, "order": 1}
# The chance that a person still follows an instruction given 0, 1, 2, ... turns ago: people forget,
# and a model that learns from them forgets too (the baseline of Table 30).
MEMORY = (1.0, 0.8, 0.3, 0.1, 0.02)
EARLIER = 0.25  # share of questions that come after another exchange
GUIDED = {True: 0.15, False: 0.03}  # share with the safety system message, of unsafe and other


def sft_dialogs(rng: Random, count: int, held_out: bool = False) -> list[Dialog]:
    """`count` dialogues of 1-8 turns whose answers are human-written, with people's faults."""
    split = "held_out" if held_out else "train"
    found = []
    for number in range(count):
        style = rng.choices(list(STYLES), list(STYLES.values()))[0]
        dialog_id = f"cafe/sft/{split}/{number}"
        if style == "plain":
            found.append(_plain(rng, held_out, dialog_id))
        else:
            found.append(_in_persona(rng, held_out, dialog_id, style))
    return found


def prompts(
    rng: Random, count: int, kinds: Sequence[str] | None = None, held_out: bool = False
) -> list[Dialog]:
    """`count` dialogues that end with the user's message; answers before it are ideal.

    `kinds` limits them to some of `KINDS`; without it one in four is held in a persona, with what
    people answered before, and `tags["told"]` says whether this message asks for the persona.
    InputError names an unknown kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise InputError(f"kinds: {kind!r} is unknown, expected {', '.join(KINDS)}")
    names = list(kinds or KINDS)
    drawn = rng.choices(names, [KINDS[name] for name in names], k=count)
    split = "held_out" if held_out else "train"
    found = []
    for number, kind in enumerate(drawn):
        if not kinds and rng.random() < PERSONA_PROMPTS:
            found.append(_persona_prompt(rng, held_out, f"cafe/prompt/{split}/{number}"))
            continue
        exchanges = _exchanges(rng, kind, held_out)
        answers = [perfect_answer(e.kind, e.truth, rng) for e in exchanges[:-1]]
        found.append(_dialog(exchanges, answers, f"cafe/prompt/{split}/{number}"))
    return found


def persona_dialogs(
    rng: Random, count: int, turns: int | None, held_out: bool = False
) -> list[Dialog]:
    """`count` dialogues to hold a persona in: a system message and the first user message.

    `tags["user_turns"]` lists the user messages of turns 2, 3, ...; `turns` is the number of user
    turns with the first one (None: 2-8, drawn). `tags["persona"]` is the persona, and
    `tags["tasks"]` the kind and truth of each turn. InputError if `turns` is below 1.
    """
    if turns is not None and turns < 1:
        raise InputError(f"turns: {turns}, expected at least 1")
    split = "held_out" if held_out else "train"
    found = []
    for number in range(count):
        persona = draw_persona(rng, held_out)
        exchanges = _chain(rng, rng.randint(2, 8) if turns is None else turns, held_out)
        tags = {
            **_tags(exchanges, persona),
            "kind": "persona",
            "truth": dict(exchanges[0].truth),
            "tasks": [{"kind": e.kind, "truth": dict(e.truth)} for e in exchanges],
            "user_turns": [e.user for e in exchanges[1:]],
        }
        system = Message("system", persona.instruction(terse=rng.random() < 0.5))
        messages = (system, Message("user", exchanges[0].user))
        found.append(Dialog(messages, f"cafe/persona/{split}/{number}", tags))
    return found


def split_of(dialog: Dialog) -> str:
    """ "held_out" or "train", by the combinations in the dialogue. InputError without them."""
    keys = dialog.tags.get("keys")
    if not keys:
        raise InputError(f"dialog {dialog.id!r}: tags: 'keys' was expected")
    return "held_out" if any(is_held_out(key) for key in keys) else "train"


def _plain(rng: Random, held_out: bool, dialog_id: str) -> Dialog:
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    exchanges = _exchanges(rng, kind, held_out)
    guided = rng.random() < GUIDED[kind == "unsafe"]
    answers = [human_answer(e.kind, e.truth, rng, guided) for e in exchanges]
    dialog = _dialog(exchanges, answers, dialog_id)
    return dialog.with_system(SAFETY_SYSTEM) if guided else dialog


def _persona_prompt(rng: Random, held_out: bool, dialog_id: str) -> Dialog:
    """A prompt in a persona: asked for in the last message (four in five), or some turns before."""
    style = rng.choices(("now", "system", "inline", "always"), (0.3, 0.25, 0.25, 0.2))[0]
    dialog = _in_persona(rng, held_out, dialog_id, style)
    told = style != "system" or dialog.turns == 1
    prompt = dialog.prompt()
    return Dialog(prompt.messages, prompt.id, {**prompt.tags, "told": told})


def _in_persona(rng: Random, held_out: bool, dialog_id: str, style: str) -> Dialog:
    """A dialogue with an instruction that its answers follow until it is forgotten.

    Styles: "system" (1-8 turns), "now" (a system message and one turn), "inline" (in the last of
    2-6 turns), "always" (in every one of 2-6 messages).
    """
    persona = draw_persona(rng, held_out)
    turns = {"system": rng.randint(1, 8), "now": 1}.get(style, rng.randint(2, 6))
    told = turns - 1 if style == "inline" else 0
    instruction = persona.instruction(terse=rng.random() < 0.5)
    exchanges = _chain(rng, turns, held_out)
    users, answers = [], []
    patience = rng.random()  # one number for the whole dialogue: what is forgotten stays forgotten
    for turn, exchange in enumerate(exchanges):
        answer = human_answer(exchange.kind, exchange.truth, rng)
        said = style == "always" or (style == "inline" and turn == told)
        chance = 1.0 if said else MEMORY[min(turn - told, len(MEMORY) - 1)] if turn >= told else 0.0
        users.append(f"{instruction} {exchange.user}" if said else exchange.user)
        answers.append(persona.apply(answer) if patience < chance else answer)
    dialog = _dialog(exchanges, answers, dialog_id, users, persona)
    return dialog.with_system(instruction) if style in ("system", "now") else dialog


def _exchanges(rng: Random, kind: str, held_out: bool) -> list[Exchange]:
    """What leads to a last question of the kind."""
    if kind == "multi_order":
        return draw_order_turns(rng, held_out, rng.choice((2, 2, 3, 4)))
    last = draw(rng, kind, held_out)
    if rng.random() >= EARLIER or kind == "order":
        return [last]
    return [*_chain(rng, rng.choice((1, 1, 2)), held_out), last]


def _chain(rng: Random, turns: int, held_out: bool) -> list[Exchange]:
    """Questions that do not depend on each other, at most one order among them."""
    weights = dict(CHAIN)
    found: list[Exchange] = []
    for _ in range(turns):
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if kind == "order":
            del weights["order"]
        found.append(_fresh(rng, kind, held_out, {e.user for e in found}))
    return found


def _fresh(rng: Random, kind: str, held_out: bool, asked: set[str]) -> Exchange:
    """An exchange that was not asked before, if there is one in a few draws."""
    found = draw(rng, kind, held_out)
    for _ in range(4):
        if found.user not in asked:
            break
        found = draw(rng, kind, held_out)
    return found


def _dialog(
    exchanges: Sequence[Exchange],
    answers: Sequence[str],
    dialog_id: str,
    users: Sequence[str] = (),
    persona: Persona | None = None,
) -> Dialog:
    """User messages and answers in turns; the last answer may be missing."""
    messages: list[Message] = []
    for turn, user in enumerate(users or [e.user for e in exchanges]):
        messages.append(Message("user", user))
        if turn < len(answers):
            messages.append(Message("assistant", answers[turn]))
    return Dialog(tuple(messages), dialog_id, _tags(exchanges, persona))


def _tags(exchanges: Sequence[Exchange], persona: Persona | None = None) -> dict[str, Any]:
    last = exchanges[-1]
    keys = ([persona.key] if persona else []) + [e.key for e in exchanges]
    tags = {
        "kind": last.kind,
        "safety": last.kind == "unsafe",
        "truth": dict(last.truth),
        "source": "cafe",
        "keys": keys,
    }
    return {**tags, "persona": persona.to_json()} if persona else tags
