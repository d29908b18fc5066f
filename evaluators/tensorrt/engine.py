"""An engine that begins when the shapes of its inputs are known, and tells what its times depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime import Arrays, Kernel
from . import nvml
from .device import Device
from .session import TensorRtSession
from .shapes import Interface, Shape


class TensorRtEngine:
    """A `DeviceEngine`.

    Args:
        trt: the module `tensorrt`.
        device: the GPU; its owner closes it.
        interface: of the model; the first inputs decide the shapes that it leaves open.
        plan: returns the serialised engine for shapes.
        about: the GPU's ``gpu_uuid``, and what else is stored with the times.

    """

    def __init__(
        self,
        trt: Any,
        device: Device,
        *,
        interface: Interface,
        plan: Callable[[Mapping[str, Shape]], bytes],
        about: Mapping[str, str],
    ) -> None:
        self.trt = trt
        self.device = device
        self.interface = interface
        self.plan = plan
        self.about = about
        self._session: TensorRtSession | None = None
        self._before: Mapping[str, str] = {}

    def start(self) -> None:
        """Begin where the model tells all shapes.

        Raises:
            InfeasibleError: TensorRT refuses the model.
        """
        known = {name: shape for name, shape in self.interface.inputs.items() if shape is not None}
        if len(known) == len(self.interface.inputs):
            self._session = self._begun(known)

    def close(self) -> None:
        """Free what TensorRT holds on the GPU."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        return self._for(inputs).infer(inputs)

    def device_ns(self, inputs: Arrays, runs: int) -> list[int]:
        """Return the nanoseconds of each of some runs on inputs that are on the device already."""
        session = self._for(inputs)
        if not self._before:
            self._before = nvml.conditions(self.about["gpu_uuid"], "before")
        return session.device_ns(inputs, runs)

    def conditions(self) -> Mapping[str, str]:
        """Return how work was given to the GPU, its clocks before and after, and who else used it."""
        told = self._session.conditions() if self._session is not None else {}
        return {**self.about, **told, **self._before, **nvml.conditions(self.about["gpu_uuid"], "after")}

    def kernels(self, inputs: Arrays) -> list[Kernel]:
        """Return the layers; the engine is good for nothing else then, as its profiler stays."""
        return self._for(inputs).kernels(inputs)

    def _for(self, inputs: Arrays) -> TensorRtSession:
        """Return the session, made for the first inputs where nothing else told the shapes."""
        if self._session is None:
            names = self.interface.inputs
            self._session = self._begun({name: x.shape for name, x in zip(names, inputs, strict=True)})
        return self._session

    def _begun(self, shapes: Mapping[str, Shape]) -> TensorRtSession:
        return TensorRtSession(self.trt, self.device, self.plan(shapes), interface=self.interface)
