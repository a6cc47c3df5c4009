"""Values as typed on a command line, lists above all: they arrive as they were typed. And where output may not go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalgen.config import JobConfig
from evalgen.errors import ConfigError
from evalgen.load_config import check_can_write, load_config


def load(*argv: str) -> JobConfig:
    return load_config(["--data_model_path", "/run", *argv], Path("/nowhere"))


LISTS = [
    (["a", "b"], ("a", "b")),
    (['["a", "b"]'], ("a", "b")),
    (['["a"]', "b"], ("a", "b")),
    (["qa_{1,2}_no_fs"], ("qa_{1,2}_no_fs",)),
    (["a,b"], ("a,b",)),
    (["[ab],[cd]"], ("[ab],[cd]",)),
    (["[0-9]+$"], ("[0-9]+$",)),
    (["[1]"], ("[1]",)),
    (["(?:a|b)(?!c)"], ("(?:a|b)(?!c)",)),
    (["{x}"], ("{x}",)),
    (["-x", "-1"], ("-x", "-1")),
    (["null", "None", "true", "1.5"], ("null", "None", "true", "1.5")),
    ([" a "], (" a ",)),
    (["'a'"], ("'a'",)),
    (["a=b"], ("a=b",)),
]
MISREAD_LISTS = [
    ([value], (value,))
    for value in (r"\d+", r"eval_qa_\d{1,2}_no_fs", "São", "\\", 'a"b', '"a"', '{"a": 1}', '["a"', "a\nb")
]


@pytest.mark.parametrize(("typed", "meant"), [*LISTS, *MISREAD_LISTS])
@pytest.mark.parametrize("name", ["extract_from_eval_datasets", "checkpoint_patterns", "stop_strings"])
def test_a_list_is_read_in_every_form(name: str, typed: list[str], meant: tuple[str, ...]) -> None:
    assert getattr(load(f"--{name}", *typed), name) == meant
    repeated = [part for value in typed for part in (f"--{name}", value)]
    assert getattr(load(*repeated), name) == meant
    with_equals = [f"--{name}={value}" for value in typed]
    assert getattr(load(*with_equals), name) == meant


@settings(max_examples=50, derandomize=True)
@given(patterns=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=3))
def test_any_patterns_given_as_a_json_list_arrive_unchanged(patterns: list[str]) -> None:
    assert load("--checkpoint_patterns", json.dumps(patterns)).checkpoint_patterns == tuple(patterns)


@settings(max_examples=50, derandomize=True)
@given(strings=st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\n\t\\n"), min_size=1)))
def test_any_stop_strings_arrive_unchanged_or_are_refused_for_their_backslash(strings: list[str]) -> None:
    try:
        assert load("--stop_strings", json.dumps(strings)).law.stop_strings == tuple(strings)
    except ConfigError as error:
        assert any(f"\\{letter}" in string for letter in "nrt" for string in strings), error


@pytest.mark.parametrize(
    "prefix", ["a,b", "[a]", "{a}", '{"a": 1}', '"a"', "é", "a=b", r"\d", "true", "1"]
)  # none of them a list or JSON
def test_a_plain_value_is_taken_as_typed(prefix: str) -> None:
    assert load("--output_dataset_prefix", prefix).output_dataset_prefix == prefix


@pytest.mark.parametrize("argv", [["--output_dataset_prefix", "-sampled"], ["--output_dataset_prefix=-sampled"]])
def test_a_plain_value_may_begin_with_a_dash(argv: list[str]) -> None:
    assert load(*argv).output_dataset_prefix == "-sampled"


def test_a_project_named_null_is_a_name() -> None:
    assert load("--wandb_project", "null").wandb_project == "null"


REPOSITORY = Path(__file__).parents[2]


def check(output_dir: Path) -> None:
    check_can_write(load("--output_dir", str(output_dir)))


def test_an_output_directory_that_is_there_or_can_be_made_is_taken_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (tmp_path, tmp_path / "a" / "b", tmp_path / "link" / "a"):
        check(path)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_what_is_in_the_way_of_the_output_directory_is_named(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("x")
    link.symlink_to(tmp_path / "nowhere")
    for path, in_the_way in ((file, file), (file / "a" / "b", file), (link, link), (link / "a", link)):
        with pytest.raises(ConfigError) as raised:
            check(path)
        assert str(raised.value) == (
            f"output_dir: cannot make {path}: {in_the_way} is there and no directory; move it, or give another "
            "--output_dir"
        )


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["too long", "a null character"])
def test_an_output_directory_that_no_file_system_has_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"output_dir: cannot make '.*; give another --output_dir"):
        check(tmp_path / name)


def test_a_resumed_job_writes_where_it_began_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    config = load("--output_dir", str(tmp_path / "file"))
    check_can_write(config.model_copy(update={"resume": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"resume: cannot make .*go on with a copy of the experiment"):
        check_can_write(config.model_copy(update={"resume": str(tmp_path / "file")}))


def test_an_output_directory_that_belongs_to_others_is_an_error(tmp_path: Path) -> None:
    """Checked by nobody where the tests run as root, who may write everywhere."""
    tmp_path.chmod(0o500)
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    directory = Path("/not-there/a") if as_nobody else tmp_path / "a"
    existing = directory.parent.parent if as_nobody else tmp_path
    code = (
        "from pathlib import Path; from evalgen.config_files import check_writable;"
        f"check_writable(Path({str(directory)!r}), 'output_dir', 'give another')"
    )
    command = [*as_nobody, sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    last_line = done.stderr.strip().splitlines()[-1]
    if as_nobody and "ConfigError" not in last_line:
        pytest.skip(f"nobody cannot run this Python: {last_line}")
    assert last_line.endswith(
        f"output_dir: cannot write to {directory}: {existing} may not be written by this user; allow it, or "
        "give another"
    )


def test_a_wrong_output_directory_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    """With the submitted job's root, in which relative ones are made."""
    (tmp_path / "outputs").write_text("x")
    code = (
        "import sys; from pathlib import Path; from ray_jobs import generate_eval_datasets as job;"
        f"job.path_root = lambda: Path({str(tmp_path)!r});"
        "code = job.main(['--data_model_path', '/run']);"
        "print(code, *sorted({'ray', 'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]
    assert f"output_dir: cannot make {tmp_path}/outputs: " in done.stderr
