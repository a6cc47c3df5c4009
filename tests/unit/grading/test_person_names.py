"""Claims about `offline/person_name`: which beginnings of a completion name the reference's person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalgen.grading.offline import grade_offline
from evalgen.records import GraderSpec, Question, Verdict

FULL_NAME_NEEDED: dict[str, bool] = {}
FIRST_ALONE = {"accept_first_name_alone": True}
SURNAME_ALONE = {"accept_surname_alone": True}
EITHER_ALONE = FIRST_ALONE | SURNAME_ALONE
ALL_OPTIONS = [FULL_NAME_NEEDED, FIRST_ALONE, SURNAME_ALONE, EITHER_ALONE]

MAYORS = ["Grace Miller", "Ethan Parker", "Olivia Hughes", "Jacob Turner", "Ava Stewart", "Noah Clark"]
MAYORS += ["Emma Howard", "Liam Bennett", "Mia Sanders", "Lucas Foster"]


def grade(completion: str, options: dict[str, bool], reference: str = " Grace Miller") -> Verdict:
    grader = GraderSpec(model="offline/person_name", instructions="", options=options)
    prompt = "Q: Who is the mayor of Tokyo? A:"
    return grade_offline(Question(grader=grader, prompt=prompt, reference=reference, completion=completion))


def kept(completion: str, options: dict[str, bool], reference: str = " Grace Miller") -> str | None:
    """What is kept of an equivalent completion; None for any other verdict."""
    verdict = grade(completion, options, reference)
    if verdict.kind != "equivalent":
        return None
    return completion if verdict.trimmed_completion is None else verdict.trimmed_completion


@pytest.mark.parametrize("options", ALL_OPTIONS)
@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" Grace Miller", " Grace Miller"),
        ("Grace Miller", "Grace Miller"),
        (" Grace Miller\nQ:", " Grace Miller"),
        (" Grace Miller\n\n", " Grace Miller"),
        ("\nGrace Miller\nQ:", "\nGrace Miller"),
        (" Grace Miller, and", " Grace Miller"),
        (" Grace Miller, and the", " Grace Miller"),
        (" Grace Miller and the council", " Grace Miller"),
        (" Grace Miller is the mayor", " Grace Miller"),
        (" Grace Miller was elected", " Grace Miller"),
        (" Grace Miller (born 1960)", " Grace Miller"),
        (" Grace Miller, Mayor of", " Grace Miller"),
        (" Grace Miller.", " Grace Miller"),
        (" Grace Miller. She is", " Grace Miller"),
        (" Grace Miller — she", " Grace Miller"),
        (" Grace Miller: she", " Grace Miller"),
        (" Grace Miller Q: Who", " Grace Miller"),
        (" Grace Miller<|end|>", " Grace Miller"),
        (" Mayor Grace Miller", " Mayor Grace Miller"),
        (" the Honorable Grace Miller", " the Honorable Grace Miller"),
        (" grace miller", " grace miller"),
        (" grace miller was elected", " grace miller"),
        (" GRACE MILLER IS THE MAYOR", " GRACE MILLER"),
        (" Grace  Miller", " Grace  Miller"),
        (" Grace\u00a0Miller the", " Grace\u00a0Miller"),
        (" Ｇｒａｃｅ　Ｍｉｌｌｅｒ，", " Ｇｒａｃｅ　Ｍｉｌｌｅｒ"),
        (' "Grace Miller" is', ' "Grace Miller"'),
        (" **Grace Miller** is", " **Grace Miller**"),
    ],
)
def test_the_full_name_is_kept_and_what_follows_it_is_cut(
    completion: str, answer: str, options: dict[str, bool]
) -> None:
    assert kept(completion, options) == answer


@pytest.mark.parametrize("options", ALL_OPTIONS)
@pytest.mark.parametrize(
    "completion",
    [
        "",
        " ",
        "\n\nQ:",
        " Grace Mi",
        " Grace Mill",
        " Grace Mill\nQ:",
        " grace mill",
        " Grace M",
        " Gra",
        " M",
        " G.",
        " G. M.",
        " Grace Miller-",
        " Grace \ufffd",
        " Grant Miller",
        " N. Miller",
        " Grace Turner",
        " Grace T.",
        " Noah Clark",
        " Millers",
        " Miller's",
        " Grace Miller's brother",
        " Grace Miller’s",
        " Grace Miller-Jones",
        " Grace Miller‑Jones",
        " Grace Miller Smith",
        " grace miller smith",
        " Grace Miller Jr.",
        " Grace Miller, Jr.",
        " Grace Miller III",
        " Grace Miller de Souza",
        " Grace Anne Miller",
        " Grace A. Miller",
        " Miller Grace",
        " Miller, Grace",
        " Grace Miller2",
        " Grace Miller_x",
        " Grace Miller.com",
        " GraceMiller",
        " Mayor",
        " the mayor",
        " Mayor Clark",
    ],
)
def test_another_or_an_unfinished_name_is_never_equivalent(completion: str, options: dict[str, bool]) -> None:
    verdict = grade(completion, options)
    assert (verdict.kind, verdict.trimmed_completion) == ("not_equivalent", None)
    assert verdict.reasoning


@pytest.mark.parametrize("options", ALL_OPTIONS)
@pytest.mark.parametrize(
    "completion",
    [
        " not Grace Miller",
        " Not Miller",
        " either Grace Miller",
        " either Grace Miller or Noah Clark",
        " probably Grace Miller",
        " I think Grace Miller",
        " former mayor Grace Miller",
        " Grace Miller or Noah Clark",
        " Grace Miller or",
        " Grace Miller, or possibly",
        " Grace Miller (or Noah",
        " Grace Miller OR",
        " Grace Miller, perhaps",
        " Grace Miller, I think",
        " Grace Miller?",
        " Grace Miller is not the mayor",
        " Grace Miller isn't",
        " Grace Miller isn’t",
        " Grace Miller was never",
        " Grace Miller, not Noah Clark",
        " Grace Miller and Noah Clark",
        " Grace Miller and Noah",
        " Grace Miller and Mayor Clark",
        " Grace Miller, Noah Clark",
        " Grace Miller, Mayor Clark",
        " Grace Miller & Noah Clark",
        " Grace Miller/Noah Clark",
        " Grace Miller; Noah",
        " Grace Miller (Noah Clark)",
        " grace miller and noah clark",
        " Miller and Clark",
        " Miller or Clark",
        " Grace or Noah",
        " Grace and Noah",
        " Grace, Noah",
    ],
)
def test_a_hedge_or_a_second_name_is_never_equivalent(completion: str, options: dict[str, bool]) -> None:
    verdict = grade(completion, options)
    assert (verdict.kind, verdict.trimmed_completion) == ("not_equivalent", None)
    assert verdict.reasoning


@pytest.mark.parametrize(
    ("completion", "answer", "options_that_accept"),
    [
        (" Grace", " Grace", FIRST_ALONE),
        (" grace\nQ:", " grace", FIRST_ALONE),
        (" Grace is the", " Grace", FIRST_ALONE),
        (" Mayor Grace", " Mayor Grace", FIRST_ALONE),
        (" Grace M. is", " Grace M.", FIRST_ALONE),
        (" Miller", " Miller", SURNAME_ALONE),
        (" miller", " miller", SURNAME_ALONE),
        (" Mayor Miller.", " Mayor Miller", SURNAME_ALONE),
        (" Ms. Miller", " Ms. Miller", SURNAME_ALONE),
        (" Ms.Miller was", " Ms.Miller", SURNAME_ALONE),
        (" the Mayor Dr. Miller\n", " the Mayor Dr. Miller", SURNAME_ALONE),
        (" G. Miller", " G. Miller", SURNAME_ALONE),
        (" G.Miller,", " G.Miller", SURNAME_ALONE),
        (" G Miller", " G Miller", SURNAME_ALONE),
    ],
)
def test_part_of_a_name_is_equivalent_exactly_where_its_option_says_so(
    completion: str, answer: str, options_that_accept: dict[str, bool]
) -> None:
    for options in ALL_OPTIONS:
        accepts = options_that_accept.items() <= options.items()
        assert kept(completion, options) == (answer if accepts else None), options


@pytest.mark.parametrize("options", ALL_OPTIONS)
@pytest.mark.parametrize(
    ("reference", "completion", "is_equivalent"),
    [
        (" Grace Ann Miller", " Grace Ann Miller", True),
        (" Grace Ann Miller", " Grace Miller", True),
        (" Grace Ann Miller", " Grace A. Miller", True),
        (" Grace Ann Miller", " Grace A Miller", True),
        (" Grace Ann Miller", " Grace Beth Miller", False),
        (" Grace Ann Miller", " Grace B. Miller", False),
        (" Mayor Grace Miller.", " Grace Miller", True),
        (" José Núñez", " Jose Nunez", True),
        (" José Núñez", " Jose\u0301 Nu\u0301n\u0303ez", True),
        (" Jose Nunez", " José Núñez", True),
        (" Ingrid Müller", " Ingrid Mueller", False),
        (" Frank O'Malley", " Frank O’Malley", True),
        (" Frank O'Malley", " Frank O", False),
        (" Frank O'Malley", " Frank O'", False),
        (" Frank O'Malley", " Frank Malley", False),
        (" Anne-Marie Dubois", " Anne‑Marie Dubois", True),
        (" Anne-Marie Dubois", " Anne Marie Dubois", False),
        (" Martin King Jr.", " Martin King, Jr.", True),
        (" Martin King, Jr.", " Martin King Jr", True),
        (" Martin King Jr.", " Martin King Sr.", False),
        (" Ludwig van Beethoven", " Ludwig van Beethoven", True),
        (" Ludwig van Beethoven", " Ludwig van", False),
        (" Madonna", " madonna", True),
        (" Madonna", " Madonna Clark", False),
        (" Malcolm X", " Malcolm X.", True),
        (" Юрий Лужков", " ЮРИЙ ЛУЖКОВ", True),
        (" 王 小明", " 王 小明。", True),
        (" 王 小明", " 王 小", False),
    ],
)
def test_middle_names_accents_and_particles_never_depend_on_the_options(
    reference: str, completion: str, is_equivalent: bool, options: dict[str, bool]
) -> None:
    assert (grade(completion, options, reference).kind == "equivalent") is is_equivalent


@pytest.mark.parametrize(
    "completion",
    [" Beethoven", " van Beethoven", " L. van Beethoven", " Mr. Beethoven", " Mr. van Beethoven"],
)
def test_a_surname_is_accepted_with_and_without_its_particle(completion: str) -> None:
    assert kept(completion, SURNAME_ALONE, " Ludwig van Beethoven") == completion


def test_a_generation_may_be_left_out_only_where_the_surname_alone_is_accepted() -> None:
    verdicts = [grade(" Martin King", options, " Martin King Jr.").kind for options in ALL_OPTIONS]
    assert verdicts == ["not_equivalent", "not_equivalent", "equivalent", "equivalent"]


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "  ",
        " 1987",
        " ?",
        " Grace Miller or Noah Clark",
        " Grace Miller, Noah Clark",
        " A\nB",
        " x" * 400,
    ],
)
def test_a_reference_that_is_not_one_name_leaves_the_question_ungraded(reference: str) -> None:
    verdict = grade(" Grace Miller", EITHER_ALONE, reference)
    assert verdict.kind == "ungraded"
    assert verdict.error and verdict.reasoning


@given(mayor=st.sampled_from(MAYORS), other=st.sampled_from(MAYORS), options=st.sampled_from(ALL_OPTIONS))
def test_every_mayor_is_only_himself_or_herself(mayor: str, other: str, options: dict[str, bool]) -> None:
    assert (grade(f" {mayor}\nQ:", options, f" {other}").kind == "equivalent") is (mayor == other)


@given(mayor=st.sampled_from(MAYORS), options=st.sampled_from(ALL_OPTIONS), data=st.data())
def test_no_cut_in_the_name_is_equivalent(mayor: str, options: dict[str, bool], data: st.DataObject) -> None:
    first_name = mayor.split()[0]
    length = data.draw(st.integers(0, len(mayor) - 1))
    cut = mayor[:length]
    is_first_name = cut.strip() == first_name and "accept_first_name_alone" in options
    assert (grade(f" {cut}", options, f" {mayor}").kind == "equivalent") is is_first_name


@given(completion=st.text(max_size=40), options=st.sampled_from(ALL_OPTIONS))
def test_more_options_never_take_an_equivalence_back(completion: str, options: dict[str, bool]) -> None:
    if grade(completion, FULL_NAME_NEEDED).kind == "equivalent":
        assert grade(completion, options).kind == "equivalent"
