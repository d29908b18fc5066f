"""The nodes of a Ray cluster on this machine, to be killed by ``bench/chaos.py``."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, suppress
from typing import Any

import psutil

from autocompress.search.workers.ray_session import environment


class Nodes:
    """A Ray cluster on this machine: a node that drivers are on, and others that workers are on."""

    def __init__(self, count: int, cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self._cpus = cpus
        self._environment = ExitStack()
        self._environment.enter_context(environment())
        self._cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        self._others = [self._cluster.add_node(num_cpus=cpus) for _ in range(count)]
        self.address = str(self._cluster.address)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that evaluate, on whatever node."""
        return evaluating(psutil.Process())

    def kill(self, rng: random.Random) -> None:
        """Kill all processes of a node, and have another one join."""
        node = self._others.pop(rng.randrange(len(self._others)))
        self._cluster.remove_node(node, allow_graceful=False)
        time.sleep(rng.random())
        self._others.append(self._cluster.add_node(num_cpus=self._cpus))

    def close(self) -> None:
        """End all of them."""
        self._cluster.shutdown()
        self._environment.close()


def evaluating(ancestor: psutil.Process) -> list[psutil.Process]:
    """Return the worker processes that descend from another one."""
    found = []
    with suppress(psutil.Error):
        for child in ancestor.children(recursive=True):
            with suppress(psutil.Error):
                if "ray::_Worker" in " ".join(child.cmdline()):
                    found.append(child)
    return found
