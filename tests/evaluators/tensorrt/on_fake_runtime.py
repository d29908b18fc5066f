"""How the runtime builds, keeps and serves engines; run as `test_fake_driver.py` says."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from autocompress.errors import InfeasibleError, MissingRuntimeError
from autocompress.evaluators.meters.latency import Plan, device_of
from autocompress.evaluators.meters.timing_process import serve
from autocompress.evaluators.runtime import DeviceEngine, Source, low_precision
from autocompress.evaluators.runtimes import load
from autocompress.evaluators.runtimes.tensorrt import TensorRt
from autocompress.evaluators.tensorrt.open_device import open_device

from .driver import FakeDriver
from .misuses import MISUSES, REMOVED
from .world import MANIFESTS, PLAN, World

UUID = "00010203-0405-0607-0809-0a0b0c0d0e0f"

NO_DEVICE = 100


def identity(batch: int | str = "batch") -> bytes:
    """Return an ONNX file of a network that returns its input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 4, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def images(batch: int) -> list[np.ndarray]:
    """Return random inputs."""
    return [np.random.default_rng(batch).normal(size=(batch, 3, 4, 4)).astype(np.float32)]


@pytest.fixture(params=MANIFESTS)
def world(
    request: pytest.FixtureRequest,
    driver: FakeDriver,
    binding: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """Return a world whose TensorRT is the one that is imported, with an empty cache, for each version in turn."""
    made = World(str(request.param), enqueue=driver.work)
    monkeypatch.setitem(sys.modules, "tensorrt", made.trt)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return made


@pytest.fixture
def runtime(world: World) -> TensorRt:
    """Return the runtime in that world."""
    found = load("tensorrt")
    assert isinstance(found, TensorRt)
    return found


def converted(runtime: TensorRt, batch: int = 4) -> bytes:
    """Return the runtime's own file for a batch size."""
    return runtime.convert(Source(onnx=identity(), examples=images(batch)))


def test_the_graph_is_served_as_it_is(runtime: TensorRt) -> None:
    """Converting adds a note of the shapes, and leaves the graph alone."""
    assert onnx.load_from_string(converted(runtime)).graph == onnx.load_from_string(identity()).graph
    assert runtime.convert(Source(onnx=identity())) == identity()


def test_an_engine_is_built_for_the_shapes_of_the_examples(world: World, runtime: TensorRt) -> None:
    """At once, and other batches are served by it too."""
    with runtime.build(converted(runtime), threads=1) as engine:
        assert world.seen["shapes"] == {"x": ((4, 3, 4, 4),) * 3}
        assert isinstance(engine, DeviceEngine)
        for batch in (1, 4, 7):
            (output,) = engine.infer(images(batch))
            np.testing.assert_array_equal(output, images(batch)[0])
    assert world.seen["builds"] == 1


def test_a_file_that_tells_no_shape_is_built_for_the_first_inputs(world: World, runtime: TensorRt) -> None:
    """A file of a user's own leaves the batch open."""
    with runtime.build(identity(), threads=1) as engine:
        assert "builds" not in world.seen
        engine.infer(images(2))
        engine.infer(images(3))
    assert world.seen["shapes"] == {"x": ((2, 3, 4, 4),) * 3}
    assert world.seen["builds"] == 1


def test_a_file_with_a_fixed_shape_needs_none(world: World, runtime: TensorRt) -> None:
    """It is built at once, without a profile."""
    world.declared = (4, 3, 4, 4)
    with runtime.build(identity(4), threads=1) as engine:
        assert world.seen["builds"] == 1
        engine.infer(images(4))
    assert "shapes" not in world.seen


def test_an_engine_is_served_as_it_is(world: World, runtime: TensorRt) -> None:
    """A .plan is not built again."""
    with runtime.build(PLAN, threads=1) as engine:
        engine.infer(images(4))
    assert "builds" not in world.seen


def test_engines_and_timings_are_kept(world: World, runtime: TensorRt, tmp_path: Path) -> None:
    """The same file for the same shapes is built once; others are built with the timings so far."""
    for batch in (4, 4, 2):
        with runtime.build(converted(runtime, batch), threads=1):
            pass
    assert world.seen["builds"] == 2
    kept = sorted(path for path in (tmp_path / "autocompress" / "tensorrt").iterdir())
    assert sorted(path.suffix for path in kept) == [".plan", ".plan", ".timings"]
    (timings,) = (path for path in kept if path.suffix == ".timings")
    assert timings.read_bytes() == b"+timings+timings"


def test_a_refused_file_is_kept_nowhere(world: World, runtime: TensorRt, tmp_path: Path) -> None:
    """It ends at the rung of building, in one sentence, and the next attempt builds again."""
    world.plan = None
    for attempt in (1, 2):
        with pytest.raises(InfeasibleError) as caught, runtime.build(converted(runtime), threads=1):
            pass
        assert caught.value.rung == "build"
        assert re.fullmatch(r"[^\n]*\.", caught.value.reason)
        assert world.seen["builds"] == attempt
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_times_come_with_their_conditions(world: World, runtime: TensorRt, binding: str) -> None:
    """The mode, the package, the GPU and its state before and after."""
    with runtime.build(converted(runtime), threads=1) as engine:
        assert engine.device_ns(images(4), 5) == [world.nanoseconds] * 5
        told = engine.conditions()
    assert told["gpu_mode"] == "cuda-graph"
    assert told["gpu_uuid"] == UUID
    assert told["cuda_binding"].startswith(binding)
    assert {"gpu_clock_mhz_before", "gpu_clock_mhz_after", "enqueue_bound", "sparse_layers"} <= set(told)


def test_the_timing_protocol_uses_the_gpus_clock(world: World, runtime: TensorRt, tmp_path: Path) -> None:
    """Baseline and candidate live side by side, and every time is the GPU's."""
    for name in ("model0", "model1"):
        (tmp_path / name).write_bytes(converted(runtime))
    np.savez(tmp_path / "inputs.npz", *images(4))
    plan = Plan(min_windows=2, max_windows=2, gap_s=0.0, min_runs=10, min_window_s=0.0, tolerance=1.0, block_s=0.0)
    result = serve(tmp_path, {"runtimes": ["tensorrt"] * 2, "threads": 1, "plan": asdict(plan), "references_ms": [1.0]})
    assert result["clock"] == "device"
    windows = [times for times, _ in result["windows"]]  # type: ignore[attr-defined]
    assert windows == [((world.nanoseconds,) * 10,) * 2] * 2


def test_kernels_are_those_of_the_engine(runtime: TensorRt) -> None:
    """With their bits, so that the share of INT8 is known."""
    kernels = runtime.kernels(converted(runtime), images(4))
    assert [kernel.bits for kernel in kernels] == [8, 16]
    assert low_precision(kernels) == 1.0


def test_version_and_gpu_are_described(world: World, runtime: TensorRt) -> None:
    """They are stored with every number, and the lock is the GPU's."""
    described = runtime.describe()
    assert described["tensorrt"] == world.trt.__version__
    assert (described["gpu"], described["gpu_uuid"]) == ("Fake GPU", UUID)
    assert (described["compute_capability"], described["cuda_driver"]) == ("8.6", "13.0")
    assert device_of("tensorrt") == runtime.device_key() == f"gpu-{UUID}"


def test_a_machine_without_a_gpu_is_told_so(runtime: TensorRt, driver: FakeDriver) -> None:
    """In one sentence, whatever is asked first."""
    driver.fail("cuInit", NO_DEVICE)
    for ask in (runtime.describe, runtime.device_key, runtime.build(converted(runtime), threads=1).__enter__):
        with pytest.raises(MissingRuntimeError, match="needs an NVIDIA GPU and its driver; none can be used"):
            ask()


def test_a_gpu_that_others_hold_is_told_so(runtime: TensorRt, driver: FakeDriver) -> None:
    """It may be theirs exclusively."""
    driver.fail("cuStreamCreate", 46)
    with pytest.raises(MissingRuntimeError, match="needs a GPU that it may use"):
        open_device()


def test_no_package_for_the_gpu_is_told_so(runtime: TensorRt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has both reasons and a command."""
    for package in ("pycuda", "cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingRuntimeError, match="pip install cuda-bindings"):
        open_device()


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> dict[str, types.ModuleType]:
    """Return empty modules by name, for sources that a test may spoil."""
    made: dict[str, types.ModuleType] = {}
    for name in MISUSES:
        made[name] = types.ModuleType(f"autocompress.evaluators.tensorrt.spoilt_{name}")
        made[name].__package__ = "autocompress.evaluators.tensorrt"
        monkeypatch.setitem(sys.modules, made[name].__name__, made[name])
    return made


def use_all(modules: dict[str, types.ModuleType], sources: dict[str, str], world: World) -> None:
    """Build and run an engine with modules of these sources."""
    for name, module in modules.items():
        exec(compile(sources[name], f"spoilt {name}", "exec"), module.__dict__)
    build, session = modules["build"], modules["session"]
    options = build.BuildOptions(workspace_bytes=1 << 30, sparse=True, timing_cache=b"old")
    built = build.build(world.trt, b"a file", shapes={"x": world.served}, options=options)
    device, _ = open_device()
    try:
        running = session.TensorRtSession(world.trt, device, built.plan, warm_up_s=0.0)
        running.infer(images(4))
        running.device_ns(images(4), 2)
        running.kernels(images(4))
        running.conditions()
    finally:
        device.close()


def sources() -> dict[str, str]:
    """Return the modules' own sources."""
    specs = {name: find_spec(f"autocompress.evaluators.tensorrt.{name}") for name in MISUSES}
    return {name: Path(str(spec and spec.origin)).read_text() for name, spec in specs.items()}


def test_copies_of_the_modules_work(world: World, copies: dict[str, types.ModuleType]) -> None:
    """Otherwise the tests that spoil them would show nothing."""
    use_all(copies, sources(), world)


@pytest.mark.parametrize("misuse", [misuse for pairs in MISUSES.values() for misuse in pairs], ids=lambda it: it[1])
def test_misuse_of_the_interface_is_caught(
    world: World, copies: dict[str, types.ModuleType], misuse: tuple[str, str]
) -> None:
    """The strict fake refuses what the real bindings refuse, in each of these places."""
    right, wrong = misuse
    originals = sources()
    (module,) = (name for name, pairs in MISUSES.items() if misuse in pairs)
    assert right in originals[module]
    with pytest.raises((AttributeError, TypeError, NotImplementedError)):
        use_all(copies, {**originals, module: originals[module].replace(right, wrong)}, world)


@pytest.mark.parametrize("removed", REMOVED, ids=lambda it: it[1])
def test_what_11_has_removed_is_not_used(copies: dict[str, types.ModuleType], removed: tuple[str, str]) -> None:
    """What 10.16 still has is an error in 11."""
    right, wrong = removed
    originals = sources()
    assert right in originals["build"]
    with pytest.raises(AttributeError):
        use_all(copies, {**originals, "build": originals["build"].replace(right, wrong)}, World("api-11.4.json"))
