"""Collects the queries of a run: those of a JSON file first, then those extracted from its eval datasets."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from evalgen.errors import InputError
from evalgen.records import Query

log = logging.getLogger(__name__)

TEXT_TYPES = (pa.string(), pa.large_string())
NUMBER_TYPES = (pa.int32(), pa.int64())  # ids that are numbers are carried as their digits


class _JsonQuery(BaseModel):
    """One entry of a query file, as users write it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str
    id: str | None = None
    original_completion: str | None = None
    metadata: dict[str, Any] = {}


_QUERY_LIST = TypeAdapter(list[_JsonQuery])


def collect_queries(
    query_json_path: str | None, eval_datasets: Path | None, patterns: tuple[str, ...]
) -> tuple[Query, ...]:
    """Every query of one inner run, in order, with ids unique and prompts not empty.

    A query without a reference cannot be judged: it is left out, with a warning, before anything is sampled.

    Raises:
        InputError: no query at all, a pattern that matches nothing, malformed or duplicate queries.
    """
    queries = _from_json(Path(query_json_path)) if query_json_path else []
    if patterns:
        queries += _from_eval_datasets(eval_datasets, patterns)
    if not query_json_path and not patterns:
        raise InputError("no queries: give --extract_from_eval_datasets REGEX, or --query_json_path FILE")
    for query in queries:
        if not query.id:
            raise InputError(f"a query ({_origin(query)}) has an empty id; give it one, or leave the key out")
        if not query.prompt.strip():
            raise InputError(f"query {query.id!r} ({_origin(query)}) has an empty prompt")
    judged = [query for query in queries if query.reference.strip()]
    if len(judged) < len(queries):
        log.warning("%d of %d queries have no reference and are left out", len(queries) - len(judged), len(queries))
    if not queries:
        raise InputError(f"no queries: what matches {', '.join(patterns)} has no rows")
    if not judged:
        raise InputError(f"no queries left: none of {len(queries)} has a reference (completion) to judge against")
    return _unique(judged)


def _from_json(path: Path) -> list[Query]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InputError(f"query_json_path: cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"query_json_path: {path} is not valid JSON: {error}") from None
    if isinstance(content, dict):
        if "queries" not in content:
            raise InputError(
                f'query_json_path: expected a list or {{"queries": [...]}} in {path}, found {list(content)}'
            )
        content = content["queries"]
    try:
        entries = _QUERY_LIST.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        problem = first["msg"].lower()
        if first["type"] == "model_type":
            problem = "expected an object with prompt, original_completion, id and metadata"
        raise InputError(f"query_json_path: {path}: queries{where}: {problem}") from None
    if not entries:
        raise InputError(f"query_json_path: {path} has no queries")
    return [_from_entry(entry, path) for entry in entries]


def _from_entry(entry: _JsonQuery, path: Path) -> Query:
    source_dataset = entry.metadata.get("source_dataset") or ""
    if not isinstance(source_dataset, str):
        raise InputError(f"query_json_path: {path}: metadata.source_dataset: expected text, found {source_dataset!r}")
    try:
        json.dumps(entry.model_dump(), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"query_json_path: {path}: the query with prompt {entry.prompt!r} has half a surrogate pair, which is no "
            "character; mend the program that wrote the file"
        ) from None
    except ValueError:
        raise InputError(
            f"query_json_path: {path}: the query with prompt {entry.prompt!r} has a number that is too large; put it "
            "in quotes"
        ) from None
    return Query(
        id=_id_or_digest(entry.id, entry.prompt),
        prompt=entry.prompt,
        reference=entry.original_completion or "",
        source_dataset=source_dataset,
        metadata={key: value for key, value in entry.metadata.items() if key != "source_dataset"},
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not in the JSON standard")


def _from_eval_datasets(directory: Path | None, patterns: tuple[str, ...]) -> list[Query]:
    if directory is None or not directory.is_dir():
        raise InputError(f"extract_from_eval_datasets: the run has no eval_datasets directory ({directory or 'none'})")
    names = sorted(d.name for d in directory.iterdir() if (d / "eval_dataset").is_dir())
    queries: list[Query] = []
    for name in _matching(names, patterns, directory):
        queries += _read_eval_dataset(directory / name / "eval_dataset", name)
    return queries


def _matching(names: list[str], patterns: tuple[str, ...], directory: Path) -> list[str]:
    """Names that some pattern is found in, each once, in the order of the patterns."""
    chosen: list[str] = []
    for pattern in patterns:
        try:
            found = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise InputError(f"extract_from_eval_datasets: {pattern!r} is not a regular expression: {error}") from None
        if not found:
            raise InputError(
                f"extract_from_eval_datasets: {pattern!r} matches none of the {len(names)} eval datasets "
                f"in {directory}: {', '.join(names)}"
            )
        if len(found) > 1:
            log.warning("pattern %r matched %d eval datasets: %s", pattern, len(found), ", ".join(found))
        else:
            log.info("pattern %r matched eval dataset %s", pattern, found[0])
        chosen += [name for name in found if name not in chosen]
    return chosen


def _read_eval_dataset(path: Path, name: str) -> list[Query]:
    """The rows of a saved dataset. Its eval_functions.pkl is never opened: it is someone else's code."""
    try:
        table = _saved_table(path)
    except Exception as error:  # whatever json and Arrow make of a broken directory
        raise InputError(f"eval dataset {path} cannot be read: {' '.join(str(error).split())}") from None
    if "prompt" not in table.column_names:
        raise InputError(f"eval dataset {path} has no column 'prompt'; columns found: {table.column_names}")
    given = [name for name in ("id", "prompt", "completion") if name in table.column_names]
    columns = [name for name in given if name == "prompt" or table.schema.field(name).type != pa.null()]
    for column in columns:
        found, allowed = table.schema.field(column).type, TEXT_TYPES + (NUMBER_TYPES if column == "id" else ())
        if found not in allowed:
            raise InputError(f"eval dataset {path}: column {column!r} is {found}, expected text")
    try:
        rows = table.select(columns).to_pylist()
    except UnicodeDecodeError as error:
        raise InputError(f"eval dataset {path} has a text that is not UTF-8: {error}") from None
    if any(row["prompt"] is None for row in rows):
        raise InputError(f"eval dataset {path}: a prompt is null, expected text")
    return [
        Query(
            id=_id_or_digest(None if row.get("id") is None else str(row["id"]), row["prompt"]),
            prompt=row["prompt"],
            reference=row.get("completion") or "",
            source_dataset=name,
        )
        for row in rows
    ]


def _saved_table(path: Path) -> pa.Table:
    """What `save_to_disk` of any version of `datasets` wrote, as Arrow has it: the library takes a second to import."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    files = [path / file["filename"] for file in state["_data_files"]]
    if not files:  # a dataset without rows, of which Arrow knows no columns
        return pa.table({"prompt": pa.array([], pa.string())})
    return pa.concat_tables(pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files)


def _id_or_digest(given: str | None, prompt: str) -> str:
    """The query's own id, untouched; without one, a digest of the prompt, so that order does not matter."""
    return given if given is not None else hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _unique(queries: Iterable[Query]) -> tuple[Query, ...]:
    """The queries, but of those without an id that ask the same only the first."""
    by_id: dict[str, list[Query]] = {}
    for query in queries:
        by_id.setdefault(query.id, []).append(query)
    num_repeated = 0
    for query_id, equal in by_id.items():
        if len(equal) == 1:
            continue
        origins = ", ".join(map(_origin, equal))
        first = equal[0]
        if query_id != _id_or_digest(None, first.prompt):
            raise InputError(
                f"duplicate query id {query_id!r} ({len(equal)} times: {origins}); ids must be unique in a run"
            )
        if len({query.reference for query in equal}) > 1:
            raise InputError(
                f"prompt {first.prompt!r} stands {len(equal)} times without an id, with different references "
                f"({origins}); give each an id"
            )
        num_repeated += len(equal) - 1
    if num_repeated:
        log.warning("%d queries without an id repeat the prompt and reference of another: left out", num_repeated)
    return tuple(equal[0] for equal in by_id.values())


def _origin(query: Query) -> str:
    return f"eval dataset {query.source_dataset}" if query.source_dataset else "the query file"
