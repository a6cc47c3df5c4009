"""A cluster of several nodes on this machine, with GPUs that are none: their replicas sample on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.faults.job import kill


class Nodes:
    """A head node, on which drivers run, and nodes of one GPU each, on which replicas do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1, num_gpus=1)

    def kill_node_of(self, process: psutil.Process) -> None:
        """kill -9 of everything that the node of an actor's process runs; returns when the process is dead."""
        raylet = process.parent()
        (node,) = [node for node in self._cluster.worker_nodes if _raylet(node) == raylet.pid]
        self._cluster.remove_node(node, allow_graceful=False)
        kill(process)  # with its raylet it would have ended soon, but maybe not before it had stored its unit


def _raylet(node: Any) -> int:
    ((raylet),) = node.all_processes["raylet"]
    return int(raylet.process.pid)


@contextmanager
def several_nodes(num_nodes: int) -> Iterator[Nodes]:
    """`num_nodes` with a GPU, besides the head. Set `RAY_TMPDIR` before: other drivers are not to find the cluster."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        nodes = Nodes(cluster)
        for _ in range(num_nodes):
            nodes.add()
        yield nodes
    finally:
        cluster.shutdown()
