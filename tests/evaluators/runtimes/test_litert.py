"""What LiteRT does beyond the contract: which layers it quantizes, its fixed batch, its variant, its refusals."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.modules import count
from autocompress.errors import InfeasibleError, MissingRuntimeError
from autocompress.evaluators.runtime import Source, low_precision
from autocompress.evaluators.runtimes import load
from autocompress.evaluators.runtimes.litert_convert import choose, fingerprint

from .conftest import Sample

pytestmark = pytest.mark.slow

LITERT, DYNAMIC = load("litert"), load("litert:dynamic")

WHOLE_MODEL = """
import sys
from pathlib import Path
import numpy as np
from ai_edge_quantizer import quantizer, recipe
it = quantizer.Quantizer(bytearray(Path(sys.argv[1]).read_bytes()), recipe.static_wi8_ai8())
ranges = it.calibrate({"serving_default": [{"args_0": x} for x in np.load(sys.argv[2])]})
it.quantize(ranges).export_model(sys.argv[3])
"""


def small() -> nn.Module:
    """Return a network whose reshape makes its batch size fixed."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 5)).eval()


def images(count: int) -> Tensor:
    """Return images that `small` takes."""
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def fixed() -> bytes:
    """Return `small` for batches of two."""
    return LITERT.convert(Source(onnx=b"", module=small(), examples=[images(2).numpy()]))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_fixed_batch_serves_any(fixed: bytes, batch: int) -> None:
    """Batches that are smaller, equal and no multiple give what PyTorch does, row for row."""
    x = images(batch)
    with LITERT.build(fixed, threads=1) as engine:
        (output,) = engine.infer([x.numpy()])
    np.testing.assert_allclose(output, small()(x).detach().numpy(), atol=1e-5)


def test_a_file_with_integer_inputs_takes_floats(fixed: bytes, tmp_path: Path) -> None:
    """A user's file that is quantized to its ends is served as PyTorch would be."""
    paths = [tmp_path / name for name in ("float.tflite", "images.npy", "int8.tflite")]
    paths[0].write_bytes(fixed)
    np.save(paths[1], images(64).reshape(32, 2, 3, 8, 8).numpy())
    subprocess.run([sys.executable, "-c", WHOLE_MODEL, *map(str, paths)], check=True, capture_output=True)
    x = images(64)
    with LITERT.build(paths[2].read_bytes(), threads=1) as engine:
        (output,) = engine.infer([x.numpy()])
    expected = small()(x).detach().numpy()
    assert output.dtype == np.float32
    assert 0 < np.median(np.abs(output - expected)) < 0.02 * np.ptp(expected)


def test_a_dead_channel_keeps_its_bias() -> None:
    """Its weights are 0, of either sign, and the bias in multiples of their products still fits into 32 bits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 5)
    ).eval()
    layers = ("0", "2", "5")
    with torch.no_grad():
        for name in layers:
            network.get_submodule(name).weight[1] *= 0
            network.get_submodule(name).bias[1] = 1.5
        x = images(16)
        expected = network(x).numpy()
    source = Source(
        onnx=b"", module=network, quantized=frozenset(layers), examples=[x.numpy()], calibration=[[x.numpy()]]
    )
    with LITERT.build(LITERT.convert(source), threads=1) as engine:
        (output,) = engine.infer([x.numpy()])
    assert np.abs(output - expected).max() < 0.03 * np.ptp(expected)


def test_layers_are_found_by_their_weights(fixed: bytes) -> None:
    """Names are lost in a file; a weight that is in no operation is named."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=fixed)
    interpreter.allocate_tensors()
    marks = {name: fingerprint(weight.numpy()) for name, weight in small().state_dict().items()}
    moved = ["TRANSPOSE", "RESHAPE"]
    for name, expected in (("0", ["TRANSPOSE", "CONV_2D", *moved]), ("3", [*moved, "FULLY_CONNECTED"])):
        chosen = choose(interpreter, {name: marks[f"{name}.weight"]})
        assert [operation.kind for operation in chosen] == expected
    with pytest.raises(SystemExit, match="the weights of other"):
        choose(interpreter, {"3": marks["3.weight"], "other": marks["0.bias"]})


def test_only_the_layers_that_were_asked_for_are_integers(
    sample: Callable[[str], Sample], converted: Callable[[str, str], bytes]
) -> None:
    """One layer of the network stays in float, and the file takes and gives floats."""
    it = sample("mixed")
    kernels = LITERT.kernels(converted("litert", "mixed"), it.batches[0])
    costs = count(it.compressed.plain, [torch.from_numpy(x) for x in it.batches[0]])
    expected = {name: 8 if name in it.source.quantized else 32 for name in costs}
    assert sorted((k.macs, k.bits) for k in kernels if k.macs) == sorted(
        (costs[n].macs, b) for n, b in expected.items()
    )
    assert low_precision(kernels) == pytest.approx(it.compressed.low_precision)
    assert {k.kind: k.bits for k in kernels}["ADD"] == 8


def test_dynamic_stores_weights_in_int8(sample: Callable[[str], Sample]) -> None:
    """All layers of a float network multiply integers, the file shrinks, and the outputs stay near."""
    it = sample("float")
    artefact = DYNAMIC.convert(it.source)
    assert len(artefact) < 0.6 * len(it.source.onnx)
    assert low_precision(DYNAMIC.kernels(artefact, it.batches[0])) == 1
    with DYNAMIC.build(artefact, threads=1) as engine:
        (output,) = engine.infer(it.batches[1])
    expected = it.expected[1].numpy()
    assert 0 < np.abs(output - expected).max() < 0.05 * np.ptp(expected)


def test_dynamic_has_no_single_layers(sample: Callable[[str], Sample]) -> None:
    """The reason names the runtime that has."""
    with pytest.raises(InfeasibleError, match=r"--runtime litert has INT8"):
        DYNAMIC.convert(sample("int8").source)


def test_an_onnx_file_is_refused(sample: Callable[[str], Sample]) -> None:
    """The reason names the kind of file that can be given instead."""
    with pytest.raises(InfeasibleError, match=r"give it a \.tflite file"):
        LITERT.convert(Source(onnx=sample("float").source.onnx))


class Eigenvalues(nn.Module):
    """Computes what LiteRT has no operation for."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the eigenvalues of symmetric matrices."""
        return torch.linalg.eigvalsh(x)


class Branches(nn.Module):
    """Looks at its numbers to decide what to do."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the doubled input where its sum is positive."""
        return x * 2 if x.sum() > 0 else x


@pytest.mark.parametrize(("network", "why"), [(Eigenvalues(), "_linalg_eigh"), (Branches(), "data-dependent")])
def test_what_cannot_be_converted_is_infeasible(network: nn.Module, why: str) -> None:
    """The converter's own reason is given, in one sentence."""
    with pytest.raises(InfeasibleError, match=why) as caught:
        LITERT.convert(Source(onnx=b"", module=network, examples=[np.eye(4, dtype=np.float32)[None]]))
    assert caught.value.reason.endswith(".")
    assert "\n" not in caught.value.reason


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime and its large converter are installed apart."""
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'autocompress\[litert-convert\]'"):
        LITERT.convert(Source(onnx=b"", module=small(), examples=[images(1).numpy()]))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'autocompress\[litert\]'"):
        LITERT.describe()
