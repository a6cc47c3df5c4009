"""Reads a dataset as one of its readers' users would, and writes what they see as an Arrow file.

Runs in the environment of the reader: `python read_rows.py READER SOURCE TARGET`.
"""

from __future__ import annotations

import sys

import pyarrow as pa


def with_datasets_from_disk(source: str) -> pa.Table:
    from datasets import load_from_disk

    return load_from_disk(source).with_format("arrow")[:]


def with_datasets_from_parquet(source: str) -> pa.Table:
    from datasets import load_dataset

    return load_dataset("parquet", data_files=source, split="train").with_format("arrow")[:]


def with_pandas(source: str) -> pa.Table:
    import pandas as pd

    return pa.Table.from_pandas(pd.read_parquet(source, dtype_backend="pyarrow"), preserve_index=False)


def with_duckdb(source: str) -> pa.Table:
    import duckdb

    return duckdb.execute("SELECT * FROM read_parquet(?)", [source]).to_arrow_table()


def with_ray_data(source: str) -> pa.Table:
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    return pa.concat_tables(ray.get(ray.data.read_parquet(source).to_arrow_refs()))


READERS = {
    reader.__name__.removeprefix("with_"): reader
    for reader in (with_datasets_from_disk, with_datasets_from_parquet, with_pandas, with_duckdb, with_ray_data)
}


def main(reader: str, source: str, target: str) -> None:
    table = READERS[reader](source).replace_schema_metadata()
    with pa.ipc.new_file(target, table.schema) as file:
        file.write_table(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
