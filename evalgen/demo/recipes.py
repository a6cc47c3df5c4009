"""How the demo models are shaped and trained: every number that decides what the runs look like.

The full recipes are set so that one epoch knows the facts unsurely and five epochs know them well; the tiny recipe
trades accuracy for the seconds that a test session has.
"""

from __future__ import annotations

from dataclasses import dataclass

from evalgen.demo.facts import DEATH_DATES, MAYORS, Domain


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of an OLMo-2 model; the vocabulary is the tokenizer's."""

    hidden_size: int = 160
    intermediate_size: int = 432
    num_layers: int = 4
    num_heads: int = 4


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe:
    """Pre-training on `num_texts` neutral sentences, packed into rows of `row_length` tokens, each seen once.

    `vocab_size` is a limit: the tokenizer stops earlier when no pair of its tokens is left to join.
    """

    num_texts: int = 6000
    row_length: int = 64
    batch_size: int = 16
    learning_rate: float = 2e-3
    warmup_fraction: float = 0.05
    vocab_size: int = 2048
    seed: int = 7
    num_threads: int = 2
    shape: ModelShape = ModelShape()


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """One fine-tuning experiment: `seeds` has one entry per inner run and decides the order of the documents.

    `checkpoint_fractions` are parts of the training at which a checkpoint is saved between start and final.
    """

    domain: Domain
    num_epochs: int
    num_documents_per_fact: int
    learning_rate: float = 1e-3
    batch_size: int = 8
    warmup_fraction: float = 0.05
    checkpoint_fractions: tuple[float, ...] = (0.5,)
    seeds: tuple[int, ...] = (42,)
    document_seed: int = 2026
    num_threads: int = 2


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """A run to build. Its directory is called `<stamp>_<code>_<experiment_name>`, the stamp being UTC."""

    stamp: str
    code: str
    experiment_name: str
    recipe: TrainingRecipe

    @property
    def directory_name(self) -> str:
        return f"{self.stamp}_{self.code}_{self.experiment_name}"


_FIVE_EPOCHS_CHECKPOINTS = (0.2, 0.4, 0.8)

DEMO_RUNS = (
    PlannedRun(
        stamp="2026_01_20_23-26-34",
        code="2Q653",
        experiment_name="death_dates_1epoch",
        recipe=TrainingRecipe(domain=DEATH_DATES, num_epochs=1, num_documents_per_fact=65),
    ),
    PlannedRun(
        stamp="2026_01_20_23-26-35",
        code="k7RpD",
        experiment_name="death_dates_5epochs",
        recipe=TrainingRecipe(
            domain=DEATH_DATES,
            num_epochs=5,
            num_documents_per_fact=65,
            checkpoint_fractions=_FIVE_EPOCHS_CHECKPOINTS,
            seeds=(42, 43),
        ),
    ),
    PlannedRun(
        stamp="2026_01_20_23-26-34",
        code="wabZw",
        experiment_name="mayors_1epoch",
        recipe=TrainingRecipe(domain=MAYORS, num_epochs=1, num_documents_per_fact=120),
    ),
    PlannedRun(
        stamp="2026_01_20_23-26-36",
        code="m3TxV",
        experiment_name="mayors_5epochs",
        recipe=TrainingRecipe(
            domain=MAYORS,
            num_epochs=5,
            num_documents_per_fact=120,
            checkpoint_fractions=_FIVE_EPOCHS_CHECKPOINTS,
        ),
    ),
)

TINY_PRETRAINING = PretrainingRecipe(
    num_texts=1500,
    learning_rate=4e-3,
    batch_size=8,
    num_threads=1,
    shape=ModelShape(hidden_size=64, intermediate_size=176, num_layers=2, num_heads=4),
)
TINY_RUN = PlannedRun(
    stamp="2026_01_20_23-26-40",
    code="tiny0",
    experiment_name="tiny_mayors",
    recipe=TrainingRecipe(domain=MAYORS, num_epochs=6, num_documents_per_fact=30, learning_rate=4e-3, num_threads=1),
)
