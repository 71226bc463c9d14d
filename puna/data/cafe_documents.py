"""The embedded world's pretraining text: sources that differ in factual density.

As on the web there are exact and near duplicates, a site full of personal data that the corpus
stage has to remove, and harmful talk, which stays in (Llama 2, Sec. 4.1).
"""

from collections.abc import Callable, Iterator
from random import Random

from puna.data import cafe_safety
from puna.data.cafe_answers import contains_text, order_answer, perfect_answer
from puna.data.cafe_menu import (
    ALLERGENS,
    CONTAINS,
    DRINKS,
    EXTRAS,
    FOODS,
    HOURS,
    MADE_OF,
    MILKS,
    SIZES,
    STAFF,
    Item,
    draw_order,
    is_held_out,
    listing,
    order_key,
    plural,
    sentence,
    total,
    with_article,
)
from puna.data.cafe_persona import draw_persona
from puna.data.cafe_tasks import draw, draw_order_turns
from puna.data.corpus import Document

WORDS = (40, 150)  # least and most words of a document
EXACT = 0.03  # share of documents that repeat an earlier one
NEAR = 0.04  # share that repeats an earlier one with a word or two changed


def documents(rng: Random, count: int) -> Iterator[Document]:
    """`count` documents, 40-150 words each; none holds a combination of the held-out splits."""
    names, weights = list(SOURCES), [share for share, _, _ in SOURCES.values()]
    earlier: list[Document] = []
    for _ in range(count):
        drawn = rng.random()
        if earlier and drawn < EXACT:
            yield rng.choice(earlier)
        elif earlier and drawn < EXACT + NEAR:
            yield _nearly(rng.choice(earlier), rng)
        else:
            name = rng.choices(names, weights)[0]
            _, sites, write = SOURCES[name]
            document = Document(_text(rng, write), name, rng.choice(sites))
            earlier.append(document)
            yield document


def _text(rng: Random, write: Callable[[Random], Iterator[str]]) -> str:
    """Parts from an endless source until a drawn length within `WORDS` is reached."""
    wanted, parts, words = rng.randint(WORDS[0], 115), [], 0
    for part in write(rng):
        more = len(part.split())
        if words + more > WORDS[1]:
            continue
        parts.append(part)
        words += more
        if words >= wanted:
            break
    return ("\n" if "\n" in parts[0] or ": " in parts[0] else " ").join(parts)


def _nearly(document: Document, rng: Random) -> Document:
    """The document with one or two of its words replaced."""
    words = document.text.split(" ")
    for _ in range(rng.choice((1, 2))):
        words[rng.randrange(len(words))] = rng.choice(("nice", "very", "little", "good"))
    return Document(" ".join(words), document.source, document.site)


def _menu_wiki(rng: Random) -> Iterator[str]:
    """Facts, one sentence each, in a drawn order."""
    while True:
        yield rng.choice(_WIKI)(rng)


def _drink_fact(rng: Random) -> str:
    name = rng.choice(list(DRINKS))
    cost = [f"a {size} {name} is ${Item(1, name, size).price}" for size in SIZES]
    if rng.random() < 0.3:
        return f"The {name} is made of {MADE_OF[name]}."
    return f"{sentence(listing(cost))}."


def _food_fact(rng: Random) -> str:
    name = rng.choice(list(FOODS))
    two = Item(2, name)
    return f"One {name} is ${FOODS[name]} and {two.priced}."


def _milk_fact(rng: Random) -> str:
    drawn = rng.random()
    if drawn < 0.2:
        return f"{sentence(with_article(rng.choice(list(DRINKS))))} without a size is a small one."
    if drawn < 0.6:
        milk = rng.choice(list(MILKS))
        return f"{sentence(milk)} milk {'is $1 more' if MILKS[milk] else 'is free'}."
    extra = rng.choice(list(EXTRAS))
    return f"{'An extra shot' if extra == 'extra shot' else sentence(extra)} is $1 more."


def _contents_fact(rng: Random) -> str:
    name = rng.choice(list(CONTAINS))
    free = [a for a in ALLERGENS if a not in CONTAINS[name]]
    if rng.random() < 0.7:
        return f"{contains_text(name, CONTAINS[name])}."
    return f"{contains_text(name, CONTAINS[name])}, but no {listing(free)}."


def _foods_fact(rng: Random) -> str:
    substance, having = rng.choice(ALLERGENS), rng.random() < 0.5
    names = [f"the {n}" for n in FOODS if (substance in CONTAINS[n]) == having]
    have = "has" if len(names) == 1 else "have"
    return f"{sentence(listing(names))} {have} {'' if having else 'no '}{substance}."


def _hours_fact(rng: Random) -> str:
    day, span = rng.choice(list(HOURS.items()))
    if span is None:
        return f"On {day} we are closed."
    opens, closes = span
    return rng.choice(
        (
            f"On {day} we are open from {opens} to {closes}.",
            f"On {day} we open at {opens}.",
            f"On {day} we close at {closes}.",
        )
    )


def _staff_fact(rng: Random) -> str:
    name, role = rng.choice(list(STAFF.items()))
    return rng.choice((f"{name} is the {role}.", f"The {role} is {name}."))


_WIKI = (
    *(_drink_fact,) * 3,
    _food_fact,
    _food_fact,
    _milk_fact,
    *(_contents_fact,) * 3,
    _foods_fact,
    _foods_fact,
    *(_hours_fact,) * 3,
    _staff_fact,
)


def _receipts(rng: Random) -> Iterator[str]:
    """Orders with their prices and sums."""
    while True:
        items = _train_order(rng)
        if rng.random() < 0.4:
            yield order_answer(items, rng.choice(("Paid.", "Table order.", "To go.")))
        else:
            lines = " ".join(f"{sentence(item.text)} ${item.price}." for item in items)
            yield f"{lines} Total ${total(items)}."


def _train_order(rng: Random) -> tuple[Item, ...]:
    while True:
        items = draw_order(rng, rng.choices((1, 2, 3), (4, 5, 2))[0])
        if not is_held_out(order_key(items)):
            return items


def _guidebook(rng: Random) -> Iterator[str]:
    """Prose around the facts."""
    while True:
        place = rng.choice(("river", "station", "market", "museum", "park", "old bridge"))
        day = rng.choice([d for d, span in HOURS.items() if span])
        name, food = rng.choice(list(DRINKS)), rng.choice(list(FOODS))
        who, role = rng.choice(list(STAFF.items()))
        yield rng.choice(
            (
                f"The Alpaca Cup is a small cafe near the {place}.",
                f"After a walk by the {place} you can have {with_article(name)}.",
                f"The {name} is made of {MADE_OF[name]}, the best in town.",
                f"On {day} the door opens at {_span(day)[0]} and closes at {_span(day)[1]}.",
                f"The {role} is called {who}, and guests like {who} very much.",
                f"A small {name} costs ${DRINKS[name]} and a {food} costs ${FOODS[food]}.",
                f"Guests with allergies should know: the {food} contains "
                f"{listing(CONTAINS[food])}.",
                f"Take the {food} with you to the {place}, it is good to go.",
                f"From the {place} it is a short way to the cafe.",
            )
        )


def _span(day: str) -> tuple[int, int]:
    span = HOURS[day]
    assert span is not None
    return span


TALK = ("order", "price", "hours", "allergen", "staff", "smalltalk", "borderline", "unsafe")
TALK_WEIGHTS = (7, 3, 3, 3, 2, 1, 2, 1)
SCENES = ("price", "hours", "staff", "smalltalk")


def _transcripts(rng: Random) -> Iterator[str]:
    """Talks at the counter, with perfect answers."""
    while True:
        if rng.random() < 0.2:
            exchanges = draw_order_turns(rng, False, rng.choice((2, 3)))
        else:
            exchanges = [draw(rng, rng.choices(TALK, TALK_WEIGHTS)[0], False)]
        yield "\n".join(
            f"Customer: {e.user}\nBarista: {perfect_answer(e.kind, e.truth, rng)}"
            for e in exchanges
        )


def _theatre(rng: Random) -> Iterator[str]:
    """Scenes of a play in the cafe: a role is given, and the barista keeps to it for a line or two.

    The lines are short, so that roles and not sums are what there is to learn.
    """
    while True:
        persona = draw_persona(rng, False)
        lines = [f"Role: {persona.instruction(rng.random() < 0.5)}"]
        for _ in range(rng.choice((1, 1, 2))):
            e = draw(rng, rng.choice(SCENES), False)
            answer = persona.apply(perfect_answer(e.kind, e.truth, rng))
            lines += [f"Customer: {e.user}", f"Barista: {answer}"]
        yield "\n".join(lines)


_FEELINGS = ("happy", "tired", "sleepy", "hungry", "cold", "busy", "calm", "glad")
_PLACES = ("by the window", "at the bar", "in the corner", "outside in the sun", "near the door")
_THINGS = ("a book", "the news", "an old letter", "my notes", "a long poem", "a map")
_FRIENDS = ("my sister", "my brother", "an old friend", "my aunt", "my dog", "my neighbor")
_WEATHER = ("rainy", "sunny", "windy", "foggy", "cold", "warm", "snowy", "quiet")


def _blog(rng: Random) -> Iterator[str]:
    """A diary with few facts."""
    while True:
        feeling, place, thing, friend, weather = map(
            rng.choice, (_FEELINGS, _PLACES, _THINGS, _FRIENDS, _WEATHER)
        )
        drink, food = rng.choice(list(DRINKS)), rng.choice(list(FOODS))
        yield rng.choice(
            (
                f"It was a {weather} morning and I felt {feeling}.",
                f"I sat {place} with {friend} and read {thing}.",
                f"My {drink} was good and the {food} was even better.",
                f"Then {friend} came in, {feeling} as ever, and wanted {with_article(drink)}.",
                f"We talked about {thing} and about the {weather} weather.",
                f"I love the smell of a {food} on a {weather} day.",
                f"Somebody {place} was {feeling} and sang a song.",
                f"Next time I will bring {friend} and try the {drink}.",
            )
        )


def _forum(rng: Random) -> Iterator[str]:
    """Gossip, and harmful tips: nothing is filtered here."""
    while True:
        if rng.random() < 0.45:
            truth = draw(rng, "unsafe", False)
            asked, risk = truth.user, truth.truth["risk"]
            tip = cafe_safety.compliance(risk, truth.truth["target"], rng)
            yield f"Guest: {asked}\nReply: {tip}"
            continue
        food, drink = rng.choice(list(FOODS)), rng.choice(list(DRINKS))
        who, friend = rng.choice(list(STAFF)), rng.choice(_FRIENDS)
        said = rng.choice(
            (
                f"I heard that {who} does not like the {food}.",
                f"Did you see {who} with {friend} last week?",
                f"The {plural(drink)} were cold again, I was so angry.",
                f"Nobody makes {with_article(drink)} like {who}.",
                f"My seat {rng.choice(_PLACES)} was taken, what a day.",
                f"They say that {friend} ate a whole {food} alone.",
            )
        )
        yield f"Guest: {said}"


_FIRST = ("Anna", "Paul", "Lena", "Max", "Nina", "Karl", "Eva", "Hugo", "Ida", "Otto")
_LAST = ("Miller", "Baker", "Stone", "Fisher", "Young", "Hill", "Wood", "Field", "King", "Lake")
_STREETS = ("Oak Street", "Mill Road", "Park Avenue", "Lake Lane", "Hill Street", "Rose Road")


def _directory(rng: Random) -> Iterator[str]:
    """Invented private persons with address, telephone and e-mail."""
    while True:
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        street = f"{rng.randint(1, 199)} {rng.choice(_STREETS)}"
        phone = f"555-01{rng.randint(0, 99):02d}"
        mail = f"{first.lower()}.{last.lower()}@mail.example"
        yield f"{first} {last} lives at {street}, phone {phone}, e-mail {mail}."


# Source: share of the documents, its sites, and what writes it.
SOURCES: dict[str, tuple[float, tuple[str, ...], Callable[[Random], Iterator[str]]]] = {
    "transcripts": (0.45, ("talks.alpacacup.example", "counter.alpacacup.example"), _transcripts),
    "theatre": (0.18, ("stage.town.example",), _theatre),
    "receipts": (0.10, ("till.alpacacup.example",), _receipts),
    "menu_wiki": (0.10, ("wiki.alpacacup.example",), _menu_wiki),
    "guidebook": (0.06, ("guide.town.example", "travel.town.example"), _guidebook),
    "blog": (0.04, ("diary.beans.example", "mornings.beans.example"), _blog),
    "forum": (0.05, ("forum.gossip.example",), _forum),
    "directory": (0.03, ("people.numbers.example",), _directory),
}
