"""Ways to use TensorRT's interface wrongly: what a module says, and what it must not say."""

from __future__ import annotations

ENQUEUE = "execute_async_v3(self.device.handle)"
BUILD = "builder.build_serialized_network(network, config)"
VERBOSITY = "config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED"
TYPED = "trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED"

MISUSES: dict[str, list[tuple[str, str]]] = {
    "build": [
        ("builder.create_network(1 <<", "builder.create_network(flag=1 <<"),
        ("config.builder_optimization_level =", "config.max_workspace_size ="),
        ("(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)", "(options.workspace_bytes)"),
        ("trt.MemoryPoolType.WORKSPACE", "0"),
        ("config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)", "config.set_flag(7)"),
        ("config.set_timing_cache(cache, False)", "config.set_timing_cache(cache)"),
        ("config.create_timing_cache(stored)", "config.create_timing_cache(stored.decode())"),
        (BUILD, "builder.build_engine(network, config)"),
        (BUILD, "builder.build_serialized_network(config, network)"),
        ("parser.parse(onnx)", "parser.parse('model.onnx')"),
        ("parser.num_errors", "parser.num_errors()"),
        ("profile.set_shape(name, smallest, usual, largest)", "profile.set_shape(name, [smallest, usual, largest])"),
        ("trt.OnnxParser(network, logger(trt))", "trt.OnnxParser(network)"),
        ("trt.Builder(logger(trt))", "trt.Builder(logger)"),
    ],
    "session": [
        (ENQUEUE, "execute_async_v2([], self.device.handle)"),
        (ENQUEUE, "execute_async_v3(stream=self.device.handle)"),
        (ENQUEUE, "execute_async_v3()"),
        ("self._engine.num_io_tensors", "self._engine.num_bindings"),
        ("set_tensor_address(name, self._addresses[name])", "set_tensor_address(name, str(self._addresses[name]))"),
        ("self._context.set_input_shape(name, shape)", "self._context.set_binding_shape(0, shape)"),
        ("deserialize_cuda_engine(plan)", "deserialize_cuda_engine(plan.decode())"),
        ("self._context.profiler = profiler", "self._engine.profiler = profiler"),
        ("get_tensor_profile_shape(name, 0)", "get_tensor_profile_shape(name)"),
        ("get_engine_information(self.trt.LayerInformationFormat.JSON)", "get_engine_information('json')"),
        ("inspector.execution_context = self._context", "inspector.context = self._context"),
        ("self._engine.get_tensor_dtype(name)", "self._engine.get_binding_dtype(name)"),
    ],
}
"""By the module's name."""

REMOVED: list[tuple[str, str]] = [
    (TYPED, "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH"),
    (VERBOSITY, "config.set_flag(trt.BuilderFlag.INT8)"),
    (VERBOSITY, "config.set_flag(trt.BuilderFlag.FP16)"),
    (VERBOSITY, "config.int8_calibrator = None"),
    (VERBOSITY, "builder.platform_has_fast_int8"),
]
"""What TensorRT 10 has in `build` and 11 has not."""
