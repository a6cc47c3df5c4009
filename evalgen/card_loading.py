"""How a dataset is loaded by those who use it: snippets for its card, which run as they stand beside the dataset."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """A piece of code for one library."""

    title: str
    language: str  # of the block of code
    code: str


def snippets(name: str, has_rejects: bool) -> list[Snippet]:
    """For a dataset in the directory `name`."""
    python = {
        "evalgen": _evalgen(name),
        "datasets": _datasets(name, has_rejects),
        "pandas": _pandas(name),
        "DuckDB": _duckdb(name),
        "Ray Data": _ray_data(name),
        "kronfluence": _kronfluence(name),
    }
    found = [Snippet(title=title, language="python", code=code) for title, code in python.items()]
    return [*found, Snippet(title="bergson", language="bash", code=_bergson(name))]


def _evalgen(name: str) -> str:
    return f"""from evalgen.eval_dataset import EvalDataset

eval_dataset = EvalDataset.load({_literal(name)})
for row in eval_dataset.dataset.select(range(min(5, len(eval_dataset.dataset)))):
    print(repr(row["prompt"]), repr(row["completion"]), row["sample_count"], row["weight"])"""


def _datasets(name: str, has_rejects: bool) -> str:
    of_rejects = f'\nrejects = load_dataset({_literal(name)}, "rejects", split="train")' if has_rejects else ""
    return f"""from datasets import load_dataset, load_from_disk

rows = load_from_disk({_literal(f"{name}/eval_dataset")})  # of datasets 4 and later; the next lines, of 3 too
# By the head of this card; of a repository on the Hub give its name in place of the directory.
rows = load_dataset({_literal(name)}, split="train"){of_rejects}
prompts = load_dataset({_literal(name)}, "prompts", split="train")"""


def _pandas(name: str) -> str:
    return f"""import pandas as pd

rows = pd.read_parquet({_literal(f"{name}/eval_dataset/data/0000.parquet")})
print(rows.groupby("prompt", sort=False)[["sample_count", "weight"]].sum())"""


def _duckdb(name: str) -> str:
    return f"""import duckdb

path = {_literal(f"{name}/eval_dataset/data/0000.parquet")}
query = "SELECT prompt, completion, weight FROM read_parquet(?) ORDER BY weight DESC LIMIT 5"
print(duckdb.execute(query, [path]).fetchall())"""


def _ray_data(name: str) -> str:
    return f"""import ray

rows = ray.data.read_parquet({_literal(f"{name}/eval_dataset/data/0000.parquet")})
print(rows.select_columns(["prompt", "completion", "weight"]).take(5))"""


def _kronfluence(name: str) -> str:
    return f"""# analyzer: a kronfluence.analyzer.Analyzer with fitted factors, whose task sums over a row's labels
# documents: the training documents, with the same three columns; tokenizer: that of the run
import torch
from datasets import load_from_disk
from kronfluence.utils.dataset import DataLoaderKwargs
from transformers import DataCollatorForSeq2Seq

rows = load_from_disk({_literal(f"{name}/eval_dataset")})
collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
analyzer.set_dataloader_kwargs(DataLoaderKwargs(collate_fn=collator))
scores = analyzer.compute_pairwise_scores(
    scores_name="sampled",
    factors_name="factors",
    query_dataset=rows.select_columns(["input_ids", "labels", "attention_mask"]),
    train_dataset=documents,
    per_device_query_batch_size=8,
)["all_modules"]  # (rows, documents)
weighted = torch.tensor(rows["weight"])[:, None] * scores  # added up over the rows of a prompt: of its meaning"""


def _bergson(name: str) -> str:
    return f"""# CHECKPOINT: directory of the checkpoint; TOKENIZER: of its tokenizer
bergson build weighted_gradient --model "$CHECKPOINT" --tokenizer "$TOKENIZER" \\
  --dataset {shlex.quote(f"{name}/eval_dataset")} --projection_dim 0 --token_batch_size 256 \\
  --advantage_column weight --aggregation sum"""


def _literal(text: str) -> str:
    """As a string of Python, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
