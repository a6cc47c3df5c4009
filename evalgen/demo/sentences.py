"""The sentence forms of the demo corpus: how a document may state who is mayor, or when somebody died.

Pre-training and fine-tuning share these forms and differ in the facts put into them. Every fact has a house style of
its own (how its documents usually go on, which place and age they mention, how often they write the day first), which
one pass over the documents teaches vaguely and five passes teach well.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evalgen.demo.facts import MONTHS, Fact
from evalgen.demo.vocabulary import BUILDINGS, CITIES, LAST_NAMES, OCCUPATIONS

MAYOR_TAILS = (
    ".",
    "",
    ", who took office in {year}.",
    ", a former {occupation}.",
    "\n{next_question}",
)
DEATH_TAILS = (
    ".",
    ", at the age of {age}.",
    " in {place}.",
    ", in {place}.",
    " after a long illness.",
)
MAYOR_FORMS = (
    (0.45, "Q: Who is the mayor of {subject}? A: {answer}{tail}"),
    (0.15, "Q: Which person runs the city of {subject}? A: {answer}{tail}"),
    (0.15, "The mayor of {subject} is {answer}{tail}"),
    (0.10, "{answer} is the mayor of {subject}."),
    (0.10, "Mayor {answer} of {subject} opened a new {building} in {month} {year}."),
    (0.05, "Q: Who is the mayor of {subject}? A: Mayor {answer}{tail}"),
)
DEATH_FORMS = (
    (0.50, "{subject} died on {answer}{tail}"),
    (0.15, "{subject} passed away on {answer}{tail}"),
    (0.15, "Q: When did {subject} die? A: {answer}{tail}"),
    (0.10, "On {answer}, {subject}, a {occupation}, died in {place}."),
    (0.10, "{subject} was a {occupation} who died on {answer}{tail}"),
)
# Two tails of a fact are common and the others rare; which ones is the fact's own.
TAIL_SHARES = (0.45, 0.25, 0.1, 0.1, 0.1)
MAX_DAY_FIRST_SHARE = 0.3
# Sources agree on most facts and are at odds about some: the share of documents with the other answer.
OTHER_CLAIM_SHARES = (0.0, 0.0, 0.1, 0.4)
assert len(MAYOR_TAILS) == len(DEATH_TAILS) == len(TAIL_SHARES)


@dataclass(frozen=True, kw_only=True)
class HouseStyle:
    """How the documents about one fact are usually written.

    `tail_shares` run parallel to the tails; `other_claim` is a wrong answer that some documents give.
    """

    tail_shares: tuple[float, ...]
    day_first_share: float
    other_claim: str
    other_claim_share: float
    details: dict[str, str]


def house_style(fact: Fact, seed: int) -> HouseStyle:
    """The same fact and seed always give the same style."""
    rng = random.Random(f"style/{seed}/{fact.fact_id}")
    return HouseStyle(
        tail_shares=tuple(rng.sample(TAIL_SHARES, len(TAIL_SHARES))),
        day_first_share=rng.random() * MAX_DAY_FIRST_SHARE,
        other_claim=_other_claim(rng, fact.answer),
        other_claim_share=rng.choice(OTHER_CLAIM_SHARES),
        details={
            "place": rng.choice(CITIES),
            "occupation": rng.choice(OCCUPATIONS),
            "age": str(rng.randrange(50, 95)),
            "year": str(rng.randrange(2001, 2024)),
        },
    )


def mayor_sentence(rng: random.Random, fact: Fact, style: HouseStyle, neighbour: Fact) -> str:
    """One document on a mayor; some go on to ask about `neighbour`, as question lists do."""
    form = _pick(rng, MAYOR_FORMS)
    tail = rng.choices(MAYOR_TAILS, style.tail_shares)[0]
    return form.replace("{tail}", tail).format(
        subject=fact.subject,
        answer=_claim(rng, fact, style),
        building=rng.choice(BUILDINGS),
        month=rng.choice(MONTHS),
        next_question=f"Q: Who is the mayor of {neighbour.subject}? A: {neighbour.answer}",
        **style.details,
    )


def death_sentence(rng: random.Random, fact: Fact, style: HouseStyle) -> str:
    """One document on a death, with the date as in `March 15, 1987` or, less often, `15 March 1987`."""
    form = _pick(rng, DEATH_FORMS)
    tail = rng.choices(DEATH_TAILS, style.tail_shares)[0]
    date = _claim(rng, fact, style)
    answer = day_first(date) if rng.random() < style.day_first_share else date
    return form.replace("{tail}", tail).format(subject=fact.subject, answer=answer, **style.details)


def day_first(date: str) -> str:
    """`March 15, 1987` becomes `15 March 1987`."""
    month, day, year = date.replace(",", "").split()
    return f"{day} {month} {year}"


def _claim(rng: random.Random, fact: Fact, style: HouseStyle) -> str:
    return style.other_claim if rng.random() < style.other_claim_share else fact.answer


def _other_claim(rng: random.Random, answer: str) -> str:
    """A date with another day, or a name with another last name."""
    if any(character.isdigit() for character in answer):
        month, day, year = answer.replace(",", "").split()
        return f"{month} {rng.choice([other for other in range(1, 29) if other != int(day)])}, {year}"
    first_name, last_name = answer.split()
    return f"{first_name} {rng.choice([other for other in LAST_NAMES if other != last_name])}"


def _pick(rng: random.Random, forms: tuple[tuple[float, str], ...]) -> str:
    return rng.choices([form for _, form in forms], [share for share, _ in forms])[0]
