"""The digest of a checkpoint's weights: of the very files that are loaded, every byte of them, and of nothing else."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from evalgen.sampling.weights_digest import WeightsDigest, weight_files

NAMES = st.from_regex(r"[a-z0-9-]{1,8}\.safetensors", fullmatch=True)
FILES = st.dictionaries(NAMES, st.binary(max_size=3_000), min_size=1, max_size=7)
ON_DISK = settings(max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(files: Mapping[str, bytes], directory: Path) -> list[Path]:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return [directory / name for name in files]


def digest_of(files: Mapping[str, bytes], directory: Path) -> str:
    return WeightsDigest(written(files, directory)).result()


@ON_DISK
@given(files=FILES, data=st.data())
def test_a_copy_has_the_same_digest_in_whatever_order_its_files_are_read(
    files: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert digest_of(files, tmp_path / "one") == expected
    paths = written(files, tmp_path / "copy")
    assert WeightsDigest(data.draw(st.permutations(paths))).result() == expected


@ON_DISK
@given(files=FILES, data=st.data())
def test_a_bit_more_or_less_or_another_name_is_another_digest(
    files: dict[str, bytes], data: st.DataObject, tmp_path: Path
) -> None:
    before = digest_of(files, tmp_path / "before")
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    changed = dict(files)
    match data.draw(st.sampled_from(["flip", "cut", "append", "rename", "drop", "swap"])):
        case "flip" if content:
            bit = data.draw(st.integers(0, 8 * len(content) - 1))
            content[bit // 8] ^= 1 << bit % 8
            changed[name] = bytes(content)
        case "cut" if content:
            changed[name] = bytes(content[:-1])
        case "rename":
            changed[data.draw(NAMES.filter(lambda new: new not in files))] = changed.pop(name)
        case "drop":
            del changed[name]
        case "swap" if len(set(files.values())) > 1:
            other = next(other for other in sorted(files) if files[other] != files[name])
            changed[name], changed[other] = files[other], files[name]
        case _:
            changed[name] = bytes(content) + b"\0"
    assert digest_of(changed, tmp_path / "after") != before


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_it_is_what_sha256sum_prints(tmp_path: Path) -> None:
    files = {f"model-{n:05d}-of-00011.safetensors": bytes([n]) * 100_000 for n in range(1, 12)}
    command = "LC_ALL=C; export LC_ALL; sha256sum *.safetensors | sha256sum"
    digest = digest_of(files, tmp_path / "weights")
    printed = subprocess.run(command, shell=True, cwd=tmp_path / "weights", capture_output=True, text=True, check=True)
    assert printed.stdout.split()[0] == digest


def test_no_files_have_no_digest() -> None:
    assert WeightsDigest([]).result() == ""


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    (there, gone) = written({"a.safetensors": b"a", "b.safetensors": b"b"}, tmp_path / "weights")
    gone.unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.safetensors"):
        WeightsDigest([there, gone]).result()


def test_the_files_are_those_that_transformers_reads(model: PreTrainedModel, tmp_path: Path) -> None:
    """One file, or the shards of the index. What else lies there is left alone: other tools' weights, an older save."""
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    model.save_pretrained(whole)
    model.save_pretrained(sharded, max_shard_size="100KB")
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    for directory in (whole, sharded):
        (directory / "consolidated.safetensors").write_bytes(b"of another tool")
    assert weight_files(str(whole)) == [whole / "model.safetensors"]
    assert sorted(weight_files(str(sharded))) == shards
    before = WeightsDigest(weight_files(str(sharded))).result()
    (sharded / "optimizer.safetensors").write_bytes(b"")
    assert WeightsDigest(weight_files(str(sharded))).result() == before
    _assert_read(sharded)
    shutil.copy(whole / "model.safetensors", sharded)
    assert weight_files(str(sharded)) == [sharded / "model.safetensors"], "transformers takes it before the index"
    _assert_read(sharded)
    assert names(sharded) == ["model.safetensors"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.safetensors"))


def _assert_read(directory: Path) -> None:
    """That transformers loads the checkpoint when there are no other weight files than those."""
    read = {path.name for path in weight_files(str(directory))}
    for path in directory.glob("*.safetensors"):
        if path.name not in read:
            path.unlink()
    AutoModelForCausalLM.from_pretrained(directory, use_safetensors=True)


def test_weights_under_a_name_of_their_own_are_found(model: PreTrainedModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"transformers_weights": "other.safetensors"}))
    AutoModelForCausalLM.from_pretrained(tmp_path, use_safetensors=True)
    assert weight_files(str(tmp_path)) == [tmp_path / "other.safetensors"]


@pytest.mark.parametrize("max_shard_size", ["1GB", "100KB"])
def test_a_hub_id_has_the_digest_of_the_snapshot_that_is_loaded(
    max_shard_size: str, model: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as the hub's client does: names link to blobs, and an older snapshot is still there."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    plain = tmp_path / "plain"
    model.save_pretrained(plain, max_shard_size=max_shard_size)
    repository = tmp_path / "models--organisation--name"
    for commit, names in (("a" * 40, ["config.json"]), ("b" * 40, [path.name for path in plain.iterdir()])):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in names:
            blob = repository / "blobs" / hashlib.sha256(f"{commit}{name}".encode()).hexdigest()
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(plain / name, blob)
            (snapshot / name).symlink_to(blob)
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").write_bytes(b"older")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    # What the snapshot lacks is not looked for on the Hub, which without a network would be half a minute of trying.
    AutoModelForCausalLM.from_pretrained("organisation/name", use_safetensors=True, local_files_only=True)
    files = weight_files("organisation/name")
    assert {path.parent for path in files} == {repository / "snapshots" / ("b" * 40)}
    assert WeightsDigest(files).result() == WeightsDigest(weight_files(str(plain))).result()


def test_a_hub_id_that_is_not_here_has_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert weight_files("organisation/name") == []
