"""What MNN does beyond the contract: narrow weights, refusals, its silence on the network and on standard output."""

from __future__ import annotations

import io
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from autocompress.compressors.modules import count
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.errors import InfeasibleError, MissingRuntimeError
from autocompress.evaluators.runtime import Source
from autocompress.evaluators.runtimes import load
from autocompress.evaluators.runtimes.mnn_convert import convert

from .conftest import Sample

MNN = load("mnn")


@pytest.mark.parametrize(("name", "size", "tolerance"), [("mnn:w8", 0.4, 0.02), ("mnn:fp16", 0.6, 0.002)])
def test_narrow_weights_shrink_the_file(
    sample: Callable[[str], Sample], name: str, size: float, tolerance: float
) -> None:
    """The outputs stay near, but are not the same."""
    it, runtime = sample("float"), load(name)
    artefact = runtime.convert(it.source)
    assert len(artefact) < size * len(MNN.convert(it.source))
    with runtime.build(artefact, threads=1) as engine:
        (output,) = engine.infer(it.batches[1])
    expected = it.expected[1].numpy()
    assert 0 < np.abs(output - expected).max() <= tolerance * np.ptp(expected)


def test_kernels_are_the_layers_with_times(sample: Callable[[str], Sample]) -> None:
    """Each layer's multiply-accumulates are those that PyTorch counts, and each operation took some time."""
    it = sample("pruned")
    kernels = MNN.kernels(MNN.convert(it.source), it.batches[0])
    costs = count(it.compressed.plain, [torch.from_numpy(x) for x in it.batches[0]])
    assert sorted(k.macs for k in kernels if k.macs) == sorted(cost.macs for cost in costs.values())
    assert all(k.milliseconds for k in kernels)


class Two(nn.Module):
    """Takes inputs that must not be mixed up, one of them integers, and flattens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.head = nn.Linear(12, 4)
        self.table = nn.Embedding(7, 4)

    def forward(self, x: Tensor, chosen: Tensor, y: Tensor) -> Tensor:
        """Return (batch, 4)."""
        h: Tensor = self.head(self.conv(x).flatten(1)) + self.table(chosen) - 2 * y
        return h


def test_inputs_keep_their_order_and_batches_any_size() -> None:
    """As PyTorch takes them, though MNN knows only their names."""
    torch.manual_seed(0)
    network = Two().eval()

    def inputs(batch: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, 2, 4, 4), torch.randint(7, (batch,)), torch.randn(batch, 4)

    source = Source(onnx=to_onnx(network, inputs(1)).SerializeToString())
    with MNN.build(MNN.convert(source), threads=1) as engine:
        for batch in (1, 5, 3):
            it = inputs(batch)
            (output,) = engine.infer([x.numpy() for x in it])
            np.testing.assert_allclose(output, network(*it).detach().numpy(), atol=1e-5)


def test_int8_layers_are_refused_before_the_converter_aborts(sample: Callable[[str], Sample]) -> None:
    """The reason names what MNN has instead; the converter would end its process."""
    source = sample("int8").source
    with pytest.raises(InfeasibleError, match="--runtime mnn:w8"):
        MNN.convert(source)
    with pytest.raises(InfeasibleError, match="crashed with SIGABRT while the model was converted"):
        convert(source.onnx, ())


def unknown_operation() -> bytes:
    """Return an ONNX file with an operation that is in no standard."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Unheard", ["x"], ["y"])], "g", [x], [y])
    file = io.BytesIO()
    onnx.save(helper.make_model(graph), file)
    return file.getvalue()


@pytest.mark.parametrize(("file", "why"), [(b"garbage", "read onnx model failed"), (unknown_operation(), "Unheard")])
def test_what_cannot_be_converted_is_infeasible(file: bytes, why: str) -> None:
    """The converter's own reason is given, in one sentence."""
    with pytest.raises(InfeasibleError, match=why) as caught:
        MNN.convert(Source(onnx=file))
    assert caught.value.reason.endswith(".")
    assert "\n" not in caught.value.reason


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is converted."""
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(MissingRuntimeError, match=r"pip install 'autocompress\[mnn\]'"):
        MNN.convert(Source(onnx=b""))


SERVE = """
import sys
from pathlib import Path
import numpy as np
from autocompress.evaluators.runtime import Source
from autocompress.evaluators.runtimes import load
runtime = load("mnn:w8")
artefact = runtime.convert(Source(onnx=Path(sys.argv[1]).read_bytes()))
with runtime.build(artefact, threads=1) as engine:
    engine.infer([np.zeros((1, 3, 16, 16), np.float32)])
"""

NO_NETWORK = """
import ctypes, struct
code = lambda op, jump, other, value: struct.pack("HBBI", op, jump, other, value)
load, equal, give = 0x20, 0x15, 0x06
allow, kill = 0x7FFF0000, 0x80000000
program = b"".join([
    code(load, 0, 0, 4), code(equal, 0, 6, 0xC000003E),  # on x86-64 …
    code(load, 0, 0, 0), code(equal, 0, 4, 41),  # … the system call socket() …
    code(load, 0, 0, 16), code(equal, 1, 0, 2), code(equal, 0, 1, 10),  # … for IPv4 or IPv6 …
    code(give, 0, 0, kill), code(give, 0, 0, allow),  # … ends the process
])
buffer = ctypes.create_string_buffer(program)
head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, head, 0, 0) == 0, ctypes.get_errno()
"""
"""A filter of the kernel's (seccomp), which native code and child processes cannot get around."""


@pytest.fixture
def model(tmp_path: Path, sample: Callable[[str], Sample]) -> Path:
    """Return the path of an ONNX file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(sample("float").source.onnx)
    return path


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the filter is for Linux on x86-64"
)
@pytest.mark.parametrize("domain", ["AF_INET", "AF_INET6"])
def test_nothing_reaches_for_the_network(model: Path, domain: str) -> None:
    """Converting and serving survive where a process that asks for an Internet socket is killed."""
    run = [sys.executable, "-c"]
    subprocess.run([*run, NO_NETWORK + SERVE, str(model)], check=True, capture_output=True)
    guilty = f"import socket; socket.socket(socket.{domain})"
    assert subprocess.run([*run, NO_NETWORK + guilty], capture_output=True).returncode < 0
    assert subprocess.run([*run, guilty], capture_output=True).returncode == 0


def test_standard_output_stays_clean(model: Path) -> None:
    """MNN's remarks go where messages belong."""
    done = subprocess.run([sys.executable, "-c", SERVE, str(model)], check=True, capture_output=True, text=True)
    assert done.stdout == ""
    assert "MNN use high precision" in done.stderr
