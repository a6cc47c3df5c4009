"""Ways in which a forger or a bug may change a dataset, and which checks must find them."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value

from evalgen.dataset_files import PROMPTS_FILE, REJECTS_FILE
from evalgen.eval_dataset import FEATURES, EvalDataset, EvalDatasetWriter
from evalgen.experiment import Experiment
from evalgen.files import write_json
from evalgen.verification.dataset import verify_dataset
from evalgen.verification.evidence import gather
from evalgen.verification.findings import Check, Finding
from tests.unit.tiny import EOS, PAD

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Touched:
    """A copy of an experiment that may be tampered with. Rows go to Arrow and Parquet alike."""

    experiment: Experiment

    @property
    def directory(self) -> Path:
        (directory,) = self.experiment.datasets.iterdir()
        return directory

    @property
    def parquet(self) -> Path:
        return self.directory / "eval_dataset" / "data" / "0000.parquet"

    def rows(self) -> Rows:
        rows: Rows = EvalDataset.load(self.directory).dataset.to_list()
        return rows

    def write_rows(self, rows: Rows, features: Features = FEATURES) -> None:
        shutil.rmtree(self.directory / "eval_dataset")
        with EvalDatasetWriter(self.directory, features) as writer:
            writer.write_rows(rows)

    def change_rows(self, change: Callable[[Rows], None]) -> None:
        rows = self.rows()
        change(rows)
        self.write_rows(rows)

    def change_table(self, path: Path, change: Callable[[Rows], None]) -> None:
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)

    def change_prompts(self, change: Callable[[Rows], None]) -> None:
        self.change_table(self.directory / PROMPTS_FILE, change)

    def change_rejects(self, change: Callable[[Rows], None], json_too: bool = True) -> None:
        self.change_table(self.directory / REJECTS_FILE, change)
        if json_too:
            path = self.directory / "non_equivalent_completions.json"
            rows = json.loads(path.read_text(encoding="utf-8"))
            change(rows)
            write_json(path, rows)

    def change_samples(self, change: Callable[[Rows], None]) -> None:
        for path in self.experiment.samples.glob("*.parquet"):
            self.change_table(path, change)

    def change_summary(self, **changed: Any) -> None:
        path = self.experiment.directory / "summary.json"
        summary = json.loads(path.read_text(encoding="utf-8"))
        summary["datasets"][0].update(changed)
        write_json(path, summary)

    def findings(self, **given: str) -> list[Finding]:
        return verify_dataset(gather(self.directory, **given))


def whole_drawn(rows: Rows) -> dict[str, Any]:
    """A row that is not trimmed, has its drawn ids, and neither is a prefix nor has one that names it."""
    named = {row["is_prefix_of"] for row in rows}
    return next(
        row
        for row in rows
        if row["completion"] == row["raw_completion"] and row["id"] not in named and row["is_prefix_of"] is None
    )


def encoded_again(rows: Rows) -> dict[str, Any]:
    return next(row for row in rows if not row["tokens_as_drawn"])


def parquet_alone(it: Touched) -> None:
    it.change_table(it.parquet, lambda rows: rows[3].update(weight=0.5))


def parquet_shorter(it: Touched) -> None:
    it.change_table(it.parquet, lambda rows: rows.pop() and None)


def parquet_with_metadata(it: Touched) -> None:
    pq.write_table(pq.read_table(it.parquet).cast(FEATURES.arrow_schema), it.parquet)


def forbidden_column(it: Touched) -> None:
    rows = [row | {"text": row["completion"]} for row in it.rows()]
    it.write_rows(rows, Features({**FEATURES, "text": Value("string")}))


def columns_in_another_order(it: Touched) -> None:
    it.write_rows(it.rows(), Features(dict(sorted(FEATURES.items()))))


def narrower_type(it: Touched) -> None:
    it.write_rows(it.rows(), Features({**FEATURES, "weight": Value("float32")}))


def null_where_there_must_be_none(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(finish_reason=None))


def arrow_cut_short(it: Touched) -> None:
    path = it.directory / "eval_dataset" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes()[:-3000])


def hostile_functions(it: Touched) -> None:
    (it.directory / "eval_functions.pkl").write_bytes(pickle.dumps([os.getcwd]))


def id_twice(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(id=rows[0]["id"]))


def id_of_another_form(it: Touched) -> None:
    def change(rows: Rows) -> None:
        row = whole_drawn(rows)
        row["id"] = row["id"].replace("_gen_", "_sample_")

    it.change_rows(change)


def prompt_id_from_a_hash_of_the_prompt(it: Touched) -> None:
    def change(rows: Rows) -> None:
        last = rows[-1]["prompt_id"]
        for row in rows:
            if row["prompt_id"] == last:
                row["prompt_id"] = "0123abcd"
                row["id"] = row["id"].replace(last, "0123abcd")
                row["is_prefix_of"] = row["is_prefix_of"] and row["is_prefix_of"].replace(last, "0123abcd")

    it.change_rows(change)


def two_rows_swapped(it: Touched) -> None:
    def change(rows: Rows) -> None:
        place = rows.index(whole_drawn(rows))
        rows[place - 1 : place + 1] = rows[place - 1 : place + 1][::-1]

    it.change_rows(change)


def prompts_in_another_order(it: Touched) -> None:
    def change(rows: Rows) -> None:
        first = rows[0]["prompt_id"]
        rows.sort(key=lambda row: row["prompt_id"] == first)

    it.change_rows(change)


def another_reference(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0].update(reference_completion=" Ada Lovelace"))


def nicer_prompts_everywhere(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["prompt"] = row["prompt"].replace("Who is", "Who's")

    it.change_rows(change)
    it.change_prompts(change)
    it.change_rejects(change)


def prompt_that_the_source_lacks(it: Touched) -> None:
    """Of which nothing was sampled."""
    counts = ["num_draws", "num_unique", "num_equivalent", "num_not_equivalent", "num_ungraded", "num_variations"]
    counts.append("greedy_draws")
    new = {"prompt_id": "new", "equivalent_draw_share": None} | dict.fromkeys(counts, 0)
    it.change_prompts(lambda rows: rows.append(rows[-1] | new))
    it.change_summary(num_prompts=4)


def mask_with_a_hole(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0]["attention_mask"].__setitem__(2, 0))


def padded(it: Touched) -> None:
    def change(rows: Rows) -> None:
        longest = max(len(row["input_ids"]) for row in rows)
        for row in rows:
            num_missing = longest - len(row["input_ids"])
            row["input_ids"] += [PAD] * num_missing
            row["labels"] += [-100] * num_missing
            row["attention_mask"] += [0] * num_missing

    it.change_rows(change)


def prompt_labelled(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["labels"] = row["input_ids"]

    it.change_rows(change)


def labels_shifted(it: Touched) -> None:
    def change(rows: Rows) -> None:
        rows[0]["labels"] = [*rows[0]["labels"][1:], -100]

    it.change_rows(change)


def eos_appended(it: Touched) -> None:
    def change(rows: Rows) -> None:
        row = whole_drawn(rows)
        row["input_ids"].append(EOS)
        row["labels"].append(EOS)
        row["attention_mask"].append(1)
        row["num_completion_tokens"] += 1

    it.change_rows(change)


def no_bos(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            for name in ("input_ids", "labels", "attention_mask"):
                del row[name][0]

    it.change_rows(change)


def better_answer(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(completion=" Grace Miller!", raw_completion=" Grace Miller!"))


def space_lost(it: Touched) -> None:
    def change(rows: Rows) -> None:
        row = whole_drawn(rows)
        row["completion"] = row["completion"].lstrip()

    it.change_rows(change)


def encoded_again_called_drawn(it: Touched) -> None:
    it.change_rows(lambda rows: encoded_again(rows).update(tokens_as_drawn=True))


def drawn_called_encoded_again(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(tokens_as_drawn=False, logprob=None, logprob_sampling=None))


def likelier(it: Touched) -> None:
    """One row by a thousandth of a nat. Its tokens and all weights of its prompt follow."""

    def change(rows: Rows) -> None:
        row = whole_drawn(rows)
        before = row["logprob"]
        row["token_logprobs"][-1] = float(np.float32(row["token_logprobs"][-1] + 0.001))
        row["logprob"] = sum(row["token_logprobs"][: row["num_completion_tokens"]])
        row["weight"] *= math.exp(row["logprob"] - before)
        of_prompt = [other for other in rows if other["prompt_id"] == row["prompt_id"]]
        total = sum(other["weight"] for other in of_prompt)
        for other in of_prompt:
            other["weight"] /= total

    it.change_rows(change)


def likelier_in_samples_too(it: Touched) -> None:
    likelier(it)
    row = whole_drawn(it.rows())

    def change(samples: Rows) -> None:
        for sample in samples:
            if (sample["prompt_id"], sample["token_ids"]) == (row["prompt_id"], row["token_ids"]):
                sample["token_logprobs"] = row["token_logprobs"]

    it.change_samples(change)


def logprob_alone(it: Touched) -> None:
    """By less than the model's check allows."""
    it.change_rows(lambda rows: whole_drawn(rows).update(logprob=whole_drawn(rows)["logprob"] - 5e-5))


def positive_logprob(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(logprob_sampling=0.5))


def uniform_weights(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["weight"] = 1 / sum(other["prompt_id"] == row["prompt_id"] for other in rows)

    it.change_rows(change)


def weight_moved_from_a_row_without_logprob(it: Touched) -> None:
    """The sum stays."""

    def change(rows: Rows) -> None:
        row = encoded_again(rows)
        other = next(it for it in rows if it["prompt_id"] == row["prompt_id"] and it["tokens_as_drawn"])
        part = row["weight"] / 100
        row["weight"] -= part
        other["weight"] += part

    it.change_rows(change)


def half_the_weights(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["weight"] /= 2

    it.change_rows(change)


def prefix_mark_lost(it: Touched) -> None:
    it.change_rows(lambda rows: next(row for row in rows if row["is_prefix_of"]).update(is_prefix_of=None))


def one_more_draw(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0].update(sample_count=rows[0]["sample_count"] + 1))


def row_lost(it: Touched) -> None:
    """The weights of its prompt add up to 1 all the same."""

    def change(rows: Rows) -> None:
        lost = whole_drawn(rows)
        rows.remove(lost)
        for row in rows:
            row["weight"] /= 1 - lost["weight"] * (row["prompt_id"] == lost["prompt_id"])

    it.change_rows(change)


def reject_lost(it: Touched) -> None:
    it.change_rejects(lambda rows: rows.pop(0) and None)


def reject_lost_in_parquet_alone(it: Touched) -> None:
    it.change_rejects(lambda rows: rows.pop(0) and None, json_too=False)


def reject_kept(it: Touched) -> None:
    """And still among the rejects."""

    def change(rows: Rows) -> None:
        reject = pq.read_table(it.directory / REJECTS_FILE).to_pylist()[0] | {"weight": 0.0}
        of_prompt = [row for row in rows if row["prompt_id"] == reject["prompt_id"]]
        before = [row for row in of_prompt if row["generation_idx"] < reject["generation_idx"]]
        rows.insert(rows.index(before[-1]) + 1 if before else rows.index(of_prompt[0]), reject)

    it.change_rows(change)


def left_out_lost(it: Touched) -> None:
    (it.directory / "left_out.json").unlink()


def better_rate(it: Touched) -> None:
    it.change_summary(equivalence_rate=1.0)


def fewer_draws_in_all_figures(it: Touched) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["num_draws"] = 50

    it.change_prompts(change)
    it.change_summary(num_draws=150)


def tokenizer_digest(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0].update(tokenizer_digest="0" * 64))


def weights_digest(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0].update(weights_digest="0" * 64))


def grader_digest(it: Touched) -> None:
    it.change_rows(lambda rows: rows[0].update(grader_digest="0" * 64))


def in_every_row(**changed: Any) -> Callable[[Rows], None]:
    def change(rows: Rows) -> None:
        for row in rows:
            row.update(changed)

    return change


def entropies_swapped(it: Touched) -> None:
    it.change_prompts(in_every_row(semantic_entropy=0.0, semantic_entropy_lower=0.5))


def entropy_invented(it: Touched) -> None:
    it.change_prompts(in_every_row(semantic_entropy=99.0))


def nothing_unseen(it: Touched) -> None:
    it.change_prompts(in_every_row(unseen_mass=0.0))


def masses_above_their_wholes(it: Touched) -> None:
    it.change_prompts(in_every_row(seen_mass=0.5, equivalent_mass=1.0))


def masses_invented(it: Touched) -> None:
    it.change_prompts(in_every_row(seen_mass_sampling=0.5, equivalent_mass_sampling=0.4))


def greedy_completion_invented(it: Touched) -> None:
    it.change_prompts(in_every_row(greedy_completion=" made up", greedy_verdict="equivalent"))


def called_enumerated(it: Touched) -> None:
    it.change_prompts(in_every_row(covered_mass=0.3))


def draws_moved_between_two_rows(it: Touched) -> None:
    """Of one prompt: all sums stay."""

    def change(rows: Rows) -> None:
        first = next(row for row in rows if row["sample_count"] > 1)
        other = next(row for row in rows if row is not first and row["prompt_id"] == first["prompt_id"])
        other["sample_count"] += first["sample_count"] - 1
        first["sample_count"] = 1

    it.change_rows(change)


def draws_that_never_were(it: Touched) -> None:
    def renumbered(row_id: str) -> str:
        prompt_id, number = row_id.rsplit("_gen_", 1)
        return f"{prompt_id}_gen_{int(number) + 100_000}"

    def change(rows: Rows) -> None:
        for row in rows:
            row["generation_idx"] += 100_000
            row["id"] = renumbered(row["id"])
            row["is_prefix_of"] = row["is_prefix_of"] and renumbered(row["is_prefix_of"])

    it.change_rows(change)


def likelier_under_the_law(it: Touched) -> None:
    it.change_rows(lambda rows: whole_drawn(rows).update(logprob_sampling=-0.001))


def another_run(it: Touched) -> None:
    it.change_rows(in_every_row(run="another run"))


def a_later_checkpoint(it: Touched) -> None:
    it.change_rows(in_every_row(checkpoint="checkpoint_e9"))


def a_better_judge(it: Touched) -> None:
    it.change_rows(in_every_row(grader_model="anthropic/best"))


def better_reasons(it: Touched) -> None:
    it.change_rows(in_every_row(grader_reasoning="because"))


def another_source_dataset(it: Touched) -> None:
    it.change_rows(in_every_row(metadata={"source_dataset": "other"}))


def metadata_invented(it: Touched) -> None:
    it.change_rows(in_every_row(metadata_json='{"population": 14}'))


def rejects_less_likely(it: Touched) -> None:
    """With all that follows from it."""

    def change(rows: Rows) -> None:
        for row in rows:
            row["token_logprobs"] = [-5.0] * len(row["token_logprobs"])
            row["logprob"] = -5.0 * row["num_completion_tokens"]

    it.change_table(it.directory / REJECTS_FILE, change)
    _copy_logprobs_to_json(it)


def rejects_less_likely_under_the_law(it: Touched) -> None:
    it.change_table(it.directory / REJECTS_FILE, in_every_row(logprob_sampling=-9.0))
    _copy_logprobs_to_json(it)


def _copy_logprobs_to_json(it: Touched) -> None:
    path = it.directory / "non_equivalent_completions.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row, reject in zip(rows, pq.read_table(it.directory / REJECTS_FILE).to_pylist(), strict=True):
        row.update({name: reject[name] for name in ("logprob", "logprob_sampling")})
    write_json(path, rows)


def rejects_of_other_digests(it: Touched) -> None:
    names = ("weights_digest", "tokenizer_digest", "grader_digest")
    it.change_table(it.directory / REJECTS_FILE, in_every_row(**dict.fromkeys(names, "0" * 64)))


def rejects_of_another_run(it: Touched) -> None:
    it.change_table(it.directory / REJECTS_FILE, in_every_row(run="another run"))


def another_logprob_in_json_alone(it: Touched) -> None:
    path = it.directory / "non_equivalent_completions.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    in_every_row(logprob=-1.0)(rows)
    write_json(path, rows)


def another_reason_to_leave_out(it: Touched) -> None:
    path = it.directory / "left_out.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    in_every_row(reasoning="nobody knows")(rows)
    write_json(path, rows)


def better_rate_of_draws(it: Touched) -> None:
    it.change_summary(draw_equivalence_rate=0.999)


def fewer_graded(it: Touched) -> None:
    it.change_summary(num_graded=1)


def more_encoded_again(it: Touched) -> None:
    it.change_summary(num_reencoded=7_000)


def covered_in_the_summary(it: Touched) -> None:
    it.change_summary(covered_mass=0.2)


TAMPERINGS: list[tuple[Callable[[Touched], None], set[Check]]] = [
    (parquet_alone, {Check.PARQUET}),
    (parquet_shorter, {Check.PARQUET}),
    (parquet_with_metadata, {Check.PARQUET}),
    (forbidden_column, {Check.SCHEMA}),
    (columns_in_another_order, {Check.SCHEMA}),
    (narrower_type, {Check.SCHEMA}),
    (null_where_there_must_be_none, {Check.SCHEMA, Check.WEIGHTS, Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (arrow_cut_short, {Check.SCHEMA}),
    (hostile_functions, {Check.FUNCTIONS}),
    (id_twice, {Check.IDS, Check.ASSEMBLY}),
    (id_of_another_form, {Check.IDS, Check.ASSEMBLY}),
    (prompt_id_from_a_hash_of_the_prompt, {Check.PROMPTS, Check.SAMPLES, Check.DRAWS, Check.ASSEMBLY}),
    (two_rows_swapped, {Check.ORDER, Check.ASSEMBLY}),
    (prompts_in_another_order, {Check.ORDER, Check.ASSEMBLY}),
    (another_reference, {Check.PROMPTS, Check.ASSEMBLY}),
    (nicer_prompts_everywhere, {Check.SOURCE, Check.SAMPLES, Check.PROMPT_TOKENS, Check.ASSEMBLY}),
    (prompt_that_the_source_lacks, {Check.SOURCE}),
    (mask_with_a_hole, {Check.MASK, Check.ASSEMBLY}),
    (padded, {Check.MASK, Check.LABELS, Check.ASSEMBLY}),
    (prompt_labelled, {Check.LABELS, Check.PREFIXES, Check.ASSEMBLY}),
    (labels_shifted, {Check.LABELS, Check.ASSEMBLY}),
    (eos_appended, {Check.LABELS, Check.EOS, Check.MODEL, Check.ASSEMBLY}),
    (no_bos, {Check.PROMPT_TOKENS, Check.MODEL, Check.ASSEMBLY}),
    (better_answer, {Check.COMPLETION, Check.TRIMMING, Check.SAMPLES, Check.ASSEMBLY}),
    (space_lost, {Check.COMPLETION, Check.TRIMMING, Check.ASSEMBLY}),
    (encoded_again_called_drawn, {Check.LABELS, Check.LOGPROBS, Check.SUMMARY, Check.ASSEMBLY}),
    (drawn_called_encoded_again, {Check.COMPLETION, Check.SUMMARY, Check.ASSEMBLY}),
    (likelier, {Check.SAMPLES, Check.MODEL, Check.ASSEMBLY}),
    (likelier_in_samples_too, {Check.MODEL}),
    (logprob_alone, {Check.LOGPROBS, Check.WEIGHTS, Check.ASSEMBLY}),
    (positive_logprob, {Check.LOGPROBS, Check.ASSEMBLY}),
    (uniform_weights, {Check.WEIGHTS, Check.ASSEMBLY}),
    (weight_moved_from_a_row_without_logprob, {Check.WEIGHTS, Check.ASSEMBLY}),
    (half_the_weights, {Check.WEIGHTS, Check.ASSEMBLY}),
    (prefix_mark_lost, {Check.PREFIXES, Check.ASSEMBLY}),
    (one_more_draw, {Check.DRAWS, Check.ASSEMBLY}),
    (row_lost, {Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (reject_lost, {Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (reject_lost_in_parquet_alone, {Check.REJECTS, Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (reject_kept, {Check.REJECTS, Check.WEIGHTS, Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (left_out_lost, {Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (better_rate, {Check.SUMMARY}),
    (fewer_draws_in_all_figures, {Check.DRAWS, Check.SUMMARY, Check.ASSEMBLY}),
    (tokenizer_digest, {Check.TOKENIZER_DIGEST}),
    (weights_digest, {Check.WEIGHTS_DIGEST}),
    (grader_digest, {Check.GRADER_DIGEST}),
    (entropies_swapped, {Check.PROMPTS, Check.ASSEMBLY}),
    (entropy_invented, {Check.ASSEMBLY}),
    (nothing_unseen, {Check.ASSEMBLY}),
    (masses_above_their_wholes, {Check.PROMPTS, Check.ASSEMBLY}),
    (masses_invented, {Check.ASSEMBLY}),
    (greedy_completion_invented, {Check.ASSEMBLY}),
    (called_enumerated, {Check.SUMMARY, Check.ASSEMBLY}),
    (draws_moved_between_two_rows, {Check.ASSEMBLY}),
    (draws_that_never_were, {Check.IDS, Check.ASSEMBLY}),
    (likelier_under_the_law, {Check.ASSEMBLY}),
    (another_run, {Check.ORIGIN, Check.ASSEMBLY}),
    (a_later_checkpoint, {Check.ORIGIN, Check.ASSEMBLY}),
    (a_better_judge, {Check.ORIGIN, Check.ASSEMBLY}),
    (better_reasons, {Check.ASSEMBLY}),
    (another_source_dataset, {Check.ASSEMBLY}),
    (metadata_invented, {Check.ASSEMBLY}),
    (rejects_less_likely, {Check.SAMPLES, Check.ASSEMBLY}),
    (rejects_less_likely_under_the_law, {Check.ASSEMBLY}),
    (rejects_of_other_digests, {Check.TOKENIZER_DIGEST, Check.WEIGHTS_DIGEST, Check.GRADER_DIGEST}),
    (rejects_of_another_run, {Check.ORIGIN, Check.ASSEMBLY}),
    (another_logprob_in_json_alone, {Check.REJECTS, Check.ASSEMBLY}),
    (another_reason_to_leave_out, {Check.ASSEMBLY}),
    (better_rate_of_draws, {Check.SUMMARY, Check.ASSEMBLY}),
    (fewer_graded, {Check.SUMMARY}),
    (more_encoded_again, {Check.SUMMARY}),
    (covered_in_the_summary, {Check.SUMMARY}),
]

# Where what was drawn has rows that begin with each other, which is for the machine's rounding to say.
MAY_FAIL_TOO = {two_rows_swapped: {Check.PREFIXES}, encoded_again_called_drawn: {Check.PREFIXES}}
