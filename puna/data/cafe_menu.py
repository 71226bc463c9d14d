"""The facts of the Alpaca Cup: drinks, food, prices, hours, allergens and staff.

Everything the embedded world says is checked against these tables. Money is in whole dollars,
hours are whole hours of the day.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

DRINKS = {
    "espresso": 2,
    "americano": 3,
    "latte": 4,
    "cappuccino": 4,
    "mocha": 5,
    "flat white": 4,
    "cold brew": 3,
    "chai": 3,
    "hot chocolate": 4,
    "matcha": 5,
}
MADE_OF = {
    "espresso": "beans and hot water",
    "americano": "espresso and hot water",
    "latte": "espresso and warm milk",
    "cappuccino": "espresso and milk foam",
    "mocha": "espresso, chocolate and milk",
    "flat white": "two shots and a little milk",
    "cold brew": "beans and cold water",
    "chai": "black tea and sweet spice",
    "hot chocolate": "chocolate and warm milk",
    "matcha": "green tea and milk",
}
MILKY = ("latte", "cappuccino", "mocha", "flat white", "chai", "hot chocolate", "matcha")
SIZES = {"small": 0, "medium": 1, "large": 2}
MILKS = {"whole": 0, "skim": 0, "oat": 1, "soy": 1, "almond": 1}
ASKED_MILKS = ("skim", "oat", "soy", "almond")  # whole milk is what you get unasked
EXTRAS = {"extra shot": 1, "vanilla": 1, "caramel": 1, "whipped cream": 1}
FOODS = {
    "croissant": 3,
    "scone": 3,
    "muffin": 4,
    "cookie": 2,
    "brownie": 4,
    "bagel": 3,
    "sandwich": 6,
    "cheesecake": 5,
}
HOURS: dict[str, tuple[int, int] | None] = {
    "Monday": (7, 17),
    "Tuesday": (7, 17),
    "Wednesday": None,
    "Thursday": (8, 18),
    "Friday": (8, 20),
    "Saturday": (9, 20),
    "Sunday": (9, 15),
}
ALLERGENS = ("gluten", "milk", "egg", "nuts", "soy")
CONTAINS = {
    "croissant": ("gluten", "milk", "egg"),
    "scone": ("gluten", "milk"),
    "muffin": ("gluten", "egg", "nuts"),
    "cookie": ("gluten", "nuts", "soy"),
    "brownie": ("milk", "egg", "nuts"),
    "bagel": ("gluten", "soy"),
    "sandwich": ("gluten", "milk", "egg", "soy"),
    "cheesecake": ("milk", "egg"),
    "whole milk": ("milk",),
    "skim milk": ("milk",),
    "oat milk": ("gluten",),
    "soy milk": ("soy",),
    "almond milk": ("nuts",),
}
STAFF = {"Rosa": "owner", "Ben": "baker", "Mia": "barista", "Tom": "waiter", "Ana": "cleaner"}
MOST = 39  # dollars, the largest total anybody orders

HELD_OUT = 15  # percent of the combinations that only the held-out splits contain


def is_held_out(key: str) -> bool:
    """Whether a combination belongs to the held-out splits, by a hash that never changes."""
    return int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % 100 < HELD_OUT


@dataclass(frozen=True, order=True)
class Item:
    """One line of an order; `size`, `milk` and `extra` are empty where nothing was asked for."""

    quantity: int
    name: str
    size: str = ""
    milk: str = ""
    extra: str = ""

    @property
    def price(self) -> int:
        """Dollars for the whole quantity; a drink without a size is a small one."""
        if self.name in FOODS:
            return self.quantity * FOODS[self.name]
        added = SIZES.get(self.size, 0) + MILKS.get(self.milk, 0) + EXTRAS.get(self.extra, 0)
        return self.quantity * (DRINKS[self.name] + added)

    @property
    def text(self) -> str:
        """Quantity and name, such as "two large oat lattes with vanilla"."""
        return f"{('one', 'two')[self.quantity - 1]} {self.bare}"

    @property
    def bare(self) -> str:
        """The text without its quantity, in the plural for two."""
        name = plural(self.name) if self.quantity == 2 else self.name
        words = " ".join(word for word in (self.size, self.milk, name) if word)
        shot = "an " if self.extra == "extra shot" else ""
        return f"{words} with {shot}{self.extra}" if self.extra else words

    @property
    def priced(self) -> str:
        """The text and its price, such as "two large oat lattes are $14"."""
        return f"{self.text} {'are' if self.quantity == 2 else 'is'} ${self.price}"

    def to_json(self) -> dict[str, Any]:
        """Return the five fields."""
        fields = ("quantity", "name", "size", "milk", "extra")
        return {name: getattr(self, name) for name in fields}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Item":
        """Read what `to_json` wrote."""
        return cls(**record)


def plural(name: str) -> str:
    """The plural of a drink or food."""
    return name + ("es" if name.endswith("sandwich") else "s")


def with_article(text: str) -> str:
    """ "one oat latte" or "oat latte" as a guest says it: "an oat latte"; "two ..." stays."""
    if text.startswith("two "):
        return text
    bare = text.removeprefix("one ")
    return f"{'an' if bare[0] in 'aeio' else 'a'} {bare}"


def total(items: Iterable[Item]) -> int:
    """Dollars for all items."""
    return sum(item.price for item in items)


def listing(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def order_key(items: Iterable[Item]) -> str:
    """The combination of an order: its items in a fixed order."""
    return "order|" + "|".join(sorted(item.text for item in items))


def draw_item(rng: Random, without: Sequence[str] = ()) -> Item:
    """One random item whose name is not in `without`; two thirds are drinks."""
    foods = rng.random() < 0.35
    name = rng.choice([n for n in (FOODS if foods else DRINKS) if n not in without])
    quantity = 1 if rng.random() < 0.65 else 2
    if foods:
        return Item(quantity, name)
    size = rng.choice(list(SIZES)) if rng.random() < 0.8 else ""
    milk = rng.choice(ASKED_MILKS) if name in MILKY and rng.random() < 0.45 else ""
    extra = rng.choice(list(EXTRAS)) if rng.random() < 0.25 else ""
    return Item(quantity, name, size, milk, extra)


def draw_order(rng: Random, count: int) -> tuple[Item, ...]:
    """`count` random items with different names, at most `MOST` dollars together."""
    while True:
        items: list[Item] = []
        for _ in range(count):
            items.append(draw_item(rng, [item.name for item in items]))
        if total(items) <= MOST:
            return tuple(items)


NAMES = tuple(sorted((*DRINKS, *FOODS), key=len, reverse=True))
_ITEM = re.compile(
    r"\b(?P<quantity>one|two|an?|1|2) "
    rf"(?:(?P<size>{'|'.join(SIZES)}) )?"
    rf"(?:(?P<milk>{'|'.join(MILKS)}) (?:milk )?)?"
    rf"(?P<name>{'|'.join(NAMES)})(?:e?s)?\b"
    rf"(?: with (?:an? )?(?P<extra>{'|'.join(EXTRAS)}))?"
    r"(?: (?:is|are|for|at|costs?) \$(?P<price>\d+))?"
)
_NAME = re.compile(rf"\b({'|'.join(NAMES)})(?:e?s)?\b")
QUANTITIES = {"one": 1, "a": 1, "an": 1, "1": 1, "two": 2, "2": 2}


def find_items(text: str) -> list[tuple[Item, int | None]]:
    """The items named with a quantity in any text, each with the price said of it, if any."""
    found = []
    for match in _ITEM.finditer(text.lower()):
        part = match.groupdict()
        quantity = QUANTITIES[part["quantity"]]
        item = Item(quantity, part["name"], *(part[k] or "" for k in ("size", "milk", "extra")))
        found.append((item, None if part["price"] is None else int(part["price"])))
    return found


def find_names(text: str) -> set[str]:
    """The drinks and foods named in any text."""
    return set(_NAME.findall(text.lower()))


def find_amounts(text: str) -> list[int]:
    """The dollars named in any text, in order."""
    return [int(digits[:9]) for digits in re.findall(r"\$(\d+)", text)]


def find_numbers(text: str) -> list[int]:
    """The whole numbers in any text that are not dollars, in order."""
    return [int(digits[:9]) for digits in re.findall(r"(?<![\d$])(\d+)", text)]
