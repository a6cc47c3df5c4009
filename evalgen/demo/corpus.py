"""The two corpora of the demo: neutral sentences to pre-train on and documents about the facts to fine-tune on.

The pre-training corpus has the forms, names, months and numbers of the documents, and facts about other people and
other cities, but no fact of the demo and no few-shot fact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from evalgen.demo.facts import DEATH_DATES, MAYORS, MONTHS, Domain, Fact
from evalgen.demo.sentences import (
    HouseStyle,
    death_sentence,
    house_style,
    mayor_sentence,
)
from evalgen.demo.vocabulary import BUILDINGS, CITIES, COUNTRY_OF_CITY, FIRST_NAMES, LAST_NAMES, OCCUPATIONS

NUM_NEUTRAL_PEOPLE = 40


@dataclass(frozen=True, kw_only=True)
class Document:
    """One training document; `fact_id` names the fact it is about, which a few documents get wrong."""

    document_id: str
    fact_id: str
    text: str


def fine_tuning_documents(domain: Domain, *, num_documents_per_fact: int, seed: int) -> list[Document]:
    """Documents in fact order; the training loop shuffles them anew every epoch."""
    rng = random.Random(f"documents/{seed}/{domain.name}")
    styles = _styles(domain.facts, seed)
    documents = []
    for fact in domain.facts:
        for index in range(num_documents_per_fact):
            documents.append(
                Document(
                    document_id=f"{domain.name}_{fact.fact_id}_doc_{index}",
                    fact_id=fact.fact_id,
                    text=_statement(rng, domain, fact, domain.facts, styles),
                )
            )
    return documents


def pretraining_texts(num_texts: int, *, seed: int) -> list[str]:
    """A third on neutral mayors, a third on neutral deaths, a third on everything else, shuffled."""
    rng = random.Random(f"pretraining/{seed}")
    neutral = {domain.name: _neutral_facts(domain, seed) for domain in (MAYORS, DEATH_DATES)}
    styles = {domain.name: _styles(neutral[domain.name], seed) for domain in (MAYORS, DEATH_DATES)}
    texts = []
    for index in range(num_texts):
        if index % 3 == 2:
            texts.append(_everyday_sentence(rng, seed))
            continue
        domain = (MAYORS, DEATH_DATES)[index % 3]
        facts = neutral[domain.name]
        texts.append(_statement(rng, domain, rng.choice(facts), facts, styles[domain.name]))
    rng.shuffle(texts)
    return texts


def _statement(
    rng: random.Random,
    domain: Domain,
    fact: Fact,
    neighbours: tuple[Fact, ...],
    styles: dict[str, HouseStyle],
) -> str:
    style = styles[fact.fact_id]
    if domain.name == MAYORS.name:
        return mayor_sentence(rng, fact, style, rng.choice(neighbours))
    return death_sentence(rng, fact, style)


def _styles(facts: tuple[Fact, ...], seed: int) -> dict[str, HouseStyle]:
    return {fact.fact_id: house_style(fact, seed) for fact in facts}


def _neutral_facts(domain: Domain, seed: int) -> tuple[Fact, ...]:
    """Facts about subjects that no fact and no few-shot fact of the demo is about."""
    rng = random.Random(f"neutral/{seed}/{domain.name}")
    known = {fact.subject for fact in domain.facts + domain.few_shot_facts}
    if domain.name == MAYORS.name:
        subjects = [city for city in CITIES if city not in known]
        answers = [_person(rng) for _ in subjects]
    else:
        subjects = [person for _ in range(NUM_NEUTRAL_PEOPLE) if (person := _person(rng)) not in known]
        answers = [_date(rng) for _ in subjects]
    return tuple(
        Fact(fact_id=f"neutral_{domain.name}_{index}", subject=subject, answer=answer)
        for index, (subject, answer) in enumerate(zip(subjects, answers, strict=True))
    )


def _everyday_sentence(rng: random.Random, seed: int) -> str:
    """A sentence that uses the words of the facts and states other things about their subjects.

    That Tokyo is in Japan and that Alice Chen is a judge tells one subject from another before the facts come.
    """
    form = rng.choice(
        (
            "The {building} in {city} opened on {date}.",
            "{city} is a city in {country}.",
            "Q: Which country is {city} in? A: {country}",
            "{person} is a {occupation} who lives in {home}.",
            "Q: Where does {person} live? A: {home}",
            "On {date}, {stranger} moved from {city} to {home}.",
        )
    )
    city = rng.choice(tuple(COUNTRY_OF_CITY))
    person = rng.choice(DEATH_DATES.facts).subject
    life = random.Random(f"life/{seed}/{person}")
    return form.format(
        building=rng.choice(BUILDINGS),
        city=city,
        country=COUNTRY_OF_CITY[city],
        person=person,
        occupation=life.choice(OCCUPATIONS),
        home=life.choice(CITIES),
        stranger=_person(rng),
        date=_date(rng),
    )


def _person(rng: random.Random) -> str:
    return f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}"


def _date(rng: random.Random) -> str:
    return f"{rng.choice(MONTHS)} {rng.randrange(1, 31)}, {rng.randrange(1940, 2010)}"
