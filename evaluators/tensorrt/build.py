"""Engines from ONNX files, built by TensorRT 10.16 to 11 or by TensorRT for RTX.

Networks are strongly typed: the precision of each layer is in the ONNX file, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import InfeasibleError
from .check import check
from .log import errors, first_error, fresh, logger, sparse_layers
from .shapes import Shape

Profile = tuple[Shape, Shape, Shape]
"""The smallest shape of an input, the one to be fast at, and the largest."""


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        workspace_bytes: memory that a layer may use for scratch; None does not limit it.
        optimization_level: how long TensorRT searches for fast kernels, 0 to 5.
        timing_cache: what an earlier build on the same GPU and version has measured; it makes builds much faster.
        sparse: whether kernels for weights with a 2:4 pattern may be chosen.
        capabilities: what to build for, ``("SM86",)``; TensorRT for RTX only, which needs no GPU then.

    """

    workspace_bytes: int | None = None
    optimization_level: int = 3
    timing_cache: bytes = b""
    sparse: bool = False
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Built:
    """An engine, and what its builder said.

    Attributes:
        plan: the serialised engine.
        timing_cache: the one of the options, grown by what was measured; empty where there is none.
        log: errors, warnings, and what was said of sparsity.
        sparse_layers: those for which sparse kernels were chosen.

    """

    plan: bytes
    timing_cache: bytes
    log: tuple[str, ...]
    sparse_layers: tuple[str, ...]


def build(
    trt: Any, onnx: bytes, *, shapes: Mapping[str, Profile] | None = None, options: BuildOptions | None = None
) -> Built:
    """Build an engine.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        onnx: the file.
        shapes: of each input whose shape is not fixed.
        options: how to build.

    Raises:
        InfeasibleError: TensorRT refuses the file, the shapes or the limit of memory; the reason tells which.
    """
    options = options or BuildOptions()
    check(onnx)
    log = fresh(trt)
    builder = trt.Builder(logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger(trt))
    _parse(parser, network, onnx)
    config = _config(trt, builder, options)
    cache = _timing_cache(config, options.timing_cache)
    _add_profile(builder, network, config, shapes or {}, log)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise InfeasibleError(_why_no_plan(log, options), rung="build")
    return Built(
        plan=bytes(plan),
        timing_cache=bytes(cache.serialize()) if cache is not None else b"",
        log=tuple(log),
        sparse_layers=sparse_layers(log),
    )


def _parse(parser: Any, network: Any, onnx: bytes) -> None:
    """Fill a network from a file; the parser takes some garbage for a network without outputs."""
    parsed = parser.parse(onnx)
    found = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
    if found or not parsed:
        raise InfeasibleError(
            f"TensorRT cannot read the model: {'; '.join(found) or 'its parser gave no reason'}.", rung="build"
        )
    if not network.num_outputs:
        raise InfeasibleError("TensorRT cannot read the model: the network in it has no outputs.", rung="build")


def _describe(error: Any) -> str:
    """Return what a parser's error says: where, which operator, what."""
    message = " ".join(str(error.desc()).split()).rstrip(".")
    where = f"node {error.node()} {error.node_name()!r} ({error.node_operator()})" if error.node() >= 0 else "the file"
    return f"{error.code().name} at {where}: {message}"


def _config(trt: Any, builder: Any, options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.capabilities:
        config.num_compute_capabilities = len(options.capabilities)
        for i, capability in enumerate(options.capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, capability), i)
    return config


def _timing_cache(config: Any, stored: bytes) -> Any:
    """Give a builder a cache of timings; one of another GPU or version is left alone rather than mixed in."""
    if hasattr(config, "num_compute_capabilities"):  # TensorRT for RTX measures nothing at this time
        return None
    cache = config.create_timing_cache(stored)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _add_profile(builder: Any, network: Any, config: Any, shapes: Mapping[str, Profile], log: list[str]) -> None:
    """Tell the builder the shapes of the inputs that have no fixed one."""
    profile = builder.create_optimization_profile()
    inputs = (network.get_input(i) for i in range(network.num_inputs))
    dynamic = {tensor.name: tuple(tensor.shape) for tensor in inputs if -1 in tuple(tensor.shape)}
    for name, declared in dynamic.items():
        if name not in shapes:
            raise InfeasibleError(
                f"TensorRT needs the smallest, usual and largest shape of the input {name!r} {declared}; got none.",
                rung="build",
            )
        smallest, usual, largest = shapes[name]
        if not _in_order(declared, smallest, usual, largest):
            raise InfeasibleError(
                f"The shapes of the input {name!r} {declared} must fit it and grow from the smallest to the largest; "
                f"got {smallest}, {usual}, {largest}.",
                rung="build",
            )
        profile.set_shape(name, smallest, usual, largest)
    if dynamic and config.add_optimization_profile(profile) < 0:
        given = "; ".join(f"{name!r} {shapes[name]}" for name in dynamic)
        raise InfeasibleError(f"TensorRT rejects the shapes {given}: {first_error(log)}.", rung="build")


def _in_order(declared: Shape, smallest: Shape, usual: Shape, largest: Shape) -> bool:
    """Whether shapes have the declared rank and grow; TensorRT raises nothing when they are set."""
    if not len(declared) == len(smallest) == len(usual) == len(largest):
        return False
    return all(
        0 <= low <= middle <= high and size in (-1, low) and size in (-1, high)
        for size, low, middle, high in zip(declared, smallest, usual, largest, strict=True)
    )


def _why_no_plan(log: list[str], options: BuildOptions) -> str:
    """Return why there is no engine: too little memory is not the model's fault."""
    said = " ".join(errors(log)).lower()
    if "workspace" in said or "outofmemory" in said or "out of memory" in said:
        if options.workspace_bytes is not None:
            return (
                f"TensorRT cannot build the model within a workspace of {options.workspace_bytes:,} bytes: "
                "raise workspace_bytes, or leave it out."
            )
        return f"TensorRT ran out of the GPU's memory while it built the model: {first_error(log)}."
    return f"TensorRT cannot build the model: {first_error(log)}."
