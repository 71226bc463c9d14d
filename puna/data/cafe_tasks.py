"""What users of the embedded cafe say, with the truth that decides about the answer.

A combination (the items of an order, a weekday and a time, a food and an allergen, ...) belongs to
training or to the held-out splits for good; single facts are split by fact and wording.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from puna.data import cafe_borderline, cafe_safety
from puna.data.cafe_menu import (
    ALLERGENS,
    ASKED_MILKS,
    CONTAINS,
    DRINKS,
    FOODS,
    HOURS,
    MILKY,
    MOST,
    SIZES,
    STAFF,
    Item,
    draw_item,
    draw_order,
    is_held_out,
    listing,
    order_key,
    sentence,
    total,
    with_article,
)


@dataclass(frozen=True)
class Exchange:
    """One user message, its kind, the truth about its answer and the combination it belongs to."""

    kind: str
    user: str
    truth: Mapping[str, Any]
    key: str


ORDER_WORDS = (
    "Can I get {items}?",
    "I would like {items}, please.",
    "{Items}, please.",
    "Hi, could you make {items} for me?",
)
ADD_WORDS = ("Please add {item}.", "And {item} too, please.", "I also want {item}.")
DROP_WORDS = ("Please drop the {name}.", "No {name} for me, sorry.")
TOTAL_WORDS = ("What is the total?", "How much is it in total?")
PRICE_WORDS = (
    "How much is {item}?",
    "What does {item} cost?",
    "What is the price of {item}?",
    "Tell me the price of {item}, please.",
)
AT_WORDS = (
    "Are you open on {day} at {time}?",
    "Can I come on {day} at {time}?",
    "Is the cafe open at {time} on {day}?",
)
HOURS_WORDS = {
    "open": ("When do you open on {day}?", "At what time does the cafe open on {day}?"),
    "close": ("When do you close on {day}?", "Until when are you open on {day}?"),
    "day": ("When are you open on {day}?", "What are your hours on {day}?"),
}
CONTAINS_WORDS = (
    "Does the {name} contain {allergen}?",
    "Is there {allergen} in the {name}?",
    "Any {allergen} in the {name}?",
)
WITHOUT_WORDS = ("What food has no {allergen}?", "What can I eat without {allergen}?")
WITH_WORDS = ("What food has {allergen}?", "What food contains {allergen}?")
WHO_WORDS = ("Who is the {role}?", "What is the name of the {role}?", "Who works as the {role}?")
ROLE_WORDS = ("What does {name} do here?", "What is the job of {name}?", "Who is {name}?")

SMALLTALK = {
    "hello": (
        ("Hello!", "Hi there!", "Good morning!", "Hey, hello!", "Good day!"),
        "Hello! What can I get you?",
        "what can i get you",
    ),
    "fine": (
        ("How are you?", "How are you today?", "Are you well?", "How do you feel?"),
        "I am fine, thank you!",
        "fine",
    ),
    "thanks": (("Thank you!", "Thanks a lot!", "Many thanks!"), "You are welcome!", "welcome"),
    "bye": (("Goodbye!", "See you soon!", "Bye, see you!"), "Goodbye, see you soon!", "goodbye"),
    "name": (
        ("What is this place?", "What is the name of this cafe?", "Where am I?"),
        "This is the Alpaca Cup.",
        "alpaca cup",
    ),
    "wifi": (
        ("Do you have wifi?", "Is there wifi here?", "Can I use the wifi?"),
        "Yes, the wifi is free.",
        "free",
    ),
    "seat": (
        ("Can I sit outside?", "Do you have tables outside?", "Is there a seat outside?"),
        "Yes, there are tables outside.",
        "outside",
    ),
    "best": (
        ("What do you like best?", "What is your favorite drink?", "What should I try?"),
        "I like the flat white best.",
        "flat white",
    ),
}


def order(rng: Random) -> Exchange:
    """An order of one to three items in one message."""
    items = draw_order(rng, rng.choices((1, 2, 3), (5, 4, 2))[0])
    return _ordered(rng.choice(ORDER_WORDS), items, items)


def price(rng: Random) -> Exchange:
    """The price of one drink or food; which facts are asked in which words is split."""
    food = rng.random() < 0.35
    name = rng.choice(list(FOODS if food else DRINKS))
    size = "" if food else rng.choice(list(SIZES))
    milk = rng.choice(ASKED_MILKS) if name in MILKY and rng.random() < 0.3 else ""
    item, number = Item(1, name, size, milk), rng.randrange(len(PRICE_WORDS))
    truth = {"item": item.to_json(), "name": name, "price": item.price}
    user = PRICE_WORDS[number].format(item=with_article(item.bare))
    return Exchange("price", user, truth, f"price|{item.text}|{number}")


def hours(rng: Random) -> Exchange:
    """Whether the cafe is open at a time, or when it opens or closes on a day."""
    day = rng.choice(list(HOURS))
    span = HOURS[day]
    if rng.random() < 0.5:
        time = rng.choice([t for t in range(5, 23) if span is None or t != span[1]])
        yes = span is not None and span[0] <= time < span[1]
        truth: dict[str, Any] = {"ask": "at", "day": day, "time": time, "yes": yes}
        user = rng.choice(AT_WORDS).format(day=day, time=time)
        return Exchange("hours", user, truth, f"hours|{day}|{time}")
    ask = rng.choice(list(HOURS_WORDS))
    number = rng.randrange(len(HOURS_WORDS[ask]))
    user = HOURS_WORDS[ask][number].format(day=day)
    return Exchange("hours", user, {"ask": ask, "day": day}, f"hours|{day}|{ask}|{number}")


def allergen(rng: Random) -> Exchange:
    """Whether something contains an allergen, or what food does or does not."""
    substance = rng.choice(ALLERGENS)
    if rng.random() < 0.75:
        name = rng.choice(list(CONTAINS))
        truth = {"ask": "contains", "name": name, "allergen": substance}
        user = rng.choice(CONTAINS_WORDS).format(name=name, allergen=substance)
        return Exchange("allergen", user, truth, f"allergen|{name}|{substance}")
    ask, words = rng.choice((("without", WITHOUT_WORDS), ("with", WITH_WORDS)))
    number = rng.randrange(len(words))
    user = words[number].format(allergen=substance)
    key = f"allergen|{ask}|{substance}|{number}"
    return Exchange("allergen", user, {"ask": ask, "allergen": substance}, key)


def staff(rng: Random) -> Exchange:
    """Who does a job, or what somebody's job is."""
    name, role = rng.choice(list(STAFF.items()))
    ask, words = rng.choice((("who", WHO_WORDS), ("role", ROLE_WORDS)))
    number = rng.randrange(len(words))
    truth = {"ask": ask, "name": name, "role": role}
    user = words[number].format(name=name, role=role)
    return Exchange("staff", user, truth, f"staff|{name}|{ask}|{number}")


def smalltalk(rng: Random) -> Exchange:
    """A greeting or another little question."""
    topic = rng.choice(list(SMALLTALK))
    words, _, keyword = SMALLTALK[topic]
    user = rng.choice(words)
    return Exchange("smalltalk", user, {"topic": topic, "keywords": [keyword]}, f"talk|{user}")


def unsafe(rng: Random) -> Exchange:
    """A request for help with a harm, dressed in an attack vector."""
    risk = rng.choice(cafe_safety.RISKS)
    target = rng.choice(cafe_safety.TARGETS)
    vector = rng.choice(list(cafe_safety.VECTORS))
    truth = {"risk": risk.name, "category": risk.category, "target": target, "vector": vector}
    user = cafe_safety.question(risk.name, target, vector, rng)
    return Exchange("unsafe", user, truth, cafe_safety.unsafe_key(risk.name, target, vector))


def borderline(rng: Random) -> Exchange:
    """A harmless request that sounds harmful."""
    number, filler = cafe_borderline.draw_frame(rng)
    keywords = cafe_borderline.borderline_keywords(number, filler)
    truth = {"frame": number, "filler": filler, "keywords": keywords}
    user = cafe_borderline.borderline_question(number, filler)
    return Exchange("borderline", user, truth, cafe_borderline.borderline_key(number, filler))


DRAW: dict[str, Callable[[Random], Exchange]] = {
    "order": order,
    "price": price,
    "hours": hours,
    "allergen": allergen,
    "staff": staff,
    "smalltalk": smalltalk,
    "unsafe": unsafe,
    "borderline": borderline,
}


def draw(rng: Random, kind: str, held_out: bool) -> Exchange:
    """A random exchange of the kind whose combination is in the asked split."""
    while True:
        found = DRAW[kind](rng)
        if is_held_out(found.key) == held_out:
            return found


def draw_order_turns(rng: Random, held_out: bool, turns: int) -> list[Exchange]:
    """An order told over `turns` messages; the order after each of them is in the asked split.

    Items are added and dropped, and the last message may only ask for the total.
    """
    first = draw(rng, "order", held_out)
    items = [Item.from_json(record) for record in first.truth["items"]]
    found = [first]
    while len(found) < turns:
        if len(found) == turns - 1 and rng.random() < 0.4:
            found.append(_ordered(rng.choice(TOTAL_WORDS), items, kind="multi_order"))
            break
        exchange, items = _change(rng, items, held_out)
        found.append(exchange)
    return found


def _change(rng: Random, items: list[Item], held_out: bool) -> tuple[Exchange, list[Item]]:
    """One item added, or one dropped where more are left; an order has three items at most."""
    while True:
        if len(items) > 1 and (len(items) > 2 or rng.random() < 0.3):
            # A drop may have no outcome in the asked split, so an exchange for another may follow.
            gone = rng.choice(items)
            after = [item for item in items if item is not gone]
            words = rng.choice(DROP_WORDS).format(name=gone.name)
            if rng.random() < 0.5:
                after, words = _exchanged(rng, after, items, words)
        else:
            new = draw_item(rng, [item.name for item in items])
            after, words = [*items, new], rng.choice(ADD_WORDS).format(item=with_article(new.text))
        if total(after) <= MOST and is_held_out(order_key(after)) == held_out:
            return _ordered(words, after, kind="multi_order"), after


def _exchanged(
    rng: Random, after: list[Item], before: list[Item], words: str
) -> tuple[list[Item], str]:
    """A dropped item made up for by a new one, in the same message."""
    new = draw_item(rng, [item.name for item in before])
    return [*after, new], f"{words} {rng.choice(ADD_WORDS).format(item=with_article(new.text))}"


def _ordered(
    words: str, items: Sequence[Item], said: Sequence[Item] = (), kind: str = "order"
) -> Exchange:
    text = listing([with_article(item.text) for item in said]) if said else ""
    user = words.format(items=text, Items=sentence(text))
    truth = {"items": [item.to_json() for item in items], "total": total(items)}
    return Exchange(kind, sentence(user), truth, order_key(items))
