"""What is special to PyTorch: programs in TorchScript, exported, compiled; threads; what it refuses."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import InfeasibleError, MissingRuntimeError
from autocompress.evaluators.runtime import Source, low_precision
from autocompress.evaluators.runtimes.pytorch import VARIANTS
from autocompress.evaluators.runtimes.pytorch_programs import batch_of, export, write
from autocompress.evaluators.scratch import FOLDER

from .conftest import Sample

Samples = Callable[[str], Sample]

ROWS = torch.linspace(-1, 1, 40).reshape(5, 8)


class Several(nn.Module):
    """Gives a tuple with a dictionary in it."""

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the double, and the largest places."""
        return 2 * x, {"places": x.argmax(1)}


class Pairs(nn.Module):
    """Knows that its batch has two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(8.0))

    def forward(self, x: Tensor) -> Tensor:
        """Map (2, 8) to (2, 8)."""
        return (x.reshape(2, 2, 4) + 1).reshape(2, 8) * self.weight


@pytest.fixture(scope="module")
def linear() -> tuple[Source, NDArray[np.float32]]:
    """Return a tiny network, and what it makes of all rows."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        return Source(onnx=b"", module=network, examples=[ROWS[:2].numpy()]), network(ROWS).numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_has_no_int8(sample: Samples, variant: str) -> None:
    """Quantized layers would be served in float: that would be another network's latency."""
    with pytest.raises(InfeasibleError, match="no INT8 kernels"):
        VARIANTS[variant].convert(sample("int8").source)


@pytest.mark.parametrize("variant", VARIANTS)
def test_onnx_alone_is_answered_with_the_way_out(variant: str) -> None:
    """The message names the kind of file that it serves."""
    with pytest.raises(InfeasibleError, match=r"give a .* file \(\.pt2?\)\.$"):
        VARIANTS[variant].convert(Source(onnx=b""))


def test_threads_are_the_engines_and_then_the_process_s(linear: tuple[Source, NDArray[np.float32]]) -> None:
    """Two engines set their own before each run; afterwards the process has its number back."""
    runtime = VARIANTS[""]
    artefact, before = runtime.convert(linear[0]), torch.get_num_threads()
    with runtime.build(artefact, threads=1) as one, runtime.build(artefact, threads=3) as three:
        for _ in range(2):
            for engine, threads in ((one, 1), (three, 3)):
                engine.infer([ROWS.numpy()])
                assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_torchscript_of_others_may_give_several_outputs() -> None:
    """They are listed in order; integers stay integers."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Several()), file)
    with VARIANTS[""].build(file.getvalue(), threads=1) as engine:
        double, places = engine.infer([ROWS.numpy()])
    np.testing.assert_array_equal(double, 2 * ROWS.numpy())
    assert places.dtype == np.int64


def test_kernels_of_a_program_bear_the_layers_names(sample: Samples) -> None:
    """Their times are the layers' without any guess."""
    it = sample("float")
    runtime = VARIANTS["eager"]
    kernels = runtime.kernels(runtime.convert(it.source), it.batches[0])
    assert it.source.module is not None
    layers = {name for name, module in it.source.module.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    assert {kernel.name for kernel in kernels if kernel.macs} == layers
    assert sum(kernel.macs for kernel in kernels) == it.compressed.macs
    assert all(kernel.milliseconds for kernel in kernels)


def test_bf16_is_near_float_and_another(sample: Samples) -> None:
    """Half the file, 16 bits in every layer, and float32 at both ends."""
    it = sample("float")
    runtime, floats = VARIANTS["bf16"], VARIANTS["eager"].convert(it.source)
    artefact = runtime.convert(it.source)
    assert low_precision(runtime.kernels(artefact, it.batches[0])) == 1
    assert len(artefact) < 0.8 * len(floats)
    with runtime.build(artefact, threads=1) as engine:
        (output,) = engine.infer(it.batches[1])
    assert output.dtype == np.float32
    expected = it.expected[1].numpy()
    assert 0 < np.abs(output - expected).max() <= 0.03 * (expected.max() - expected.min())
    with pytest.raises(InfeasibleError, match="serves programs in bfloat16"), runtime.build(floats, threads=1):
        pass


def test_network_that_knows_its_batch_runs_in_pieces() -> None:
    """The last piece is filled up, and what it was filled with is cut off."""
    network = Pairs()
    program = export(network, [ROWS[:2].numpy()])
    assert batch_of(program) == 2
    with torch.no_grad():
        expected = (ROWS + 1) * network.weight
    with VARIANTS["eager"].build(write(program), threads=1) as engine:
        (output,) = engine.infer([ROWS.numpy()])
    np.testing.assert_array_equal(output, expected.numpy())


@pytest.mark.parametrize("variant", ["compile", pytest.param("aoti", marks=pytest.mark.slow)])
def test_compiled_programs_compute_the_same(linear: tuple[Source, NDArray[np.float32]], variant: str) -> None:
    """For batches of another size than the examples' too, and the first outputs stay."""
    from torch._inductor import config

    source, expected = linear
    runtime = VARIANTS[variant]
    with (
        config.patch(cpp_cache_precompile_headers=False),  # they pay off from the second program on
        runtime.build(runtime.convert(source), threads=1) as engine,
    ):
        (output,) = engine.infer([ROWS.numpy()])
        engine.infer([-ROWS.numpy()])
    np.testing.assert_allclose(output, expected, atol=1e-5)
    assert output.dtype == np.float32


@pytest.mark.parametrize("named", [None, "torchinductor_me", "elsewhere/mine"])
def test_compiled_code_is_kept_where_nobody_else_can_write(
    named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor's own place, whose name anybody can make first, is not used; one that the user has named is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    if named is not None:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / named))
    VARIANTS["compile"].describe()
    mine = tmp_path / FOLDER / "torchinductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / named if named == "elsewhere/mine" else mine)


@pytest.mark.parametrize("variant", ["compile", "aoti"])
def test_missing_compiler_is_one_sentence(
    linear: tuple[Source, NDArray[np.float32]], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the way out, before anything is compiled."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    for use in (VARIANTS[variant].describe, lambda: VARIANTS[variant].convert(linear[0])):
        with pytest.raises(MissingRuntimeError, match="needs a C\\+\\+ compiler"):
            use()


@pytest.mark.parametrize("variant", ["bf16", "compile", "aoti"])
def test_garbage_is_refused(variant: str) -> None:
    """By the variants that the contract does not try, in one sentence."""
    with pytest.raises(InfeasibleError, match=r"it is no \.pt2 archive\.$"), VARIANTS[variant].build(b"x", threads=1):
        pass
