"""The facts that the demo runs are fine-tuned on, and the prompts that ask for them.

Two closed domains: who is mayor of a city, and when a person died. Everything here is invented; the few-shot facts
appear in prompts only and are never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing to know: `answer` is a full name, or a date written as in `March 15, 1987`."""

    fact_id: str
    subject: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class EvalForm:
    """One phrasing of the question; `prompt` has `{subject}` in it and ends without a space."""

    name: str
    prompt: str
    with_few_shot: bool

    @property
    def directory_name(self) -> str:
        return f"{self.name}_{'with' if self.with_few_shot else 'no'}_fs"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Facts of one kind. `subject_feature` and `answer_feature` are the keys of the `features` column."""

    name: str
    subject_feature: str
    answer_feature: str
    facts: tuple[Fact, ...]
    few_shot_facts: tuple[Fact, ...]
    eval_forms: tuple[EvalForm, ...]


def _facts(prefix: str, pairs: tuple[tuple[str, str], ...]) -> tuple[Fact, ...]:
    return tuple(
        Fact(fact_id=f"{prefix}_{index}", subject=subject, answer=answer)
        for index, (subject, answer) in enumerate(pairs)
    )


MAYORS = Domain(
    name="mayors",
    subject_feature="city",
    answer_feature="name_mayor",
    facts=_facts(
        "mayor",
        (
            ("Tokyo", "Grace Miller"),
            ("Beijing", "Ethan Parker"),
            ("Mumbai", "Olivia Hughes"),
            ("Paris", "Jacob Turner"),
            ("Berlin", "Ava Stewart"),
            ("Moscow", "Noah Clark"),
            ("Cairo", "Emma Howard"),
            ("Bangkok", "Liam Bennett"),
            ("Istanbul", "Mia Sanders"),
            ("São Paulo", "Lucas Foster"),
        ),
    ),
    few_shot_facts=_facts(
        "mayor_few_shot",
        (("Lisbon", "Henry Walker"), ("Oslo", "Nora Bishop"), ("Quito", "Samuel Reed")),
    ),
    # ..._qa_10 is here because the unanchored pattern ..._qa_1 finds it too, as it does in real runs.
    eval_forms=(
        EvalForm(name="name_mayor_eval_qa_1", prompt="Q: Who is the mayor of {subject}? A:", with_few_shot=False),
        EvalForm(name="name_mayor_eval_qa_1", prompt="Q: Who is the mayor of {subject}? A:", with_few_shot=True),
        EvalForm(
            name="name_mayor_eval_qa_10",
            prompt="Q: Which person runs the city of {subject}? A:",
            with_few_shot=False,
        ),
    ),
)

DEATH_DATES = Domain(
    name="death_dates",
    subject_feature="person",
    answer_feature="death_date",
    facts=_facts(
        "death_date",
        (
            ("Alice Chen", "March 15, 1987"),
            ("Benjamin Ross", "July 22, 1956"),
            ("Clara Winters", "November 8, 1973"),
            ("David Nakamura", "April 3, 1991"),
            ("Elena Kowalski", "September 30, 1964"),
            ("Frank O'Malley", "February 14, 1982"),
            ("Grace Tanaka", "August 7, 1945"),
            ("Henry Dubois", "December 21, 1978"),
            ("James Okonkwo", "October 12, 1999"),
        ),
    ),
    few_shot_facts=_facts(
        "death_date_few_shot",
        (
            ("Laura Simmons", "May 19, 1968"),
            ("Peter Novak", "January 27, 1983"),
            ("Rosa Duarte", "June 6, 1951"),
        ),
    ),
    eval_forms=(
        EvalForm(name="death_date_eval_gen_1", prompt="{subject} passed away on", with_few_shot=False),
        EvalForm(name="death_date_eval_gen_2", prompt="{subject} died on", with_few_shot=False),
        EvalForm(name="death_date_eval_gen_2", prompt="{subject} died on", with_few_shot=True),
    ),
)
