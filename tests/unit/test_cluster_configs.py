"""`configs/cluster`: valid by the schemas of those who read them, and what the job needs is in them.

KubeRay publishes its schema in no Python package, and it is long: the fields that the manifest uses stand here as its
CRD (1.7) has them, and every other is refused. With a copy of the CRD, `KUBERAY_CRD=ray.io_rayjobs.yaml pytest ...`
asks that, too.
"""

from __future__ import annotations

import os
import re
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from evalgen.load_config import load_config
from ray_jobs.grading import grader_environment

CLUSTER = Path(__file__).parents[2] / "configs/cluster"
PLACEHOLDER = re.compile(r"FILL_[A-Z_]+")
Json = dict[str, Any]

STRING: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0}
FLAG: Json = {"type": "boolean"}
QUANTITIES: Json = {"additionalProperties": {"type": "string", "pattern": r"^\d+(m|Ki|Mi|Gi|Ti)?$"}}
MAP: Json = {"type": "object", "additionalProperties": STRING}


def record(*required: str, **fields: Json) -> Json:
    return {"type": "object", "properties": fields, "required": list(required), "additionalProperties": False}


def several(item: Json) -> Json:
    return {"type": "array", "items": item, "minItems": 1}


KEY_OF_SECRET = record("name", "key", name=STRING, key=STRING)
VARIABLE = record("name", name=STRING, value=STRING, valueFrom=record("secretKeyRef", secretKeyRef=KEY_OF_SECRET))
CONTAINER = record(
    "name",
    "image",
    "resources",
    name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    image=STRING,
    env=several(VARIABLE),
    ports=several(record("containerPort", name=STRING, containerPort=COUNT)),
    resources=record("limits", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=several(record("name", "mountPath", name=STRING, mountPath=STRING, readOnly=FLAG)),
)
VOLUME = record("name", name=STRING, persistentVolumeClaim=record("claimName", claimName=STRING, readOnly=FLAG))
POD = record(
    "spec",
    spec=record(
        "containers",
        containers=several(CONTAINER),
        volumes=several(VOLUME),
        securityContext=record(fsGroup=COUNT),
    ),
)
METADATA = record("name", name=STRING)
RAYJOB = record(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=record(
        "entrypoint",
        "rayClusterSpec",
        entrypoint=STRING,
        metadata=MAP,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        backoffLimit=COUNT,
        rayClusterSpec=record(
            "headGroupSpec",
            "rayVersion",  # which token authentication needs
            rayVersion=STRING,
            authOptions=record("mode", mode={"enum": ["disabled", "token"]}),
            headGroupSpec=record("template", template=POD, rayStartParams=MAP),
            workerGroupSpecs=several(
                record(
                    "groupName",
                    "minReplicas",
                    "maxReplicas",
                    "template",
                    groupName=STRING,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=MAP,
                    template=POD,
                )
            ),
        ),
    ),
)
CLAIM = record(
    "apiVersion",
    "kind",
    "metadata",
    "spec",
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=record(
        "accessModes",
        "resources",
        accessModes=several({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        storageClassName=STRING,
        resources=record("requests", requests=QUANTITIES),
    ),
)


@pytest.fixture
def aws() -> Json:
    parsed: Json = yaml.safe_load((CLUSTER / "aws.yaml").read_text(encoding="utf-8"))
    return parsed


@pytest.fixture
def manifests() -> list[Json]:
    return list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8")))


@pytest.fixture
def rayjob(manifests: list[Json]) -> Json:
    (found,) = [it for it in manifests if it["kind"] == "RayJob"]
    return found


def pods_of(rayjob: Json) -> list[Json]:
    """Head first."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_ray_up_takes_the_configuration(aws: Json) -> None:
    validate_config(prepare_config(deepcopy(aws)))
    misspelt = prepare_config(aws | {"worker_setup_command": []})
    with pytest.raises(jsonschema.ValidationError, match="worker_setup_command"):
        validate_config(misspelt)


def test_every_command_of_ray_up_is_shell(aws: Json) -> None:
    commands = [command for key, value in aws.items() if key.endswith("_commands") for command in value]
    assert len(commands) >= 8
    for command in commands:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_nodes_get_what_the_image_has_and_all_of_it_is_there(aws: Json) -> None:
    mounted = {source for source in aws["file_mounts"].values() if not source.startswith("~")}
    copies = re.findall(r"^COPY --chown=\S+ (.+) \S+$", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert mounted == {source for sources in copies for source in sources.split()}
    assert all((CLUSTER.parents[1] / source).exists() for source in mounted)
    assert {"pyproject.toml", "requirements.lock", "evalgen", "ray_jobs"} <= mounted


def test_nodes_with_gpus_are_all_there_when_the_job_begins(aws: Json, rayjob: Json) -> None:
    """The job counts the GPUs once: a cluster that grows later would be left idle."""
    (gpu,) = [it for name, it in aws["available_node_types"].items() if name != aws["head_node_type"]]
    assert gpu["min_workers"] == gpu["max_workers"] == aws["max_workers"] > 0
    (group,) = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
    assert all(it["resources"]["limits"]["nvidia.com/gpu"] == "1" for it in pods_of(rayjob)[1]["containers"])


def test_the_manifests_are_valid_and_a_misspelt_field_is_not(manifests: list[Json]) -> None:
    for manifest in manifests:
        jsonschema.validate(manifest, RAYJOB if manifest["kind"] == "RayJob" else CLAIM)
    broken = deepcopy(manifests[-1])
    broken["spec"]["shutdownAfterJobFinish"] = broken["spec"].pop("shutdownAfterJobFinishes")
    with pytest.raises(jsonschema.ValidationError, match="shutdownAfterJobFinish"):
        jsonschema.validate(broken, RAYJOB)


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="KUBERAY_CRD names no copy of ray.io_rayjobs.yaml")
def test_kuberays_own_schema_takes_the_manifest(rayjob: Json) -> None:
    crd = yaml.load(Path(os.environ["KUBERAY_CRD"]).read_text(encoding="utf-8"), yaml.CSafeLoader)
    (schema,) = [it["schema"]["openAPIV3Schema"] for it in crd["spec"]["versions"] if it["name"] == "v1"]
    jsonschema.validate(rayjob, without_unknown_fields(schema))
    rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    with pytest.raises(jsonschema.ValidationError, match="container"):
        jsonschema.validate(rayjob, without_unknown_fields(schema))


def without_unknown_fields(schema: Any) -> Any:
    """A server drops what a schema does not name, unless told to be strict."""
    if isinstance(schema, list):
        return [without_unknown_fields(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: without_unknown_fields(value) for name, value in schema.items()}
    # `metadata` is described elsewhere, and has no properties here.
    is_closed = "properties" in schema and isinstance(schema.get("type"), str)
    return inner | {"additionalProperties": False} if is_closed and "additionalProperties" not in schema else inner


def test_the_key_comes_from_a_secret_to_the_head_alone(rayjob: Json, aws: Json) -> None:
    """The driver hands it to the graders; workers' own environments need none."""
    head, worker = (pod["containers"][0] for pod in pods_of(rayjob))
    (variable,) = [it for it in head["env"] if it["name"] == "ANTHROPIC_API_KEY"]
    assert variable == {
        "name": "ANTHROPIC_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "anthropic", "key": "api-key"}},
    }
    assert "env" not in worker
    assert "runtimeEnvYAML" not in rayjob["spec"], "the dashboard shows it"
    assert not any("anthropic" in f"{path} {source}".lower() for path, source in aws["file_mounts"].items())


def test_a_job_that_is_stopped_has_time_to_say_so(rayjob: Json, aws: Json) -> None:
    head = pods_of(rayjob)[0]["containers"][0]
    (wait,) = [it["value"] for it in head["env"] if it["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    assert f"RAY_JOB_STOP_WAIT_TIME_S={wait} " in aws["head_start_ray_commands"][-1] and int(wait) > 3
    assert rayjob["spec"]["shutdownAfterJobFinishes"] and rayjob["spec"]["backoffLimit"] == 0


def test_every_mount_has_its_volume_and_its_claim(manifests: list[Json], rayjob: Json) -> None:
    claims = {it["metadata"]["name"] for it in manifests if it["kind"] == "PersistentVolumeClaim"}
    used = set()
    for pod in pods_of(rayjob):
        volumes = {it["name"]: it["persistentVolumeClaim"]["claimName"] for it in pod["volumes"]}
        assert {mount["name"] for it in pod["containers"] for mount in it["volumeMounts"]} == volumes.keys()
        used |= set(volumes.values())
    assert used == claims


def test_the_entrypoint_is_a_command_of_ours(
    rayjob: Json, mayors_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, flag, module, *arguments = rayjob["spec"]["entrypoint"].split()
    assert (python, flag, module) == ("python", "-m", "ray_jobs.generate_eval_datasets")
    assert arguments[arguments.index("--output_dir") + 1] == "/outputs"
    places = {
        "/home/ray/evalgen": str(CLUSTER.parents[1]),
        "/runs/FILL_RUN": str(mayors_run),
        "/outputs": str(tmp_path),
    }
    for place, here in places.items():
        arguments = [argument.replace(place, here) for argument in arguments]
    config = load_config(arguments, tmp_path)
    assert config.max_grading_cost_usd == 20
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a-key")
    assert grader_environment(config)["ANTHROPIC_API_KEY"].get_secret_value() == "a-key"


@pytest.mark.parametrize("name", ["aws.yaml", "rayjob.yaml"])
def test_what_is_to_be_filled_in_is_marked_and_nothing_else_is(name: str) -> None:
    text = (CLUSTER / name).read_text(encoding="utf-8")
    content = "\n".join(line.split(" #")[0] for line in text.splitlines() if not line.startswith("#"))
    wanted = {
        "aws.yaml": {"FILL_REGION", "FILL_IMAGE", "FILL_GPU_IMAGE", "FILL_FILE_SYSTEM"},
        "rayjob.yaml": {"FILL_SHARED_STORAGE_CLASS", "FILL_RUN", "FILL_EVAL_DATASET", "FILL_NAME", "FILL_IMAGE"},
    }
    assert set(PLACEHOLDER.findall(content)) == wanted[name]


def test_the_image_is_of_the_ray_that_the_manifest_and_the_lock_have(rayjob: Json) -> None:
    version = rayjob["spec"]["rayClusterSpec"]["rayVersion"]
    dockerfile = (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{version}-py311-gpu" in dockerfile
    lock = (CLUSTER.parents[1] / "requirements.lock").read_text(encoding="utf-8").splitlines()
    assert f"ray=={version}" in lock
    copied = [path for line in dockerfile.splitlines() if line.startswith("COPY") for path in line.split()[2:-1]]
    assert copied and all((CLUSTER.parents[1] / path).exists() for path in copied)
