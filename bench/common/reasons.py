"""Why a runtime is left out, or is slower in INT8 than in float: facts of the processor and of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autocompress.evaluators.runtime import Arrays, Runtime

COMPILERS = ("pytorch:aoti", "pytorch:compile")
"""Variants that compile a large network for minutes."""

NARROW = ("pytorch:bf16",)
"""Variants that take seconds for a large network where the processor does not know bfloat16."""

HELPS = {
    "VNNI": ("avx512_vnni", "avx_vnni", "asimddp"),
    "AVX-512": ("avx512f",),
    "AMX": ("amx_int8",),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
}
"""What makes narrow numbers fast, and the processor's words for it."""

INT8_HELPS = ("VNNI", "AVX-512", "AMX")


def dearest(runtime: Runtime, artefact: bytes, inputs: Arrays) -> list[str]:
    """Return the kinds of kernels that take most of the time, with their widths; none where it has no profiler."""
    spent: dict[tuple[str, int], float] = {}
    for kernel in runtime.kernels(artefact, inputs):
        key = (kernel.kind, kernel.bits)
        spent[key] = spent.get(key, 0.0) + (kernel.milliseconds or 0.0)
    total = sum(spent.values())
    most = sorted(spent.items(), key=lambda item: -item[1])[:3]
    return [f"{kind} on {bits} bits {time / total:.0%}" for (kind, bits), time in most if total]


def tedious(name: str) -> str:
    """Return why a runtime is left out for large networks; empty if it is not."""
    if name in COMPILERS:
        return "Left out without --slow: it compiles for minutes."
    if name in NARROW and not processor_flags().intersection(HELPS["bfloat16"]):
        return "Left out without --slow: the processor has no bfloat16."
    return ""


def why_slower(executed: float | None, intended: float | None, kernels: Sequence[str]) -> str:
    """Return what was seen that makes INT8 slower than float on a runtime.

    Args:
        executed: share of the multiply-accumulates in INT8; None where the runtime does not tell.
        intended: the same, as it was meant.
        kernels: what `dearest` returns.

    """
    facts = []
    if executed is not None and intended is not None and executed < intended - 0.02:
        facts.append(f"{executed:.0%} of the multiply-accumulates are in INT8 where {intended:.0%} are meant")
    absent = [name for name in INT8_HELPS if not processor_flags().intersection(HELPS[name])]
    if absent:
        facts.append(f"the processor has no {', no '.join(absent)}")
    if kernels:
        facts.append(f"its time goes to {', '.join(kernels)}")
    return "; ".join(facts)


def processor_flags() -> frozenset[str]:
    """Return the processor's features in Linux's words."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())
