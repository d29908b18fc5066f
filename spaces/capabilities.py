"""What a runtime can do: the table from which a space is generated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Which integers of 8 bits a runtime's kernels take at no cost.

    Attributes:
        asymmetric: activations may have any zero point, so that all 256 numbers lie between the least and the largest
            value; otherwise the zero point is 0.
        narrow: the kernels of some processors add two products of an activation and a weight in 16 bits, so that pairs
            of weights must be small.

    """

    asymmetric: bool = False
    narrow: bool = False


SYMMETRIC = Integers()
"""What every runtime with kernels for INT8 takes."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What changes latency on one runtime, and what its kernels like.

    Attributes:
        runtime: the runtime's name.
        bits: the bit-widths of weights and activations that its kernels execute, mild to strong;
            32 is float32, 8 is INT8 for both weights and activations.
        integers: what those of INT8 may look like.
        float_kinds: kinds of layers that it has no integer kernels for; see `Layer.kind`.
        weight_bits: bits of weights alone, with activations in float, that it has kernels for (linear layers, in blocks
            of 128 or less).
        palettes: whether palettes of weights are offered. They change what is stored, not what is run, so they are only
            where stored bytes count.
        sparsity: the zeros among weights that it gains from, mild to strong: the pattern ``"2:4"``, or shares of a
            layer's weights, wherever they lie.
        channel_multiple: pruned layers keep a multiple of this many channels.
        reads: endings of the model files that it serves as they are, its own first.
        opset: the newest ONNX operator set that it is known to read; None where it reads no ONNX.
        free_batch: whether one built model serves batches of any size; otherwise it has the size of its examples.
        threads: whether the number of threads can be set.
        isolated: whether its engines live in processes of their own, as they may take a process down with them.
        rounds: whether it rounds numbers by itself that the network has in float: its outputs may be farther from
            PyTorch's then, and the metric tells what that costs.
        device: what it computes on, ``cpu`` or ``gpu``; one measurement at a time on each.

    """

    runtime: str
    bits: tuple[int, ...] = (32, 8)
    integers: Integers = SYMMETRIC
    float_kinds: frozenset[str] = frozenset()
    weight_bits: tuple[int, ...] = ()
    palettes: bool = False
    sparsity: tuple[str | float, ...] = ()
    channel_multiple: int = 8
    reads: tuple[str, ...] = (".onnx",)
    opset: int | None = 17
    free_batch: bool = True
    threads: bool = True
    isolated: bool = False
    rounds: bool = False
    device: str = "cpu"
