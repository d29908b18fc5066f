"""What a runtime can do: the table from which a space is generated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What changes latency on one runtime, and what its kernels like.

    Attributes:
        runtime: the runtime's name.
        bits: the bit-widths of weights and activations that its kernels execute, mild to strong;
            32 is float32, 8 is INT8 for both weights and activations.
        channel_multiple: pruned layers keep a multiple of this many channels.

    """

    runtime: str
    bits: tuple[int, ...] = (32, 8)
    channel_multiple: int = 8
