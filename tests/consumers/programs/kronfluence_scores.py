"""Pairwise influence scores of a sampled dataset's rows on training documents, as a user of kronfluence computes them.

Runs in the environment `kronfluence`. Writes a `.npy` file of shape (rows of the dataset, documents), both in the order
of their sets. A positive score says that the document made the row's completion more probable.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from kronfluence.utils.dataset import DataLoaderKwargs
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

IGNORED_LABEL = -100
COLUMNS = ["input_ids", "labels", "attention_mask"]


class CompletionTask(Task):
    """The loss is the negative log-probability of the labelled tokens: of a completion, or of a whole document."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        if sample:  # the labels that the model itself would give: of the true Fisher
            with torch.no_grad():
                drawn = torch.distributions.Categorical(logits=logits).sample()
            labels = torch.where(labels == IGNORED_LABEL, labels, drawn)
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )

    def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
        return self.compute_train_loss(batch, model)

    def get_attention_mask(self, batch: Any) -> Tensor:
        mask: Tensor = batch["attention_mask"]
        return mask


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)  # of the sampled labels
    task = CompletionTask()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    analyzer = Analyzer(
        analysis_name="scores",
        model=prepare_model(model, task),
        task=task,
        cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
        output_dir=str(arguments.work_dir),
    )
    analyzer.set_dataloader_kwargs(
        DataLoaderKwargs(collate_fn=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED_LABEL))
    )
    documents = token_columns(arguments.documents)
    analyzer.fit_all_factors(
        factors_name="factors",
        dataset=documents,
        per_device_batch_size=arguments.batch_size,
        factor_args=FactorArguments(strategy=arguments.strategy),
        overwrite_output_dir=True,
    )
    analyzer.compute_pairwise_scores(
        scores_name="scores",
        factors_name="factors",
        query_dataset=token_columns(arguments.rows),
        train_dataset=documents,
        per_device_query_batch_size=arguments.batch_size,
        per_device_train_batch_size=arguments.batch_size,
        # None: a tenth of the mean eigenvalue, as in Grosse et al. 2023 (arXiv:2308.03296).
        score_args=ScoreArguments(damping_factor=None),
        overwrite_output_dir=True,
    )
    np.save(arguments.scores, analyzer.load_pairwise_scores(scores_name="scores")["all_modules"].numpy())


def token_columns(directory: Path) -> Dataset:
    dataset = load_from_disk(str(directory))
    assert isinstance(dataset, Dataset)
    return dataset.select_columns(COLUMNS)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("model", "tokenizer", "rows", "documents", "scores", "work_dir"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--strategy", choices=("identity", "diagonal", "kfac", "ekfac"), default="ekfac")
    parser.add_argument("--batch_size", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    main()
