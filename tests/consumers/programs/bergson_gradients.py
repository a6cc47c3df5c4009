"""Gradients of a bergson index as a `.npz` file, by module: arrays of shape (gradients, size of the module).

Runs in the environment `bergson`, whose index format is its own affair.
"""

from __future__ import annotations

import sys

import numpy as np
from bergson.data import load_module_gradients


def main(index: str, target: str) -> None:
    gradients = load_module_gradients(index)
    np.savez(target, **{name: gradients[name] for name in gradients})


if __name__ == "__main__":
    main(*sys.argv[1:])
