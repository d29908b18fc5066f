"""Checks whether a built model computes in the intended precision, as its runtime reports."""

from __future__ import annotations

from ...errors import InfeasibleError
from ..measurement import Deployment
from ..meters.latency import Meter
from ..runtime import low_precision

SLACK = 0.05
"""Share of the compute that was meant to run in low precision, and may not, without a warning."""


def in_low_precision(
    meter: Meter, artefact: bytes, deployment: Deployment, meant: float, warnings: list[str]
) -> float | None:
    """Return the share of a built model's compute in low precision; None if its runtime does not report it.

    Args:
        meter: meter of the deployment's device.
        artefact: the model in the runtime's own file.
        deployment: the runtime and the device that serve it.
        meant: multiply-accumulates intended for low precision.
        warnings: a warning is added if fewer are.

    """
    try:
        kernels = meter.kernels(artefact, runtime=deployment.runtime)
    except InfeasibleError:
        kernels = ()
    if not any(kernel.macs for kernel in kernels):
        return None
    done = sum(kernel.macs for kernel in kernels if kernel.bits < 32)
    if done < (1 - SLACK) * meant:
        warnings.append(f"on {deployment} only {done / meant:.0%} of what was meant for low precision runs in it")
    return low_precision(kernels)
