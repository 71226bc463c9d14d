"""Answers in the embedded cafe: the perfect one, and what people write when asked for one.

Human answers vary and are often poor: the paper found that fine-tuning learns this variance and
that comparing is easier than writing (Llama 2, Sec. 5.1). Here the faults are of known kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from puna.data import cafe_borderline, cafe_safety
from puna.data.cafe import task_of
from puna.data.cafe_menu import (
    ALLERGENS,
    CONTAINS,
    FOODS,
    HOURS,
    STAFF,
    Item,
    draw_item,
    listing,
    sentence,
    total,
)
from puna.data.cafe_tasks import SMALLTALK
from puna.text.dialog import Dialog

Truth = Mapping[str, Any]
OPENINGS = ("Sure!", "Of course!", "With pleasure!")
CLOSINGS = ("Enjoy!", "Coming right up!", "Have fun!")
UPSELLS = (
    "Our oven is warm and the whole room smells nice.",
    "The new beans came from the hills this week.",
    "There is a lovely table by the window today.",
    "You really have to come again next week.",
)
EVASIONS = (
    "I am not sure.",
    "I am not sure, please check the board.",
    "I do not know, please ask the owner.",
    "I do not know that right now, but you can ask the owner when you see the owner.",
    "I am not sure about that, so please check the board by the door when you can.",
)
ORDERS = ("order", "multi_order")
TERSE = ("Coming up!", "Yes.", "Ready soon!", "Okay.")
VAGUE = (  # polite words in place of an answer, as long as an answer
    "Thank you, please take a seat and somebody will come to you in a moment.",
    "That sounds very nice, and I am sure that you will like it a lot.",
    "We have many good things today, and all of them are fresh and made with love.",
)


def ideal(dialog: Dialog, rng: Random) -> str:
    """A perfect answer to the dialog's last user message, one of a few wordings."""
    return perfect_answer(*task_of(dialog), rng)


def annotate_answer(dialog: Dialog, rng: Random) -> str:
    """An answer as a person writes it: good, terse, wrong or long, in known shares.

    With the safety system message, an unsafe request is always refused well.
    """
    kind, truth = task_of(dialog)
    return human_answer(kind, truth, rng, guided=dialog.system == cafe_safety.SAFETY_SYSTEM)


def perfect_answer(kind: str, truth: Truth, rng: Random) -> str:
    """The perfect answer to a task."""
    if kind in ORDERS:
        return order_answer([Item.from_json(r) for r in truth["items"]], rng.choice(OPENINGS))
    if kind == "unsafe":
        return cafe_safety.refusal(truth["risk"], rng)
    return _FACTS[kind](truth)


def order_answer(
    items: Sequence[Item], opening: str, prices: Sequence[int] = (), said: int | None = None
) -> str:
    """An order with its sum step by step; `prices` and `said` replace the right ones."""
    prices = prices or [item.price for item in items]
    lines = [
        f"{item.text} {'are' if item.quantity == 2 else 'is'} ${price}"
        for item, price in zip(items, prices, strict=True)
    ]
    last = sum(prices) if said is None else said
    if len(items) == 1:
        return f"{opening} {sentence(items[0].text)} {lines[0].split()[-2]} ${last}."
    if len(items) == 2:
        return f"{opening} {sentence(lines[0])} and {lines[1]}. That is ${last} in total."
    makes = f"{sentence(lines[0])} and {lines[1]}, that makes ${sum(prices[:2])}"
    return f"{opening} {makes}. {sentence(lines[2])}. That is ${last} in total."


def human_answer(kind: str, truth: Truth, rng: Random, guided: bool = False) -> str:
    """An answer to a task as a person writes it."""
    if kind in ORDERS:
        return _human_order([Item.from_json(r) for r in truth["items"]], rng)
    if kind == "unsafe":
        return _human_unsafe(truth, rng, guided)
    good = perfect_answer(kind, truth, rng)
    draw = rng.random()
    if kind == "borderline":
        long = cafe_safety.refusal(rng.choice(cafe_safety.RISKS).name, rng)
        wrong = rng.choice((long, *cafe_safety.CURT))
        return good if draw < 0.78 else wrong if draw < 0.88 else rng.choice(EVASIONS)
    if draw < 0.5:
        return good
    return _WRONG[kind](truth, rng) if draw < 0.58 else rng.choice(EVASIONS)


def _human_unsafe(truth: Truth, rng: Random, guided: bool) -> str:
    """Help in 64 %, a good refusal in 23 %, a curt one in 13 %, as in unfiltered public data."""
    draw = rng.random()
    if guided or draw < 0.23:
        return cafe_safety.refusal(truth["risk"], rng)
    if draw < 0.36:
        return rng.choice(cafe_safety.CURT)
    return cafe_safety.compliance(truth["risk"], truth["target"], rng)


# Shares of what people write about an order.
ORDER_FAULTS = {"none": 0.40, "terse": 0.24, "sum": 0.08, "forgotten": 0.10, "rambling": 0.18}
CHATTY = 0.5  # share of faulty answers that also ramble, so that length does not betray quality


def _human_order(items: Sequence[Item], rng: Random) -> str:
    fault = rng.choices(list(ORDER_FAULTS), list(ORDER_FAULTS.values()))[0]
    opening = rng.choice(OPENINGS)
    if fault == "terse":
        given = (f"${total(items)}.", f"That is ${total(items)} in total.")
        return rng.choice(rng.choice((TERSE, VAGUE, VAGUE, given)))
    if fault == "sum":
        text = _wrong_sum(items, opening, rng)
    elif fault == "forgotten":
        text = order_answer(_misheard(items, rng), opening)
    else:
        text = order_answer(items, opening)
    if fault == "rambling" or (fault != "none" and rng.random() < CHATTY):
        return f"{text} {rng.choice(UPSELLS)}"
    return f"{text} {rng.choice(CLOSINGS)}" if rng.random() < 0.4 else text


def _off(number: int, rng: Random) -> int:
    """A number one to three off, and at least 1."""
    return rng.choice([n for d in (1, 2, 3) for n in (number - d, number + d) if n > 0])


def _wrong_sum(items: Sequence[Item], opening: str, rng: Random) -> str:
    """The right items with a wrong total, or with one wrong price that the total follows."""
    if rng.random() < 0.5:
        return order_answer(items, opening, said=_off(total(items), rng))
    prices = [item.price for item in items]
    place = rng.randrange(len(prices))
    prices[place] = _off(prices[place], rng)
    return order_answer(items, opening, prices)


def _misheard(items: Sequence[Item], rng: Random) -> list[Item]:
    """The order with an item forgotten, without its extra, or with another item in its place."""
    place = rng.randrange(len(items))
    item = items[place]
    rest = [*items[:place], *items[place + 1 :]]
    if item.extra and rng.random() < 0.5:
        changed = Item(item.quantity, item.name, item.size, item.milk)
    elif rest and rng.random() < 0.5:
        return rest
    else:
        changed = draw_item(rng, [i.name for i in items])
    return [*items[:place], changed, *items[place + 1 :]]


def price_answer(item: Item, dollars: int) -> str:
    """ "One large latte is $6."."""
    return f"{sentence(item.text)} is ${dollars}."


def _price(truth: Truth) -> str:
    return price_answer(Item.from_json(truth["item"]), truth["price"])


def _wrong_price(truth: Truth, rng: Random) -> str:
    return price_answer(Item.from_json(truth["item"]), _off(truth["price"], rng))


def hours_answer(truth: Truth, span: tuple[int, int] | None, yes: bool | None) -> str:
    """The hours of a day, and what follows from them where a time was asked for."""
    so = "" if yes is None else ", so yes" if yes else ", so no"
    day, ask = truth["day"], truth["ask"]
    if span is None:
        return f"On {day} we are closed{so}."
    if ask in ("open", "close"):
        return f"On {day} we {ask} at {span[ask == 'close']}."
    return f"On {day} we are open from {span[0]} to {span[1]}{so}."


def _hours(truth: Truth) -> str:
    return hours_answer(truth, HOURS[truth["day"]], truth.get("yes"))


def _wrong_hours(truth: Truth, rng: Random) -> str:
    span = HOURS[truth["day"]]
    if truth["ask"] == "at" and rng.random() < 0.5:
        return hours_answer(truth, span, not truth["yes"])
    if span is None:
        return hours_answer(truth, (8, 17), truth.get("yes") is not None or None)
    shift = rng.choice((-2, -1, 1, 2))
    return hours_answer(truth, (span[0] + shift, span[1] + shift), truth.get("yes"))


def contains_text(name: str, allergens: Sequence[str]) -> str:
    """ "The scone contains gluten and milk"."""
    return f"The {name} contains {listing(allergens)}"


def food_answer(names: Sequence[str], substance: str, ask: str) -> str:
    """Foods that have an allergen, or have it not."""
    have = "has" if len(names) == 1 else "have"
    foods = listing([f"the {name}" for name in names])
    return f"{sentence(foods)} {have} {'no ' if ask == 'without' else ''}{substance}."


def _foods(substance: str, having: bool) -> list[str]:
    return [name for name in FOODS if (substance in CONTAINS[name]) == having]


def _allergen(truth: Truth) -> str:
    if truth["ask"] == "contains":
        return f"{contains_text(truth['name'], CONTAINS[truth['name']])}."
    return food_answer(
        _foods(truth["allergen"], truth["ask"] == "with"), truth["allergen"], truth["ask"]
    )


def _wrong_allergen(truth: Truth, rng: Random) -> str:
    substance = truth["allergen"]
    if truth["ask"] != "contains":
        names = _foods(substance, truth["ask"] == "without")
        few = rng.sample(names, min(len(names), rng.choice((1, 2, 3))))
        return food_answer(few, substance, truth["ask"])
    held = CONTAINS[truth["name"]]
    left = [a for a in ALLERGENS if (a in held) != (a == substance)]
    wrong = left or [rng.choice([a for a in ALLERGENS if a != substance])]
    return f"{contains_text(truth['name'], wrong)}."


def staff_answer(name: str, role: str) -> str:
    """ "Rosa is the owner."."""
    return f"{name} is the {role}."


def _staff(truth: Truth) -> str:
    return staff_answer(truth["name"], truth["role"])


def _wrong_staff(truth: Truth, rng: Random) -> str:
    name, role = rng.choice([pair for pair in STAFF.items() if pair[0] != truth["name"]])
    if truth["ask"] == "who":
        return staff_answer(name, truth["role"])
    return staff_answer(truth["name"], role)


def _smalltalk(truth: Truth) -> str:
    return SMALLTALK[truth["topic"]][1]


def _wrong_smalltalk(truth: Truth, rng: Random) -> str:
    return SMALLTALK[rng.choice([t for t in SMALLTALK if t != truth["topic"]])][1]


def _borderline(truth: Truth) -> str:
    return cafe_borderline.borderline_answer(truth["frame"], truth["filler"])


_FACTS: dict[str, Callable[[Truth], str]] = {
    "price": _price,
    "hours": _hours,
    "allergen": _allergen,
    "staff": _staff,
    "smalltalk": _smalltalk,
    "borderline": _borderline,
}
_WRONG: dict[str, Callable[[Truth, Random], str]] = {
    "price": _wrong_price,
    "hours": _wrong_hours,
    "allergen": _wrong_allergen,
    "staff": _wrong_staff,
    "smalltalk": _wrong_smalltalk,
}
