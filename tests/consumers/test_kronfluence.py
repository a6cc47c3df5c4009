"""kronfluence takes the rows and the run's training documents through the collator of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from datasets import load_from_disk

from tests.consumers.conftest import Sampled
from tests.consumers.gradients import linear_weights, load_model, loss_gradients
from tests.consumers.processes import run_program

Scores = np.ndarray


def scores(sampled: Sampled, strategy: str, work_dir: Path) -> Scores:
    target = work_dir / "scores.npy"
    paths = {
        "model": sampled.checkpoint,
        "tokenizer": sampled.tokenizer,
        "rows": sampled.directory / "eval_dataset",
        "documents": sampled.documents,
        "scores": target,
        "work_dir": work_dir / "kronfluence",
    }
    flags = [part for name, path in paths.items() for part in (f"--{name}", path)]
    run_program("kronfluence", "kronfluence_scores", *flags, "--strategy", strategy, home=work_dir)
    loaded: Scores = np.load(target)
    return loaded


def test_its_dot_products_are_those_of_torch(sampled: Sampled, tmp_path: Path) -> None:
    model, documents = load_model(sampled.checkpoint), load_from_disk(str(sampled.documents))
    weights = linear_weights(model)
    of_rows, of_documents = (loss_gradients(model, weights, rows) for rows in (sampled.rows, documents))
    expected = torch.stack([of_rows[name] @ of_documents[name].T for name in of_rows]).sum(0)
    actual = torch.from_numpy(scores(sampled, "identity", tmp_path))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_ekfac_scores_every_row_on_every_document(sampled: Sampled, tmp_path: Path) -> None:
    documents = load_from_disk(str(sampled.documents))
    actual = scores(sampled, "ekfac", tmp_path)
    assert actual.shape == (len(sampled.rows), len(documents))
    assert np.isfinite(actual).all()
