"""The measured devices, which may be on other machines than the search; one process on each measures for everyone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InfeasibleError
from ...evaluators.device_lock import off_the_floor
from ...evaluators.measurement import Latency
from ...evaluators.meters.latency import CAREFUL, Calibration, Meter, Plan
from ...evaluators.runtime import Kernel

SHARE = 0.001
"""Share of a device's resource that a study takes: studies take turns by the lock of the device's machine, one
measurement each; the resource only says where the device is.
"""


AT_ONCE = 8
"""Measurements that may be under way on a device: one is timed while others are built, or wait."""


TELL_S = 5.0
"""Seconds between two checks whether the device is still there, while something waits for it."""


class _Measuring:
    """The process that measures for all workers, at normal priority; what it times takes turns by the device's lock."""

    def ask(self, meter: Meter, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(meter, method)(*args, **kwargs)

    def niceness(self) -> int:
        import os

        return os.nice(0)


@dataclass(frozen=True)
class MeterActor:
    """A device that measures.

    Attributes:
        actor: Ray's handle of the measuring process.
        name: resource that its node offers; empty for this machine.
    """

    actor: Any
    name: str = ""

    @classmethod
    def here(cls) -> MeterActor:
        """Start the measuring process on this machine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return cls(_process(scheduling_strategy=place))

    @classmethod
    def on(cls, name: str) -> MeterActor:
        """Start the measuring process on a node that offers a resource; after a death it starts on the next one."""
        return cls(_process(resources={name: SHARE}), name)

    def meter(self, local: Meter, tell: Callable[[str], None] | None = None) -> RemoteMeter:
        """Return a meter that measures on the device.

        Args:
            local: the meter to use there.
            tell: called if something waits for a device that is gone.
        """
        import ray

        return RemoteMeter(device=self, meter=ray.put(local), tell=tell)

    def gone(self) -> str:
        """Return a sentence if no living node offers the device, otherwise nothing."""
        import ray

        if self.name and not ray.cluster_resources().get(self.name):
            return f"measuring waits for a node that offers {self.name}"
        return ""

    def close(self) -> None:
        """End the measuring process."""
        import ray

        ray.kill(self.actor)


def _process(**where: Any) -> Any:
    import ray

    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": AT_ONCE}
    return ray.remote(_Measuring).options(**options, **where).remote()


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteMeter:
    """A device's meter, usable from any process.

    Attributes:
        device: the device.
        meter: Ray's reference to the meter there.
        tell: see `MeterActor.meter`.
    """

    device: MeterActor
    meter: Any
    tell: Callable[[str], None] | None = None

    def mute(self) -> RemoteMeter:
        """Return the same for another process, without a callback."""
        return replace(self, tell=None)

    def gone(self) -> str:
        """Return a sentence if no living node offers the device, otherwise nothing."""
        return self.device.gone()

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Time the baseline alone; see `Meter.calibrate`."""
        calibration: Calibration = self._ask("calibrate", plan, timeout_s=timeout_s)
        return calibration

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Time a runtime's own file against the baseline; see `Meter.measure`."""
        latency: Latency = self._ask("measure", artefact, plan, runtime=runtime, timeout_s=timeout_s)
        return replace(latency, device=self.device.name)

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the memory of a process there; see `Meter.memory`."""
        memory_bytes: int | None = self._ask("memory", artefact, runtime=runtime)
        return memory_bytes

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return the millijoules of a run there; see `Meter.energy`."""
        energy_mj: float | None = self._ask("energy", artefact, runtime=runtime)
        return energy_mj

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return what is executed there, see `Meter.kernels`; a model that crashes the process is not tried again.

        Raises:
            InfeasibleError: the runtime refuses the model, or crashes.
        """
        import ray

        try:
            kernels: Sequence[Kernel] = self._ask("kernels", artefact, runtime=runtime, retries=0)
        except ray.exceptions.RayActorError as error:
            raise InfeasibleError("The runtime crashed while the model was profiled.", rung="latency") from error
        return kernels

    def _ask(self, method: str, *args: Any, retries: int = -1, **kwargs: Any) -> Any:
        """Wait for an answer in Python alone, so that an interruption can come at any moment."""
        import ray

        asking = self.device.actor.ask.options(max_task_retries=retries)
        answer = asking.remote(self.meter, method, *args, **kwargs).future()
        try:
            with off_the_floor():
                while True:
                    try:
                        return answer.result(timeout=TELL_S)
                    except NotYet:
                        if answer.done():  # the answer itself is such an error
                            raise
                        self._tell()
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InfeasibleError):
                raise error.cause from None
            raise

    def _tell(self) -> None:
        gone = self.tell and self.device.gone()
        if self.tell and gone:
            self.tell(gone)
