"""The card of a dataset: `README.md`, with the head that the Hub expects, and all that a reader has to know.

Everything in it is of this dataset: settings, counts and digests, never a figure of another. What comes from data is
shown by `evalgen.markdown`, and the head is written by the Hub's own library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData

from evalgen.card_columns import columns
from evalgen.card_loading import snippets
from evalgen.card_words import grading_in_words, law_in_words, law_settings
from evalgen.dataset_files import CALIBRATION_FILE, PARTIAL, PROMPTS_FILE, REJECTS_FILE, ROWS_FILES
from evalgen.grading.calibration import instructions_sha256
from evalgen.job import DatasetPlan
from evalgen.markdown import render
from evalgen.printable import printable
from evalgen.prompt_figures import PromptFigures
from evalgen.provenance import Provenance
from evalgen.statistics import DatasetStatistics

SHOWN_PROMPTS = 20  # in the card; prompts.parquet has all
# Upper bounds of the Hub's size categories.
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
_LARGER = "10M<n<100M"


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """What the card says of a dataset's files beyond its figures."""

    prompts: tuple[PromptFigures, ...]  # the first of them
    num_prompts: int
    num_rejects: int
    num_nested: int  # rows that are the beginning of another
    calibration: Mapping[str, Any] | None = None  # the content of grader_calibration.json; None: there is none

    @classmethod
    def of_directory(cls, directory: Path) -> DatasetFacts:
        """Reads them from a dataset that is written but for its card."""
        calibration = directory / CALIBRATION_FILE
        return cls(
            prompts=tuple(PromptFigures(**row) for row in islice(_rows(directory / PROMPTS_FILE), SHOWN_PROMPTS)),
            num_prompts=pq.read_metadata(directory / PROMPTS_FILE).num_rows,
            num_rejects=pq.read_metadata(directory / REJECTS_FILE).num_rows,
            num_nested=sum(_num_valid(file, "is_prefix_of") for file in directory.glob(ROWS_FILES)),
            calibration=json.loads(calibration.read_text(encoding="utf-8")) if calibration.exists() else None,
        )


def dataset_card(
    plan: DatasetPlan, figures: DatasetStatistics, provenance: Provenance, facts: DatasetFacts, at: datetime
) -> str:
    """The card of the dataset of `plan`, of which the last draws were made `at` (UTC)."""
    key = instructions_sha256(plan.grader)
    name = figures.name + (PARTIAL if figures.num_missing_prompts else "")
    body = render(
        "card.md.jinja",
        name=name,
        version=version("evalgen"),
        date=at.date().isoformat(),
        figures=figures,
        provenance=provenance,
        facts=facts,
        settings=plan.settings,
        source=plan.checkpoint.source,
        enumerates=plan.settings.enumerates,
        one_row_per_draw=plan.settings.do_sample and not plan.settings.deduplicate,
        sources=sorted({query.source_dataset for query in plan.queries} - {""}),
        law_in_words=law_in_words(plan.settings),
        law=law_settings(plan.settings),
        grader=plan.grader,
        grading_in_words=grading_in_words(plan.grader, figures.grader_alpha),
        is_offline=plan.grader.is_offline,
        calibration=_calibration(key, facts.calibration),
        reencoded_share=figures.num_reencoded / figures.num_items if figures.num_items else None,
        columns=columns(),
        loading=snippets(name, has_rejects=facts.num_rejects > 0),
    )
    return card_head(printable(name), figures.num_items, configs(facts.num_rejects > 0)) + body


def card_head(pretty_name: str, num_rows: int, configs: Sequence[Mapping[str, Any]]) -> str:
    """What the Hub reads: which files are rows, rejects and prompts, and what to find the dataset by.

    No license, which the publisher has to choose, and no language, which nobody has looked at.
    """
    data = DatasetCardData(
        pretty_name=pretty_name,
        size_categories=[_size_category(num_rows)],
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        task_categories=["text-generation"],
        tags=["evalgen", "influence-analysis", "sampled-completions"],
        configs=list(configs),
    )
    return f"---\n{data.to_yaml()}\n---\n\n"


def configs(has_rejects: bool, prefix: str = "", folder: str = "") -> list[dict[str, Any]]:
    """The Hub's configurations of one dataset: its rows, rejects and prompts, in `folder`, the rows being the default.

    With a `prefix` the rows have that as their name, and those of the others begin with it. `load_dataset` and the
    Hub's viewer fail on a configuration without rows, so that there is none for rejects if there are none.
    """
    files = {"": ROWS_FILES} | ({"rejects": REJECTS_FILE} if has_rejects else {}) | {"prompts": PROMPTS_FILE}
    return [
        {
            "config_name": ".".join(filter(None, (prefix, name))) or "default",
            "data_files": [{"split": "train", "path": folder + path}],  # the split that readers take if none is named
        }
        for name, path in files.items()
    ]


def with_calibration(card: str, calibration: Mapping[str, Any]) -> str:
    """`card` with a calibration of its grader, the content of `grader_calibration.json`, in place of an older or none.

    A card that shows another grader's instructions, or that somebody has rewritten, stays as it is.
    """
    key = calibration["grader_instructions_sha256"]
    before, start, rest = card.partition(_marker("calibration", key))
    _, end, after = rest.partition(_marker("end of calibration", key))
    return before + _calibration(key, calibration) + after if start and end else card


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as parquet:
        for batch in parquet.iter_batches(SHOWN_PROMPTS):
            yield from batch.to_pylist()


def _num_valid(file: Path, column: str) -> int:
    with pq.ParquetFile(file) as parquet:
        return sum(len(batch) - batch[column].null_count for batch in parquet.iter_batches(columns=[column]))


def _size_category(num_rows: int) -> str:
    """As the Hub names it."""
    return next((name for name, bound in _SIZES if num_rows < bound), _LARGER)


def _calibration(key: str, record: Mapping[str, Any] | None) -> str:
    return render("calibration.md.jinja", key=key, record=record).rstrip("\n")


def _marker(what: str, key: str) -> str:
    """Nothing in the instructions can look like it: they cannot hold their own digest."""
    return f"<!-- {what} {key} -->"
