"""Tables of `samples/*.parquet` as a whole: their rows by prompt, and those of several units in one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

UNDRAWN = np.iinfo(np.int64).max  # in place of the draws of a sequence that has none: after all others

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class SamplesByPrompt:
    """The rows of a unit, those of each prompt together."""

    def __init__(self, samples: pa.Table) -> None:
        prompts = samples["prompt_id"].combine_chunks().dictionary_encode()
        numbers = prompts.indices.to_numpy()
        self._samples = samples.take(np.argsort(numbers, kind="stable"))
        bounds = np.concatenate([[0], np.cumsum(np.bincount(numbers))]).tolist()
        self._bounds = dict(zip(prompts.dictionary.to_pylist(), pairwise(bounds), strict=True))

    def of(self, prompt_id: str) -> pa.Table:
        """The prompt's rows in the order of the unit; none where enumeration found nothing."""
        start, stop = self._bounds.get(prompt_id, (0, 0))
        return self._samples.slice(start, stop - start)


def rows_of_prompts(samples: pa.Table, prompt_ids: Sequence[str]) -> pa.Table:
    return samples.filter(pc.is_in(samples["prompt_id"], pa.array(prompt_ids, pa.string())))


def drawn_or_enumerated(samples: pa.Table) -> pa.Table:
    """Without greedy sequences that no draw gave."""
    return samples.filter(pc.fill_null(pc.greater(samples["sample_count"], 0), True))


def united_samples(tables: Sequence[pa.Table]) -> pa.Table:
    """The samples of several units as one unit has them: a row for each prompt and sequence, with all of its draws.

    By prompt of first appearance, then by first draw, what was not drawn last. A draw that two units have counts once.
    Log-probabilities are those of the first draw: two units may differ in the last bits. What only one of them says of
    `is_greedy` holds.
    """
    if any(table["sample_count"].null_count for table in tables):
        return tables[0]  # enumerated: each of them has everything
    table = pa.concat_tables(tables)
    prompts = _numbers(table["prompt_id"])
    token_ids = _numbers(_as_binary(table["token_ids"]))
    sequences = prompts * (len(table) + 1) + token_ids
    draws, lengths = _flat(table["generation_indices"])
    undrawn = np.flatnonzero(lengths == 0)
    draws = np.concatenate([draws, np.full(len(undrawn), UNDRAWN)])
    rows = np.concatenate([np.repeat(np.arange(len(table)), lengths), undrawn])
    order = np.lexsort((draws, sequences[rows]))
    draws, rows = draws[order], rows[order]
    is_new_sequence = _differs(sequences[rows])
    says_greedy = table["is_greedy"].cast(pa.int8()).fill_null(-1).to_numpy()
    is_greedy = np.maximum.reduceat(says_greedy[rows], np.flatnonzero(is_new_sequence))  # of each sequence
    is_new = is_new_sequence | _differs(draws)
    draws, rows, (starts,) = draws[is_new], rows[is_new], np.nonzero(is_new_sequence[is_new])
    is_drawn = draws != UNDRAWN
    counts = np.add.reduceat(is_drawn, starts, dtype=np.int64)
    bounds = np.concatenate([[0], np.cumsum(counts)])
    indices = pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), pa.array(draws[is_drawn], pa.int32()))
    united = table.take(rows[starts])
    united = _with_column(united, "sample_count", pa.array(counts, pa.int64()))
    united = _with_column(united, "generation_indices", indices)
    united = _with_column(united, "is_greedy", pa.array(is_greedy == 1, mask=is_greedy < 0))
    return united.take(np.lexsort((draws[starts], prompts[rows[starts]])))


def _numbers(column: pa.ChunkedArray | pa.Array) -> Numbers:
    """Equal values as equal numbers, in the order in which they first appear."""
    encoded = pa.chunked_array(column).combine_chunks().dictionary_encode()
    numbers: Numbers = encoded.indices.to_numpy().astype(np.int64)
    return numbers


def _flat(lists: pa.ChunkedArray) -> tuple[Numbers, Numbers]:
    """All values, one list after the other, and the length of each list."""
    values: Numbers = pc.list_flatten(lists).to_numpy().astype(np.int64)
    lengths: Numbers = pc.list_value_length(lists).to_numpy()
    return values, lengths


def _as_binary(lists: pa.ChunkedArray) -> pa.Array:
    """Each list of int32 as bytes: lists themselves cannot be compared in Arrow."""
    values = pc.list_flatten(lists).to_numpy()
    _, lengths = _flat(lists)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * values.itemsize
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(pa.large_binary(), len(lists), buffers)


def _differs(values: Numbers) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where a value is not the one before it."""
    return np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]


def _with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)
