"""What a person at a terminal sees of a calibration: the figures, the cases, and every item that was judged otherwise.

Completions, and judges who quote them, are untrusted text: whatever does not print is shown as its escape, so that
nothing in them can move the cursor, colour the terminal or turn the line around.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evalgen.grading.calibration import Calibration, Confusion, Estimate, JudgedItem

MAX_SHOWN_CHARS = 200  # of any one text; the JSON file has all of it


def calibration_lines(calibration: Calibration, title: str) -> list[str]:
    """80 columns, but for the texts of items, which are as long as they are."""
    confusion = calibration.confusion
    return [
        title,
        f"{confusion.num_items:,} items, {confusion.num_graded:,} graded: coverage {_percent(confusion.coverage)}",
        "",
        *_confusion_lines(confusion),
        "",
        *_figure_lines(confusion),
        "",
        *_case_lines(calibration),
        *_item_lines("False positives: judged equivalent, labelled not", calibration.having("false_positive")),
        *_item_lines("False negatives: labelled equivalent, judged not", calibration.having("false_negative")),
        *_item_lines("Ungraded: no verdict, and in none of the figures", calibration.having("ungraded")),
    ]


def shown(text: str) -> str:
    """`text` in quotes on one line, with an escape for whatever does not print or looks like a space."""
    visible = repr(text)
    if len(visible) > MAX_SHOWN_CHARS:
        visible = f"{visible[:MAX_SHOWN_CHARS]}… ({len(text):,} characters)"
    return visible


def _confusion_lines(confusion: Confusion) -> list[str]:
    rows = (
        ("labelled", "equivalent", "not equivalent"),
        ("judged equivalent", f"{confusion.num_true_positives:,}", f"{confusion.num_false_positives:,}"),
        ("judged not equivalent", f"{confusion.num_false_negatives:,}", f"{confusion.num_true_negatives:,}"),
    )
    return [f"{name:<22}{first:>12}{second:>17}" for name, first, second in rows]


def _figure_lines(confusion: Confusion) -> list[str]:
    figures = (
        ("precision", confusion.precision, _percent),
        ("recall", confusion.recall, _percent),
        ("kappa", confusion.kappa, _number),
    )
    return [f"{name:<12}{show(figure.value):>8}{_interval(figure, show)}" for name, figure, show in figures]


def _interval(figure: Estimate, show: Callable[[float | None], str]) -> str:
    if figure.value is None:
        return "   (not defined by these items)"
    if figure.low is None:
        return "   (no interval: these items leave nothing to vary)"
    return f"   95% interval {show(figure.low)} to {show(figure.high)}"


def _case_lines(calibration: Calibration) -> list[str]:
    lines = [f"{'case':<34}{'items':>7}{'ungraded':>10}{'agreed':>8}{'accuracy':>10}"]
    for name, case in calibration.by_case.items():
        counts = f"{case.num_items:>7,}{case.num_ungraded:>10,}{case.num_agreed:>8,}"
        lines.append(f"{name:<34}{counts}{_percent(case.accuracy):>10}")
    return lines


def _item_lines(heading: str, judged: Sequence[JudgedItem]) -> list[str]:
    if not judged:
        return []
    lines = ["", f"{heading} ({len(judged):,})"]
    for each in judged:
        item = each.item
        lines.append(f"  line {item.line}, {item.case}: {shown(item.prompt)} -> {shown(item.completion)}")
        lines.append(f"    reference {shown(item.reference)}; {_says(each)}")
    return lines


def _says(judged: JudgedItem) -> str:
    if judged.verdict.kind == "ungraded":
        return f"error: {shown(judged.verdict.error or '')}"
    return f"the judge: {shown(judged.verdict.reasoning)}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
