"""Demo fine-tuning runs, really trained: tiny OLMo-2 models on invented facts, in the layout of the seed runs.

`python -m evalgen.demo --output_dir outputs` builds the four runs that the README's commands read.
"""

from evalgen.demo.build import build_base, build_demo, build_run, build_tiny_run
from evalgen.demo.recipes import DEMO_RUNS, ModelShape, PlannedRun, PretrainingRecipe, TrainingRecipe

__all__ = [
    "DEMO_RUNS",
    "ModelShape",
    "PlannedRun",
    "PretrainingRecipe",
    "TrainingRecipe",
    "build_base",
    "build_demo",
    "build_run",
    "build_tiny_run",
]
