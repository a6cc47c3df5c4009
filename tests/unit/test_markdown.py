"""Untrusted text stays text, wherever in Markdown it is put."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.markdown import MAX_SHOWN_CHARS, code, fenced, quoted, render
from evalgen.printable import printable
from tests.unit.finished import HOSTILE
from tests.unit.rendered import Rendered

# Any characters, with those that mean something to Markdown and HTML far more often than others.
TEXTS = st.text(
    st.one_of(st.sampled_from("|`<>&#*_[]()!\\~-=+:@$^{}'\" \t\r\n.1aw/;\u202e\x1b\x00\u2028"), st.characters())
)


@settings(max_examples=300, derandomize=True)
@given(text=TEXTS, other=TEXTS)
def test_a_cell_holds_the_text_and_nothing_else_however_hostile(text: str, other: str) -> None:
    page = Rendered(f"| a | b |\n|---|---|\n| {code(text)} | x {quoted(other[:150])} |\n\nend")
    assert page.tags == {"table": 1, "thead": 1, "tbody": 1, "tr": 2, "th": 2, "td": 2, "code": 2, "p": 1}
    assert page.texts["code"] == [printable(text), repr(other[:150])]
    assert page.texts["p"] == ["end"]


@settings(max_examples=300, derandomize=True)
@given(text=TEXTS)
@pytest.mark.parametrize("before", ["# ", "- ", "1. ", "> ", "", "**x** "])
def test_a_line_holds_the_text_and_nothing_else_however_hostile(before: str, text: str) -> None:
    page = Rendered(f"{before}{code(text)} after\n")
    plain = Rendered(f"{before}{code('x')} after\n")
    assert page.tags == plain.tags and page.texts["code"] == [printable(text)]


@settings(max_examples=300, derandomize=True)
@given(text=TEXTS)
def test_a_block_of_code_ends_where_it_should(text: str) -> None:
    page = Rendered(f"{fenced(text)}\n\nend")
    assert page.tags == {"pre": 1, "code": 1, "p": 1} and page.texts["p"] == ["end"]
    (content,) = page.texts["pre"]
    assert content.removesuffix("\n") == printable(text.replace("\r\n", "\n"), but="\n\t").removesuffix("\n")


def test_nothing_turns_the_line_around_or_moves_the_cursor() -> None:
    for shown in (code(HOSTILE), quoted(HOSTILE), fenced(HOSTILE)):
        assert all(character.isprintable() or character in "\n\t" for character in shown)
        assert r"\u202e" in shown.replace("&#92;", "\\")


def test_ordinary_names_and_prompts_are_readable_as_they_are_written() -> None:
    name = "sampled_name_mayor_eval_qa_1_checkpoint_final"
    assert code(name) == f"<code>{name}</code>"
    assert quoted("Q: Who is the mayor of São Paulo? A:") == "<code>'Q: Who is the mayor of São Paulo? A:'</code>"


def test_of_a_long_text_the_beginning_is_shown() -> None:
    assert MAX_SHOWN_CHARS <= len(quoted("x" * 10**6)) < MAX_SHOWN_CHARS + 50


def test_addresses_in_a_text_do_not_become_links() -> None:
    assert "https://" not in code("https://a.b") and "www." not in code("www.a.b")


def test_a_template_shows_what_nobody_marked_as_its_own() -> None:
    card = render("repository.md.jinja", experiment=HOSTILE, datasets=[])
    assert Rendered(card).texts["h1"] == [printable(HOSTILE)]
    assert "49" not in card
