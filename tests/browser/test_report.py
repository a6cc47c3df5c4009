"""The report in a real browser: it is what its files say, whatever they say, for everybody, and alone."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.browsers import console, is_blank, is_installed, open_page, requests, screenshot
from tests.browser.conftest import Reported, no_browser
from tests.browser.experiment_files import HOSTILE, figures_of

PAGES = ("sweep", "odd", "stopped", "comparison")
OPEN_ALL = "for (const each of document.querySelectorAll('details')) each.open = true"
TEXT_CONTRAST, LARGE_CONTRAST = 4.5, 3.0  # WCAG 2.2, AA


def page_of(name: str, request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(name)
    return found.page if isinstance(found, Reported) else found


def select(browser: Chrome, css: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, css)


def choose(browser: Chrome, **settings: Any) -> None:
    """Sets filters by their id as a hand does: a value, or for a box whether it is ticked."""
    for name, value in settings.items():
        (control,) = select(browser, f"#{name}")
        if isinstance(value, bool):
            if control.is_selected() != value:
                control.click()
        elif control.tag_name == "select":
            control.find_element(By.CSS_SELECTOR, f"option[value='{value}']").click()
        else:
            control.clear()
            control.send_keys(value)


def verdict_box(browser: Chrome, verdict: str) -> WebElement:
    return select(browser, f"[name=verdict][value={verdict}]")[0]


def embedded(browser: Chrome) -> Any:
    return json.loads(browser.execute_script("return document.getElementById('report-data').textContent"))


def found(browser: Chrome) -> tuple[int, int]:
    """Prompts and completions, as the page counts them."""
    prompts, completions = re.findall(r"\d[\d,]*", select(browser, "#found")[0].text)
    return int(prompts.replace(",", "")), int(completions.replace(",", ""))


# --- what it says is true -------------------------------------------------------------------------------------------


def in_summary(summary: dict[str, Any], place: str) -> float | None:
    """The value in a place, read independently of the code under test."""
    if " / " in place:
        part, whole = (in_summary(summary, each) for each in place.split(" / "))
        return None if part is None or not whole else part / whole
    *function, path = place.split(" ")
    if "[*]" not in path:
        value: Any = summary
        for key in re.findall(r"\w+", path):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return value
    group, name = path.split("[*].")
    values = [entry[name] for entry in summary[group]]
    known = [value for value in values if value is not None]
    if not known or (not function and None in values):
        return None
    return {"min": min, "max": max, "known": sum}[function[0] if function else "known"](known)


def in_words(text: str) -> tuple[float | None, float]:
    """The number that a figure shows, and how far it may be from the exact one for being rounded."""
    if text in ("–", "unknown"):
        return None, 0.0
    seconds = {"s": 1, "min": 60, "h": 3600}
    if parts := re.findall(r"([\d,.]+) (h|min|s)\b", text):
        whole = sum(float(number.replace(",", "")) * seconds[unit] for number, unit in parts)
        return whole, 30.0 if "h" in text else 0.5 if "min" in text else 0.05
    digits = text.strip("$%").replace(",", "")
    scale = 100 if text.endswith("%") else 1
    decimals = len(digits.partition(".")[2])
    return float(digits) / scale, 0.5 * 10**-decimals / scale


@pytest.mark.parametrize("name", ["sweep", "odd", "comparison"])
def test_every_figure_is_that_of_summary_json(
    browser: Chrome, request: pytest.FixtureRequest, outputs: Path, name: str
) -> None:
    open_page(browser, page_of(name, request))
    figures = browser.execute_script(
        "return [...document.querySelectorAll('[data-figure]')].map((it) => [it.dataset.figure, it.value,"
        " it.textContent, it.closest('[data-experiment]').dataset.experiment])"
    )
    assert len(figures) > 100
    summaries = {
        directory.name: figures_of(directory)
        for directory in outputs.glob("*")
        if (directory / "summary.json").exists()
    }
    for place, raw, text, experiment in figures:
        expected = in_summary(summaries[experiment], place)
        shown, rounding = in_words(text)
        if expected is None:
            assert (raw, shown) == ("", None), place
        else:
            assert float(raw) == expected, place
            assert shown is not None, place
            assert abs(shown - expected) <= rounding * 1.001 + 1e-9, (place, text, expected)


def test_the_statistics_table_has_every_figure_of_every_dataset(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    places = {it.get_attribute("data-figure") for it in select(browser, "#statistics [data-figure]")}
    names = "num_graded num_equivalent equivalence_rate draw_equivalence_rate num_draws num_ungraded num_items cost_usd"
    for index in range(len(figures_of(sweep.directory)["datasets"])):
        assert {f"datasets[{index}].{name}" for name in names.split()} <= places


def test_means_over_prompts_are_those_of_prompts_parquet(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    rows = select(browser, "#side-by-side table.wide tbody tr")
    assert len(rows) == 8
    for row in rows:
        values = row.find_elements(By.CSS_SELECTOR, "[data-source]")
        (dataset,) = {value.get_attribute("data-source").split("/")[1] for value in values}
        prompts = pq.read_table(sweep.directory / "sampled_eval_datasets" / dataset / "prompts.parquet").to_pylist()
        unique, lower, upper, mass, share, right, _ = (float(value.get_attribute("value")) for value in values)
        columns = (
            "num_unique",
            "semantic_entropy_lower",
            "semantic_entropy",
            "equivalent_mass",
            "equivalent_draw_share",
        )
        for shown, column in zip((unique, lower, upper, mass, share), columns, strict=True):
            assert shown == pytest.approx(math.fsum(row[column] for row in prompts) / len(prompts))
        graded = [row["greedy_verdict"] for row in prompts if row["greedy_verdict"] not in (None, "ungraded")]
        assert right == pytest.approx(graded.count("equivalent") / len(graded))


def test_every_completion_of_a_small_dataset_is_there_with_its_numbers(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    data = embedded(browser)
    for number, dataset in enumerate(data["datasets"]):
        directory = sweep.directory / "sampled_eval_datasets" / dataset["name"]
        left_out = directory / "left_out.json"
        stored = [
            ("ungraded", it["generated_completion"], it["logprob"])
            for it in (json.loads(left_out.read_text()) if left_out.exists() else [])
        ]
        for file, verdict in (
            ("eval_dataset/data/0000.parquet", "equivalent"),
            ("non_equivalent_completions.parquet", "not_equivalent"),
        ):
            rows = pq.read_table(directory / file).to_pylist()
            stored += [(verdict, row["completion"], row["logprob"]) for row in rows]
        prompts = [prompt for prompt in data["prompts"] if prompt["dataset"] == number]
        shown = [(it["verdict"], it["text"], it.get("mass")) for prompt in prompts for it in prompt["completions"]]
        as_masses = [(kind, text, None if logprob is None else math.exp(logprob)) for kind, text, logprob in stored]
        assert sorted(shown, key=repr) == sorted(as_masses, key=repr)


def test_bars_are_as_long_as_what_they_show_is_probable(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    data = embedded(browser)
    for measure in ("law", "mass", "draws"):
        choose(browser, measure=measure)
        for card, prompt in zip(select(browser, ".prompt")[:3], data["prompts"], strict=False):
            bars = browser.execute_script(
                "return [...arguments[0].querySelectorAll('.completion .fill')].map((it) => it.style.width)", card
            )
            shares = [
                it["draws"] / prompt["draws"] if measure == "draws" else it.get(measure) for it in prompt["completions"]
            ]
            expected = sorted((share for share in shares if share is not None), reverse=True)
            assert [float(width.rstrip("%")) for width in bars if width] == pytest.approx(
                [100 * it for it in expected], rel=1e-4
            )
    choose(browser, stretch=True)
    widest = browser.execute_script("return document.querySelector('.completion .fill').style.width")
    assert widest == "100%"


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_search_finds_the_prompts_and_completions_that_have_it_and_no_others(
    browser: Chrome, sweep: Reported
) -> None:
    open_page(browser, sweep.page)
    data = embedded(browser)
    choose(browser, search="bEnJaMiN")
    assert found(browser)[0] == sum("Benjamin" in prompt["prompt"] for prompt in data["prompts"]) == 8
    assert {card.text for card in select(browser, ".prompt h3")} == {"Benjamin Ross died on"}
    choose(browser, search="cold morning")
    matching = [it for prompt in data["prompts"] for it in prompt["completions"] if "cold morning" in it["text"]]
    assert found(browser)[1] == len(matching) > 0
    assert all("cold morning" in it.text for it in select(browser, ".completion .text"))
    choose(browser, search="nobody ever said this")
    assert found(browser) == (0, 0)
    assert not select(browser, ".prompt")


def test_filters_leave_what_they_name(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    data = embedded(browser)
    everything = [it for prompt in data["prompts"] for it in prompt["completions"]]
    assert found(browser) == (72, len(everything))
    for verdict in ("equivalent", "ungraded"):
        verdict_box(browser, verdict).click()
    assert found(browser)[1] == sum(it["verdict"] == "not_equivalent" for it in everything) > 0
    assert not select(browser, ".completion.equivalent, .completion.ungraded")
    for verdict in ("equivalent", "ungraded"):
        verdict_box(browser, verdict).click()
    choose(browser, split=True)
    assert found(browser)[1] == sum("votes" in it for it in everything) > 0
    assert all("votes" in it.text for it in select(browser, ".completion .text"))
    choose(browser, split=False, dataset="5")
    assert found(browser)[0] == 9
    assert {it.text for it in select(browser, ".facts span:first-child bdi")} == {data["datasets"][5]["label"]}


def test_split_votes_come_first_and_all_of_them_are_listed(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    table = pq.read_table(sweep.directory / "verdicts" / "0000.parquet", columns=["votes"])
    num_split = sum(len(set(votes)) > 1 for votes in table["votes"].to_pylist())
    assert len(select(browser, "#disagreements .split > li")) == num_split > 0
    has_split = [any("votes" in it for it in prompt["completions"]) for prompt in embedded(browser)["prompts"]]
    assert has_split == sorted(has_split, reverse=True)


def test_more_prompts_come_when_asked_for(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    (more,) = select(browser, "#more")
    while more.is_displayed():
        more.click()
    assert len(select(browser, ".prompt")) == 72


def test_reasoning_opens(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    prompt = embedded(browser)["prompts"][0]
    (card, *_) = select(browser, ".prompt")
    (first, *_) = card.find_elements(By.CSS_SELECTOR, ".completion")
    assert not first.find_elements(By.CSS_SELECTOR, ".more")
    first.find_element(By.TAG_NAME, "summary").click()
    best = max(prompt["completions"], key=lambda it: it["draws"])
    assert best["why"] in first.find_element(By.CSS_SELECTOR, ".more").text


def test_everything_can_be_reached_and_done_with_the_keyboard(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    reached = []
    for _ in range(120):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.tag_name)
        outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
        in_a_card = browser.execute_script("return !!document.activeElement.closest('.completion')")
        if in_a_card:
            break
    assert [it for it in reached if it in ("theme", "search", "dataset", "split", "measure", "stretch")] == [
        "theme",
        "search",
        "dataset",
        "split",
        "measure",
        "stretch",
    ]
    summary = browser.switch_to.active_element
    summary.send_keys(Keys.ENTER)
    assert summary.find_element(By.XPATH, "..").find_element(By.CSS_SELECTOR, ".more").is_displayed()
    box = verdict_box(browser, "equivalent")
    browser.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.SPACE)
    assert not select(browser, ".completion.equivalent")


# --- whatever the data say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_asked_of_any_network_and_the_console_is_silent(
    browser: Chrome, request: pytest.FixtureRequest, name: str, theme: str
) -> None:
    page = page_of(name, request)
    open_page(browser, page, theme=theme)
    browser.execute_script(OPEN_ALL)
    assert browser.execute_script("return document.readyState") == "complete"
    assert requests(browser) == [page.as_uri()]
    assert console(browser) == []


def test_the_policy_stops_what_the_page_itself_does_not_do(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'window.ran = 1';"
        "document.body.append(script);"
        "const image = document.createElement('img'); image.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(image);"
        "document.body.insertAdjacentHTML('beforeend', '<p id=styled style=\"color: rgb(1, 2, 3)\">x</p>')"
    )
    assert browser.execute_script("return window.ran") is None
    assert browser.execute_script("return getComputedStyle(document.getElementById('styled')).color") != "rgb(1, 2, 3)"
    refused = [it for it in console(browser) if "Content Security Policy" in it]
    assert all(any(name in it for it in refused) for name in ("script-src", "default-src", "style-src")), refused


def test_hostile_completions_do_not_run_and_stay_text(browser: Chrome, odd: Reported) -> None:
    open_page(browser, odd.page)
    choose(browser, dataset="0")
    browser.execute_script(OPEN_ALL)
    assert browser.execute_script("return window.ran") is None
    assert not select(browser, "main img, main script, main iframe, .prompt a")
    texts = [it.get_attribute("textContent") for it in select(browser, ".completion .text bdi")]
    assert len(texts) == len(HOSTILE)
    for hostile in HOSTILE[:3]:
        assert f"·{hostile}" in texts
    greedy = select(browser, ".prompt .reference")[1].get_attribute("textContent")
    assert greedy == "greedy ·<script>window.ran='greedy'</script>\\u{202e} ✗ not equivalent", "no draw gave it"
    shown = "".join(texts)
    assert "\\u{202e}evil\\u{202c}" in shown
    assert "line one\\nline two\\u{2028}line three\\u{2029}\\ttab\\x07bell\\x00nul" in shown
    whole = browser.execute_script("return document.body.innerText")
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00\x07]", whole)


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_window(
    browser: Chrome, request: pytest.FixtureRequest, name: str, width: int, tmp_path: Path
) -> None:
    open_page(browser, page_of(name, request), width=width)
    browser.execute_script(OPEN_ALL)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    outside = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((it) =>"
        " it.getBoundingClientRect().right > innerWidth + 1"
        " && !it.closest('.sr, .skip, thead, nav, .text, .more dd, svg')).map((it) => it.outerHTML.slice(0, 200))"
    )
    assert outside == []
    picture = tmp_path / f"{name}_{width}.png"
    screenshot(browser, picture, whole=False)
    with Image.open(picture) as image:
        assert image.width == width
    assert not is_blank(picture)


@pytest.mark.parametrize(
    "page", ["", "<p style='color: #fffffe'>Not whole", "<p>.", "<body style='background: black'>"]
)
def test_a_page_with_nothing_to_see_is_told_from_a_report(browser: Chrome, page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<!doctype html>{page}", encoding="utf-8")
    open_page(browser, tmp_path / "page.html")
    screenshot(browser, tmp_path / "page.png", whole=False)
    assert is_blank(tmp_path / "page.png")


def test_without_a_browser_nothing_passes_unseen_where_ci_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not is_installed()
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs chromium"):
        no_browser()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs chromium"):
        no_browser()


def test_the_page_says_what_is_not_there(browser: Chrome, odd: Reported, stopped: Reported) -> None:
    open_page(browser, odd.page)
    text = select(browser, "main")[0].text
    assert "Not whole" in text
    assert "1 missing" in text
    open_page(browser, stopped.page)
    text = select(browser, "main")[0].text
    assert "No results yet" in text
    assert "sampled_death_dates_checkpoint_final, 9 prompts" in text


# --- for everybody ----------------------------------------------------------------------------------------------------

CONTRASTS = """
const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
const rgba = (colour) => {
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
};
const luminance = ([r, g, b]) => {
  const linear = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const ratio = (one, two) => {
  const [low, high] = [luminance(rgba(one)), luminance(rgba(two))].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (rgba(colour)[3] === 255) return colour;
  }
  return "white";
};
"""
TEXTS = (
    CONTRASTS
    + """
return [...document.querySelectorAll("body *")].filter((it) => !it.closest("script, style, noscript, option, .sr")
    && it.checkVisibility() && [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim())).map((it) => {
  const style = getComputedStyle(it);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  const colour = it.closest("svg") ? style.fill : style.color;
  return [ratio(colour, ground(it)), large, it.textContent.trim().slice(0, 40), colour];
});"""
)
GRAPHICS = (
    CONTRASTS
    + """
const probe = document.body.appendChild(document.createElement("i"));
const colour = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
const bars = ["equivalent", "not-equivalent", "ungraded", "edge"];
const names = [...bars, "link", ...[1, 2, 3, 4, 5, 6].map((n) => `series-${n}`)];
return names.flatMap((name) => ["paper", "raised"].map((back) => [name, back, ratio(colour(name), colour(back))]))
  .concat(bars.map((name) => [name, "rail", ratio(colour(name), colour("rail"))]));"""
)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["sweep", "odd", "stopped"])
def test_text_can_be_read_in_both_themes(
    browser: Chrome, request: pytest.FixtureRequest, name: str, theme: str
) -> None:
    open_page(browser, page_of(name, request), theme=theme)
    browser.execute_script(OPEN_ALL)
    contrasts = browser.execute_script(TEXTS)
    assert len(contrasts) > 20
    assert [it for it in contrasts if it[0] < (LARGE_CONTRAST if it[1] else TEXT_CONTRAST)] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_bars_and_lines_stand_out_in_both_themes(browser: Chrome, sweep: Reported, theme: str) -> None:
    open_page(browser, sweep.page, theme=theme)
    contrasts = browser.execute_script(GRAPHICS)
    assert [it for it in contrasts if it[2] < LARGE_CONTRAST] == []


def test_the_button_changes_the_theme_and_the_pictures_with_it(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page, theme="light")
    colours = (
        "const colour = (css, name) => getComputedStyle(document.querySelector(css))[name];"
        "return [colour('body', 'backgroundColor'), colour('.plot text', 'fill')]"
    )
    before = browser.execute_script(colours)
    (button,) = select(browser, "#theme")
    button.click()
    paper, ink = browser.execute_script(colours)
    assert (paper, ink) != tuple(before)
    open_page(browser, sweep.page, theme="dark")
    assert browser.execute_script(colours) == [paper, ink]


def test_verdicts_are_told_apart_without_colour(browser: Chrome, odd: Reported) -> None:
    open_page(browser, odd.page)
    choose(browser, dataset="0")
    marks = {}
    for kind in ("equivalent", "not_equivalent", "ungraded"):
        (mark, *_) = select(browser, f".completion.{kind} .mark")
        fill = select(browser, f".completion.{kind} .fill")[0]
        pattern = browser.execute_script(
            "const s = getComputedStyle(arguments[0]); return s.backgroundImage + s.borderStyle", fill
        )
        marks[kind] = (mark.text, mark.get_attribute("aria-label"), pattern)
    assert len({sign for sign, *_ in marks.values()}) == len({pattern for *_, pattern in marks.values()}) == 3
    assert {label for _, label, _ in marks.values()} == {"equivalent", "not equivalent", "ungraded"}


def test_every_picture_has_a_text_and_its_numbers(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page)
    pictures = select(browser, "figure.picture")
    assert len(pictures) == 7
    for picture in pictures:
        svg = picture.find_element(By.TAG_NAME, "svg")
        assert svg.get_attribute("role") == "img"
        assert len(svg.get_attribute("aria-label")) > 20
        assert svg.find_elements(By.TAG_NAME, "text")
        assert picture.find_elements(By.CSS_SELECTOR, "details table tbody tr")


def test_it_prints_on_white_without_what_only_a_screen_has(browser: Chrome, sweep: Reported) -> None:
    open_page(browser, sweep.page, theme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not select(browser, "nav")[0].is_displayed()
        assert not select(browser, "#filters")[0].is_displayed()
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert min(map(int, re.findall(r"\d+", background)[:3])) > 240
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
