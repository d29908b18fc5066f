"""A small world in which the strict fake builds and runs a network: one input, and one output that is equal to it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .strict_fake import Behaviour, make, new

MANIFESTS = ("api-10.16.json", "api-11.4.json")

PLAN = b"ftrt, a plan"

LAYERS = [
    {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Dimensions": [2, 3, 4, 4], "Format/Datatype": "Row major Int8 format"}],
        "Outputs": [{"Name": "a", "Dimensions": [2, 8, 4, 4], "Format/Datatype": "Row major Int8 format"}],
        "Weights": {"Type": "Int8", "Count": 216},
        "TacticName": "sm80_xmma_fprop_sparse_conv_interleaved_i8i8_i8i32",
    },
    {
        "Name": "fc",
        "LayerType": "gemm",
        "Inputs": [{"Name": "a", "Dimensions": [2, 128], "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "y", "Dimensions": [2, 10], "Format/Datatype": "Half"}],
        "TacticName": "sm80_xmma_gemm_f16f16",
    },
]
"""A report of the inspector, in the form of TensorRT 10's with details."""


@dataclass
class ParserError:
    """What the parser finds."""

    code: str = "UNSUPPORTED_NODE"
    node: int = 3
    name: str = "foo_3"
    operator: str = "Foo"
    text: str = "no importer\nfor it."


@dataclass
class World:
    """What the fake's methods do; tests change it.

    Attributes:
        manifest: of which version.
        declared: the shape of the input in the file.
        served: the shapes of the input that the engine serves: smallest, usual, largest.
        tensors: what the engine reads and returns, in its order.
        nanoseconds: of one inference.
        capturable: whether an inference can be captured.
        enqueue: the stream's handle, time, and the addresses of output and input and their size; does the work.
    """

    manifest: str = MANIFESTS[1]
    declared: tuple[int, ...] = (-1, 3, 4, 4)
    served: tuple[tuple[int, ...], ...] = ((1, 3, 4, 4), (4, 3, 4, 4), (4, 3, 4, 4))
    tensors: dict[str, str] = field(default_factory=lambda: {"x": "INPUT", "y": "OUTPUT"})
    nanoseconds: int = 1_500_000
    parser_errors: list[ParserError] = field(default_factory=list)
    outputs: int = 1
    profile_index: int = 0
    plan: bytes | None = PLAN
    says: list[tuple[str, str]] = field(default_factory=list)
    takes_timings: bool = True
    context: bool = True
    unknown_shapes: list[str] = field(default_factory=list)
    output_type: str = "FLOAT"
    takes_addresses: bool = True
    enqueued: int = 0
    fails_at: int = -1
    enqueue: Callable[[int, int, int, int, int], None] = lambda *_: None
    seen: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        behaviour: Behaviour = {**self._building(), **self._running()}
        self.behaviour = behaviour
        self.trt = make(Path(__file__).with_name(self.manifest), behaviour)

    def of(self, kind: str, **values: Any) -> Any:
        """Return an object of a class of the module."""
        return new(getattr(self.trt, kind), **values)

    def _building(self) -> Behaviour:
        return {
            "Builder.__init__": lambda _, logger: self.seen.update(logger=logger),
            "Builder.create_network": self._create_network,
            "Builder.create_builder_config": lambda _: self.of("IBuilderConfig"),
            "Builder.create_optimization_profile": lambda _: self.of("IOptimizationProfile"),
            "Builder.build_serialized_network": self._build,
            "INetworkDefinition.get_input": lambda _, index: self.of("ITensor", name="x", shape=self.declared),
            "OnnxParser.parse": lambda _, model: not self.parser_errors,
            "OnnxParser.num_errors": lambda _: len(self.parser_errors),
            "OnnxParser.get_error": lambda _, index: self.of("ParserError"),
            "ParserError.code": lambda _: self.trt.ErrorCode[self.parser_errors[0].code],
            "ParserError.node": lambda _: self.parser_errors[0].node,
            "ParserError.node_name": lambda _: self.parser_errors[0].name,
            "ParserError.node_operator": lambda _: self.parser_errors[0].operator,
            "ParserError.desc": lambda _: self.parser_errors[0].text,
            "IBuilderConfig.set_flag": lambda _, flag: self.seen.setdefault("flags", []).append(flag),
            "IBuilderConfig.set_memory_pool_limit": lambda _, pool, size: self.seen.update(limit=(pool, size)),
            "IBuilderConfig.create_timing_cache": lambda _, stored: self.of("ITimingCache", _stored=stored),
            "IBuilderConfig.set_timing_cache": self._set_timing_cache,
            "IBuilderConfig.add_optimization_profile": self._add_profile,
            "ITimingCache.serialize": lambda cache: cache.__dict__["values"]["_stored"] + b"+timings",
            "IOptimizationProfile.set_shape": lambda _, name, *shapes: self.seen.update(shapes={name: shapes}),
        }

    def _create_network(self, _: Any, flags: int) -> Any:
        assert flags == 1 << self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return self.of("INetworkDefinition", num_inputs=1, num_outputs=self.outputs)

    def _set_timing_cache(self, _: Any, cache: Any, ignore_mismatch: bool) -> bool:
        stored = cache.__dict__["values"]["_stored"]
        return ignore_mismatch or not stored or self.takes_timings

    def _add_profile(self, *_: Any) -> int:
        if self.profile_index < 0:
            self._say()
        return self.profile_index

    def _build(self, _: Any, network: Any, config: Any) -> bytes | None:
        self.seen["config"] = config.__dict__["values"]
        self.seen["builds"] = self.seen.get("builds", 0) + 1
        self._say()
        return self.plan

    def _say(self) -> None:
        for severity, message in self.says:
            self.seen["logger"].log(self.trt.ILogger.Severity[severity], message)

    def _running(self) -> Behaviour:
        return {
            "Runtime.__init__": lambda _, logger: self.seen.update(logger=logger),
            "Runtime.deserialize_cuda_engine": self._load,
            "ICudaEngine.num_io_tensors": lambda _: len(self.tensors),
            "ICudaEngine.get_tensor_name": lambda _, index: list(self.tensors)[index],
            "ICudaEngine.get_tensor_mode": lambda _, name: self.trt.TensorIOMode[self.tensors[name]],
            "ICudaEngine.get_tensor_dtype": lambda _, name: self.trt.DataType[
                self.output_type if name == "y" else "FLOAT"
            ],
            "ICudaEngine.get_tensor_shape": lambda _, name: self.declared,
            "ICudaEngine.get_tensor_profile_shape": lambda _, name, index: list(self.served),
            "ICudaEngine.create_execution_context": lambda _: self.of("IExecutionContext") if self.context else None,
            "ICudaEngine.create_engine_inspector": lambda _: self.of("EngineInspector"),
            "EngineInspector.get_engine_information": self._report,
            "IExecutionContext.set_input_shape": self._set_shape,
            "IExecutionContext.infer_shapes": lambda _: self.unknown_shapes,
            "IExecutionContext.get_tensor_shape": lambda _, name: self.shape,
            "IExecutionContext.get_max_output_size": lambda _, name: 4 * math.prod(self.shape),
            "IExecutionContext.set_tensor_address": self._set_address,
            "IExecutionContext.execute_async_v3": self._execute,
        }

    def _load(self, _: Any, plan: bytes) -> Any:
        if plan == PLAN:
            return self.of("ICudaEngine")
        self.seen["logger"].log(self.trt.ILogger.Severity.ERROR, "Error Code 1: the magic tag does not match.")
        return None

    def _report(self, inspector: Any, kind: Any) -> str:
        assert kind == self.trt.LayerInformationFormat.JSON
        assert inspector.execution_context is not None
        return json.dumps({"Layers": LAYERS})

    def _set_shape(self, _: Any, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        limits = zip(self.served[0], shape, self.served[-1], strict=True)
        return all(low <= size <= high for low, size, high in limits)

    def _set_address(self, _: Any, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.takes_addresses

    def _execute(self, context: Any, stream: int) -> bool:
        self.enqueued += 1
        if self.enqueued == self.fails_at:
            return False
        size = 4 * math.prod(self.shape)
        self.enqueue(stream, self.nanoseconds, self.addresses["y"], self.addresses["x"], size)
        profiler = context.__dict__["values"].get("profiler")
        if profiler is not None:
            for layer, ms in zip(LAYERS, (1.0, 0.5), strict=True):
                profiler.report_layer_time(layer["Name"], ms)
        return True
