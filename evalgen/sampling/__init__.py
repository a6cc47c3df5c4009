"""Draws completions from a model: `tree` shares every prefix between draws, `independent` is its specification."""
