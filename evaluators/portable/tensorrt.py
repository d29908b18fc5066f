"""A model file in TensorRT: an engine is built for the GPU at hand when it is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .pieces import in_pieces


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays; the engine is for the first batch's size."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    built: dict[str, Any] = {}

    def run(inputs: Any) -> Any:
        if not built:
            plan = path.read_bytes() if path.suffix == ".plan" else _plan(trt, logger, path, inputs)
            engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
            built.update(engine=engine, context=engine.create_execution_context(), size=len(inputs[0]))
        return in_pieces(lambda piece: _infer(trt, built["engine"], built["context"], piece), built["size"], inputs)

    return run


def _plan(trt: Any, logger: Any, path: Path, inputs: Any) -> Any:
    """Return an engine for the shapes of some inputs."""
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        raise RuntimeError(f"TensorRT cannot read {path.name}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    profile = builder.create_optimization_profile()
    for i, x in enumerate(inputs):
        if -1 in tuple(network.get_input(i).shape):
            profile.set_shape(network.get_input(i).name, x.shape, x.shape, x.shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"TensorRT cannot build {path.name}")
    return plan


def _infer(trt: Any, engine: Any, context: Any, inputs: Any) -> Any:
    """Return the outputs for inputs of the shapes that the engine was built for."""
    from cuda.bindings import runtime as cuda

    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    reads = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    buffers, outputs = [], {}

    def done(status: Any, *values: Any) -> Any:
        if int(status):
            raise RuntimeError(f"CUDA failed: {status}")
        return values[0] if values else None

    try:
        for name, x in zip(reads, inputs):
            x = np.ascontiguousarray(x, trt.nptype(engine.get_tensor_dtype(name)))
            buffers.append(done(*cuda.cudaMalloc(x.nbytes)))
            done(*cuda.cudaMemcpy(buffers[-1], x.ctypes.data, x.nbytes, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice))
            context.set_input_shape(name, x.shape)
            context.set_tensor_address(name, buffers[-1])
        for name in (name for name in names if name not in reads):
            shape, dtype = tuple(context.get_tensor_shape(name)), trt.nptype(engine.get_tensor_dtype(name))
            outputs[name] = np.empty(shape, dtype)
            buffers.append(done(*cuda.cudaMalloc(outputs[name].nbytes)))
            context.set_tensor_address(name, buffers[-1])
        if not context.execute_async_v3(0):
            raise RuntimeError("TensorRT did not run the model")
        done(*cuda.cudaDeviceSynchronize())
        for y, buffer in zip(outputs.values(), buffers[len(reads) :]):
            done(*cuda.cudaMemcpy(y.ctypes.data, buffer, y.nbytes, cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost))
    finally:
        for buffer in buffers:
            cuda.cudaFree(buffer)
    return [y.astype(np.float32) if np.issubdtype(y.dtype, np.floating) else y for y in outputs.values()]
