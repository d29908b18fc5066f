"""Makes a .tflite file of a PyTorch network, in a process of its own: the converter is large, slow and may crash."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...compressors.quantization.calibration import LARGEST_BIAS, STEPS, TOP
from ...errors import InfeasibleError, MissingRuntimeError, gist, in_a_line
from ..runtime import Source
from ..scratch import scratch
from ..subprocess_protocol import begin, run
from .litert_graph import WINDOWS, LiteRtOperation, operations

if TYPE_CHECKING:
    from ...compressors.quantization.quantize import Scales

TIMEOUT_S = 900.0

PASSES_ON = {"PAD", "RELU", "RESHAPE", "TRANSPOSE"}
KEEPS = {"MAX_POOL_2D", "PAD", "RESHAPE", "TRANSPOSE"}
"""Operations whose outputs LiteRT's quantizer gives the range of their inputs."""

POOLS = {"AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN"}
MERGES = {"ADD", "CONCATENATION"}
CONVOLUTIONS = {"CONV_2D", "DEPTHWISE_CONV_2D"}

NARROWEST = 1e-9
"""The narrowest range that LiteRT's quantizer gives a tensor."""

Range = dict[str, NDArray[np.floating]]
"""The least and the largest value of a tensor, or of each of a weight's output channels: ``min``, ``max``."""

Known = Sequence[Sequence[float]]
"""What a layer rounds to; see `_ranges`."""

PROGRAM, CALIBRATION, JOB, RESULT = "program.pt2", "calibration.npz", "job.json", "model.tflite"


def convert(source: Source, *, runtime: str, dynamic: bool) -> bytes:
    """Return the network as a .tflite file for the examples' batch size, with floats going in and out.

    Args:
        source: with a module.
        runtime: its name, for messages.
        dynamic: store the weights of all layers in INT8 and round activations as the model runs.

    Raises:
        MissingRuntimeError: the converter is not installed.
        InfeasibleError: the network cannot be converted, or not with these layers in INT8.
    """
    if not all(find_spec(package) for package in ("litert_torch", "ai_edge_quantizer")):
        raise MissingRuntimeError(
            f"--runtime {runtime} needs the packages litert_torch and ai_edge_quantizer to convert a network, which "
            "are not installed: pip install 'autocompress[litert-convert]'"
        )
    with scratch() as folder:
        _write_job(source, folder, dynamic)
        run(__name__, folder, threads=1, timeout_s=TIMEOUT_S, doing="converted", rung="build")
        return (folder / RESULT).read_bytes()


def _write_job(source: Source, folder: Path, dynamic: bool) -> None:
    import torch

    assert source.module is not None
    examples = tuple(torch.from_numpy(np.asarray(x)) for x in source.examples)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(torch.export.export(source.module, examples), folder / PROGRAM)
    except Exception as error:  # whatever a network's code raises when it is traced
        raise InfeasibleError(
            f"The network cannot be exported by torch.export: {gist(error)}.", rung="build"
        ) from error
    weights = {name: source.module.get_parameter(f"{name}.weight") for name in sorted(source.quantized)}
    layers = {name: fingerprint(weight.detach().numpy()) for name, weight in weights.items()}
    ranges = {layers[name]: _ranges(scale) for name, scale in source.scales.items() if name in layers}
    np.savez(folder / CALIBRATION, *(np.concatenate(batches) for batches in zip(*source.calibration, strict=True)))
    (folder / JOB).write_text(json.dumps({"layers": layers, "ranges": ranges, "dynamic": dynamic}))


def _ranges(scales: Scales) -> list[list[float]]:
    """Return the least and the largest number of a layer's input, and the largest magnitudes of its weight's channels.

    INT8 around 0 leaves out −128, and LiteRT does not.
    """
    assert scales.input is not None
    assert scales.weight is not None
    grid, least = scales.input, scales.input.most - STEPS
    return [[least * grid.step, grid.most * grid.step], (scales.weight * TOP).tolist()]


def fingerprint(weight: NDArray[np.generic]) -> str:
    """Return what stays of a weight when its axes are moved about, as converters do; the sign of a zero may not."""
    return hashlib.sha256(np.sort(weight + 0, axis=None).tobytes()).hexdigest()


def main(folder: Path) -> None:
    """Convert the program in a folder; runs in a process of its own."""
    begin()
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    import litert_torch
    import torch

    job = json.loads((folder / JOB).read_text())
    program = torch.export.load(folder / PROGRAM)
    try:
        artefact = litert_torch.convert(program.module(), program.example_inputs[0]).model_content()
        if job["dynamic"]:
            artefact = _dynamic(artefact)
        elif job["layers"]:
            with np.load(folder / CALIBRATION) as arrays:
                artefact = _static(artefact, job["layers"], job["ranges"], list(arrays.values()))
    except Exception as error:  # neither package has errors of its own; what they say after the first line is advice
        raise SystemExit(f"{in_a_line(error)}.") from error
    (folder / RESULT).write_bytes(artefact)


def _dynamic(artefact: bytes) -> bytes:
    from ai_edge_quantizer import quantizer, recipe

    return bytes(quantizer.Quantizer(bytearray(artefact), recipe.dynamic_wi8_afp32()).quantize().quantized_model)


def _static(
    artefact: bytes, layers: Mapping[str, str], known: Mapping[str, Known], inputs: Sequence[NDArray[np.generic]]
) -> bytes:
    """Quantize some layers and what lies between them.

    Args:
        artefact: in float.
        layers: the fingerprint of each layer's weight by its name.
        known: what layers round to, by their fingerprints; other ranges are from the least to the largest value seen.
        inputs: to see values.

    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, quantizer, recipe_manager
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.utils import qsv_utils

    interpreter = Interpreter(model_content=artefact)
    interpreter.allocate_tensors()
    chosen = choose(interpreter, layers)
    manager = recipe_manager.RecipeManager()
    for operation in chosen:
        scope = ";".join(tensor["name"] for tensor in operation.outputs)
        manager.add_static_config(f"^{re.escape(scope)};$", TFLOperationName(operation.kind), 8, 8)
    ranges = calibrator.Calibrator(artefact, num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    ranges.calibrate({"serving_default": list(_batches(interpreter, inputs))}, manager)
    float_model = quantizer.Quantizer(bytearray(artefact), manager.get_quantization_recipe())
    found = ranges.get_model_qsvs()
    found |= _input_ranges(interpreter, chosen, known)
    found |= _weight_ranges(interpreter, chosen, known, found)
    quantized = bytes(float_model.quantize(found).quantized_model)
    integers = [o for o in operations(Interpreter(model_content=quantized)) if o.kind in WINDOWS and _integer(o)]
    if len(integers) < sum(operation.kind in WINDOWS for operation in chosen):  # it passes over what it cannot do
        raise SystemExit("LiteRT's quantizer leaves layers in float that were to be in INT8.")
    return quantized


def _known(interpreter: Any, operation: LiteRtOperation, known: Mapping[str, Known]) -> Known | None:
    """Return what the layer of an operation rounds to; None for one that is unknown, or that is none."""
    if not known or operation.kind not in WINDOWS:
        return None
    return known.get(fingerprint(interpreter.get_tensor(operation.inputs[1]["index"])))


def _input_ranges(interpreter: Any, chosen: Sequence[LiteRtOperation], known: Mapping[str, Known]) -> dict[str, Range]:
    """Return the ranges of what layers read, and of what is only moved before they read it."""
    ends: dict[str, list[float]] = {}
    for operation in chosen:
        found = _known(interpreter, operation, known)
        if found is not None:
            name, (low, high) = operation.inputs[0]["name"], found[0]
            before = ends.get(name, [0.0, 0.0])
            ends[name] = [min(low, before[0]), max(high, before[1])]
    for operation in reversed(chosen):
        name, made = operation.inputs[0]["name"], operation.outputs[0]["name"]
        if operation.kind in KEEPS and made in ends:
            ends.setdefault(name, ends[made])
    return {name: {"min": np.array([[low]]), "max": np.array([[high]])} for name, (low, high) in ends.items()}


def _weight_ranges(
    interpreter: Any, chosen: Sequence[LiteRtOperation], known: Mapping[str, Known], inputs: Mapping[str, Range]
) -> dict[str, Range]:
    """Return ranges of weights so wide that the biases fit into 32 bits: the quantizer would let them overflow."""
    ranges: dict[str, Range] = {}
    for operation in chosen:
        if operation.kind not in WINDOWS or len(operation.inputs) < 3:
            continue
        x, weight, bias = operation.inputs[:3]
        values, biases = (interpreter.get_tensor(tensor["index"]) for tensor in (weight, bias))
        axis = values.ndim - 1 if operation.kind == "DEPTHWISE_CONV_2D" else 0
        shape = [-1 if i == axis else 1 for i in range(values.ndim)]
        seen = inputs[x["name"]]
        step = (max(float(seen["max"].max()), 0) - min(float(seen["min"].min()), 0) + NARROWEST) / 255
        reach = np.abs(values).max(tuple(i for i in range(values.ndim) if i != axis), keepdims=True)
        ours = _known(interpreter, operation, known)
        reach = reach if ours is None else np.array(ours[1], np.float32).reshape(shape)
        reach = np.maximum(reach, np.abs(biases).reshape(shape) * (TOP / LARGEST_BIAS / step)).astype(np.float32)
        if weight["name"] in ranges:  # two operations may read one weight
            reach = np.maximum(reach, ranges[weight["name"]]["max"])
        ranges[weight["name"]] = {"min": -reach, "max": reach}
    return ranges


def _integer(operation: LiteRtOperation) -> bool:
    return all(tensor["dtype"] is np.int8 for tensor in operation.inputs[:2])


def choose(interpreter: Any, layers: Mapping[str, str]) -> list[LiteRtOperation]:
    """Return the operations of some layers, found by their weights, and those that only pass integers on.

    Sums and concatenations are of them only between convolutions: the residual stream of linear layers stays in float.

    Args:
        interpreter: with its tensors allocated.
        layers: the fingerprint of each layer's weight by its name.

    """
    every = operations(interpreter)
    made = {tensor["index"] for operation in every for tensor in operation.outputs}
    made |= {tensor["index"] for tensor in interpreter.get_input_details()}
    reads = [{tensor["index"] for tensor in operation.inputs} & made for operation in every]
    writes = [{tensor["index"] for tensor in operation.outputs} for operation in every]
    weights = {i: operation.inputs[1]["index"] for i, operation in enumerate(every) if operation.kind in WINDOWS}
    marks = {i: fingerprint(interpreter.get_tensor(w)) for i, w in weights.items() if w not in made}
    lost = sorted(name for name, mark in layers.items() if mark not in marks.values())
    if lost:
        raise SystemExit(f"LiteRT's converter leaves no layer with the weights of {', '.join(lost)}.")
    chosen = {i for i, mark in marks.items() if mark in layers.values()}
    integer = {tensor for i in chosen for tensor in reads[i]}
    images = {tensor for i in chosen if every[i].kind in CONVOLUTIONS for tensor in reads[i] | writes[i]}
    for i in reversed(range(len(every))):  # what only moves the numbers that a quantized layer reads
        for numbers in (integer, images):
            if every[i].kind in PASSES_ON and writes[i] <= numbers:
                numbers |= reads[i]
    for i in range(len(every)):
        moves = every[i].kind in PASSES_ON | POOLS and reads[i]
        merges = every[i].kind in MERGES and len(reads[i]) > 1
        if (moves and reads[i] <= integer) or (merges and reads[i] <= images):
            chosen.add(i)
        if (moves or merges) and reads[i] <= images:
            images |= writes[i]
        if i in chosen:
            integer |= writes[i]
    return [every[i] for i in sorted(chosen)]


def _batches(interpreter: Any, inputs: Sequence[NDArray[np.generic]]) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield what calibration reads: whole batches of the model's own size, by the names of its inputs."""
    sources = interpreter.get_input_details()
    size = int(sources[0]["shape"][0])
    for start in range(0, len(inputs[0]) - size + 1, size):
        batch = (x[start : start + size].astype(source["dtype"]) for source, x in zip(sources, inputs, strict=True))
        yield {f"args_{i}": x for i, x in enumerate(batch)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
