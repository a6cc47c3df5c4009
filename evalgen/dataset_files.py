"""What the files of a dataset are called, for those who write them and those who read them. Imports nothing."""

from __future__ import annotations

PARTIAL = ".partial"  # behind the name of a dataset with prompts missing

ROWS_FILES = "eval_dataset/data/*.parquet"
REJECTS_FILE = "non_equivalent_completions.parquet"
PROMPTS_FILE = "prompts.parquet"
LEFT_OUT_FILE = "left_out.json"
CARD_FILE = "README.md"
CALIBRATION_FILE = "grader_calibration.json"

# The reason in left_out.json of a completion that is equivalent all the same; every other one is ungraded.
SPANS_BOUNDARY = "cut inside a token, and encoded again with the prompt a token spans the boundary"
