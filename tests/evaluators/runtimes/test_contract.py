"""The contract of every runtime that works on a machine without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from autocompress.errors import InfeasibleError
from autocompress.evaluators.runtime import Runtime, low_precision
from autocompress.evaluators.runtimes import cache_key, load

from .conftest import Sample

HERE = ("onnxruntime", "openvino", "pytorch", "pytorch:eager", "fake", "litert", "mnn", "mnn:fp16")

KINDS = {"float": 0.002, "pruned": 0.002, "int8": 0.1, "mixed": 0.1}
"""The largest difference from PyTorch, as a share of the outputs' range."""

Samples = Callable[[str], Sample]


@pytest.fixture(params=HERE, scope="module")
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Return every runtime in turn."""
    return load(request.param)


@pytest.fixture
def artefact(runtime: Runtime, converted: Callable[[str, str], bytes]) -> Callable[[str], bytes]:
    """Return a network by name in the runtime's own file."""
    return lambda kind: converted(runtime.name, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_pytorch_does(
    runtime: Runtime, artefact: Callable[[str], bytes], sample: Samples, kind: str
) -> None:
    """On batches of any size, in one thread and in two, as float32."""
    if kind in ("int8", "mixed") and 8 not in runtime.capabilities.bits:
        pytest.skip("it has no INT8 that pays")
    it = sample(kind)
    for threads in (1, 2):
        with runtime.build(artefact(kind), threads=threads) as engine:
            for inputs, expected in zip(it.batches, it.expected, strict=True):
                (output,) = engine.infer(inputs)
                assert output.shape == tuple(expected.shape)
                assert output.dtype == np.float32
                difference = float((torch.from_numpy(np.array(output)) - expected).abs().max())
                assert difference <= KINDS[kind] * float(expected.max() - expected.min())


def test_what_it_returned_stays(runtime: Runtime, artefact: Callable[[str], bytes], sample: Samples) -> None:
    """A second run does not change the first one's outputs."""
    it = sample("float")
    with runtime.build(artefact("float"), threads=1) as engine:
        (first,) = engine.infer(it.batches[0])
        before = first.copy()
        engine.infer([-x for x in it.batches[0]])
    np.testing.assert_array_equal(first, before)


def test_two_engines_live_side_by_side(runtime: Runtime, artefact: Callable[[str], bytes], sample: Samples) -> None:
    """As the baseline and the candidate do while they are timed in turns."""
    one, other = sample("float"), sample("pruned")
    with (
        runtime.build(artefact("float"), threads=1) as first,
        runtime.build(artefact("pruned"), threads=1) as second,
    ):
        for _ in range(2):
            for engine, it in ((first, one), (second, other)):
                (output,) = engine.infer(it.batches[0])
                np.testing.assert_allclose(output, it.expected[0].numpy(), atol=0.02)


def test_refused_model_is_infeasible(runtime: Runtime) -> None:
    """Bytes that are no model end at the rung of building, in one sentence."""
    with pytest.raises(InfeasibleError) as caught, runtime.build(b"garbage", threads=1):
        pass
    assert caught.value.rung == "build"
    assert caught.value.reason.endswith(".")
    assert "\n" not in caught.value.reason


def test_kernels_tell_what_is_executed(runtime: Runtime, artefact: Callable[[str], bytes], sample: Samples) -> None:
    """Where a runtime tells its kernels, their multiply-accumulates are the network's, and INT8 is seen."""
    it = sample("float")
    kernels = runtime.kernels(artefact("float"), it.batches[0])
    if not kernels:
        assert runtime.name in ("fake", "pytorch")
        return
    assert low_precision(kernels) == 0 or ":" in runtime.name
    if any(kernel.macs for kernel in kernels):
        assert sum(kernel.macs for kernel in kernels) == pytest.approx(it.compressed.macs, rel=0.2)
    if 8 in runtime.capabilities.bits:
        assert low_precision(runtime.kernels(artefact("int8"), it.batches[0])) > 0.9


def test_description_has_versions_and_device(runtime: Runtime) -> None:
    """Numbers without them cannot be compared."""
    described = runtime.describe()
    assert {"python", "platform", "cpu", "cores"} <= set(described)
    assert len(described) > 4
    assert all(described.values())


def test_name_and_capabilities_agree(runtime: Runtime) -> None:
    """The table of a runtime bears its name, and float32 is always there."""
    assert runtime.capabilities.runtime == runtime.name
    assert 32 in runtime.capabilities.bits
    assert runtime.capabilities.reads


def test_cache_key_knows_file_and_options(runtime: Runtime) -> None:
    """What could build another engine has another key."""
    keys = [cache_key(runtime, b"a"), cache_key(runtime, b"b"), cache_key(runtime, b"a", threads=2)]
    assert len(set(keys)) == 3
    assert keys[0] == cache_key(runtime, b"a")
