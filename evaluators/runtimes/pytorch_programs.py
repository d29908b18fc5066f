"""What the PyTorch runtimes do with torch itself: write programs, read them, run and time them."""

from __future__ import annotations

import io
import statistics
import time
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from ...studies.networks.copied import copied
from ..runtime import Arrays, Kernel

PROFILED_RUNS = 20

BATCH = "batch"
"""The key under which a compiled package keeps the size of its batch."""

Call = Callable[..., Any]


@dataclass(frozen=True)
class Program:
    """An `Engine` over anything that is called with tensors.

    Attributes:
        call: takes one tensor an input.
        threads: set before every run, as PyTorch has one number for the whole process.
        dtype: what floating inputs are cast to; None leaves them.
        batch: the only size of a batch that it takes; None for any. Others run in pieces, the last one filled up
            with copies of its last row.

    """

    call: Call
    threads: int
    dtype: torch.dtype | None = None
    batch: int | None = None

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if self.batch is None or len(inputs[0]) == self.batch:
            return self._run(inputs)
        count = len(inputs[0])
        rows = [np.minimum(np.arange(at, at + self.batch), count - 1) for at in range(0, count, self.batch)]
        pieces = [self._run([x[some] for x in inputs]) for some in rows]
        return [np.concatenate(parts)[:count] for parts in zip(*pieces, strict=True)]

    def _run(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        with torch.inference_mode():
            outputs = self.call(*tensors(inputs, self.dtype))
            return [(y.float() if y.is_floating_point() else y).numpy() for y in _leaves(outputs)]


def tensors(inputs: Arrays, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
    """Return arrays as tensors that share their memory where they can; floating ones are cast."""
    return tuple(_tensor(x, dtype) for x in inputs)


def _tensor(array: NDArray[np.generic], dtype: torch.dtype | None) -> Tensor:
    tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
    return tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor


def _leaves(outputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, which may be one, or several in tuples, lists and dictionaries."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from _leaves(list(outputs.values()))
    elif outputs is not None:
        for output in outputs:
            yield from _leaves(output)


@contextmanager
def threads_restored() -> Iterator[None]:
    """Give the process its number of threads back at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Ignore what tracers and exporters warn of: they deprecate themselves."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def _prepared(module: nn.Module, examples: Arrays, dtype: torch.dtype | None) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a copy of a network with contiguous weights in a type, and its inputs."""
    network = copied(module).eval().to(dtype)
    for parameter in network.parameters():
        parameter.requires_grad_(False).data = parameter.data.contiguous()
    return network, tensors(examples, dtype)


def trace(module: nn.Module, examples: Arrays) -> bytes:
    """Return a network as a TorchScript file."""
    file = io.BytesIO()
    with _quiet():
        network, inputs = _prepared(module, examples, None)
        torch.jit.save(torch.jit.trace(network, inputs, check_trace=False), file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def script(artefact: bytes) -> Call:
    """Return a TorchScript file with its weights frozen, in the layouts that oneDNN wants them in."""
    with _quiet():
        loaded = torch.jit.load(io.BytesIO(artefact), map_location="cpu")  # type: ignore[no-untyped-call]
        optimized: Call = torch.jit.optimize_for_inference(loaded)
    return optimized


def export(module: nn.Module, examples: Arrays, *, dtype: torch.dtype | None = None) -> ExportedProgram:
    """Return a network as a graph of ATen operations, with a free batch if it allows that."""
    with _quiet():
        network, inputs = _prepared(module, examples, dtype)
        two = tuple(torch.cat((x, x)) if len(x) == 1 else x for x in inputs)  # one would be taken as fixed
        try:
            return torch.export.export(network, two, dynamic_shapes=tuple({0: Dim("batch")} for _ in two))
        except Exception:  # a network that knows the size of its batch; exporters fail in any way
            return torch.export.export(network, inputs)


def write(program: ExportedProgram) -> bytes:
    """Return an exported program as a file."""
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file)
    return file.getvalue()


def read(artefact: bytes) -> ExportedProgram:
    """Return the exported program of a file."""
    with _quiet():
        return torch.export.load(_archive(artefact))


def _archive(artefact: bytes) -> io.BytesIO:
    """Return a file to read from, if it is a ZIP archive: of others torch would write pages of log."""
    file = io.BytesIO(artefact)
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no .pt2 archive")
    file.seek(0)
    return file


def examples_of(program: ExportedProgram) -> tuple[Tensor, ...]:
    """Return inputs of the program's own batch size, of one row where the batch is free."""
    inputs: tuple[Tensor, ...] = program.example_inputs[0] if program.example_inputs else ()
    return tuple(x[:1].contiguous() for x in inputs) if batch_of(program) is None else inputs


def batch_of(program: ExportedProgram) -> int | None:
    """Return the only size of a batch that a program takes; None for any."""
    users = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.nodes if node.name in users]
    sizes = [value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()]
    return sizes[0] if sizes and isinstance(sizes[0], int) else None


def dtype_of(program: ExportedProgram) -> torch.dtype:
    """Return the type of a program's floating weights."""
    weights = (weight for weight in program.state_dict.values() if weight.is_floating_point())
    return next((weight.dtype for weight in weights), torch.float32)


def flat(program: ExportedProgram) -> Call:
    """Return the graph without the checks and the packing of nested inputs, which cost as much as a small network."""
    graph, held = program.graph_module, _held(program)
    return lambda *inputs: graph(*held, *inputs)


def _held(program: ExportedProgram) -> list[Any]:
    """Return the weights, buffers and constants that the graph takes before its inputs."""
    values = {**program.state_dict, **program.constants}
    return [values[spec.target] for spec in program.graph_signature.input_specs if spec.target is not None]


def compiled(program: ExportedProgram) -> Call:
    """Return a program whose operations Inductor fuses, compiled for each shape that comes; weights are constants."""
    with _quiet():
        function: Call = torch.compile(program.module(check_guards=False), dynamic=False, options={"freezing": True})
    return function


def package(module: nn.Module, examples: Arrays) -> bytes:
    """Return a network as a shared library that Inductor compiles for the examples' shapes."""
    file = io.BytesIO()
    options = {"freezing": True, "cpp.dynamic_threads": True, "aot_inductor.metadata": {BATCH: str(len(examples[0]))}}
    with _quiet():
        network, inputs = _prepared(module, examples, None)
        program = torch.export.export(network, inputs)
        torch._inductor.aoti_compile_and_package(program, package_path=file, inductor_configs=options)
    return file.getvalue()


def unpack(artefact: bytes) -> tuple[Call, int | None]:
    """Return the function in a package, and the size of its batch if it tells."""
    with _quiet():
        function = torch._inductor.aoti_load_package(_archive(artefact))
    batch = function.get_metadata().get(BATCH)
    return function, int(batch) if batch else None


class _Stopwatch(fx.Interpreter):
    """Runs a graph one operation at a time, and keeps how long each took."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.spent: dict[fx.Node, list[int]] = defaultdict(list)
        self.made: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter_ns()
        self.made[n] = super().run_node(n)
        self.spent[n].append(time.perf_counter_ns() - start)
        return self.made[n]


def timed(program: ExportedProgram, inputs: Sequence[Tensor]) -> list[Kernel]:
    """Return the operations of a program with the median of their milliseconds."""
    stopwatch = _Stopwatch(program.graph_module)
    with torch.inference_mode():
        for _ in range(PROFILED_RUNS):
            stopwatch.run(*_held(program), *inputs)
    made = stopwatch.made
    operations = [node for node in made if node.op == "call_function" and isinstance(made[node], Tensor)]
    return [_kernel(node, made, statistics.median(stopwatch.spent[node]) / 1e6) for node in operations]


def _kernel(node: fx.Node, made: Mapping[fx.Node, Any], milliseconds: float) -> Kernel:
    kind = str(node.target).removeprefix("aten.").partition(".")[0]
    operands = [made[operand].shape for operand in node.all_input_nodes if isinstance(made[operand], Tensor)]
    products, numbers = 0, made[node].numel()
    if "conv" in kind:
        products = operands[1][1:].numel()
        numbers = operands[0].numel() if "transpose" in kind else numbers
    elif kind in ("linear", "matmul", "mm", "bmm", "addmm"):
        products = operands[-2 if kind == "addmm" else 0][-1]
    stack = list((node.meta.get("nn_module_stack") or {"": ("",)}).values())
    output = made[node]
    return Kernel(
        name=stack[-1][0] if products and stack[-1][0] else node.name,
        kind=kind,
        bits=8 * output.dtype.itemsize if output.is_floating_point() else 32,
        milliseconds=milliseconds,
        macs=numbers * products,
    )
