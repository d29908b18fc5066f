"""How sessions run, time and fail, on a fake driver and the strict fake of each version; see `test_fake_driver.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.runtime import Kernel
from autocompress.evaluators.tensorrt import nvml
from autocompress.evaluators.tensorrt.device import Device
from autocompress.evaluators.tensorrt.open_device import open_device
from autocompress.evaluators.tensorrt.session import TensorRtSession
from autocompress.evaluators.tensorrt.shapes import Interface

from .driver import FakeDriver
from .world import MANIFESTS, PLAN, World

OUT_OF_MEMORY, ILLEGAL_ADDRESS, CAPTURE_UNSUPPORTED = 2, 700, 900

Start = Callable[[], TensorRtSession]


def images(batch: int, seed: int = 0) -> list[np.ndarray]:
    """Return random inputs."""
    return [np.random.default_rng(seed).normal(size=(batch, 3, 4, 4)).astype(np.float32)]


@pytest.fixture(params=MANIFESTS)
def world(request: pytest.FixtureRequest, driver: FakeDriver) -> World:
    """Return a world on the fake driver, for each version in turn."""
    return World(str(request.param), enqueue=driver.work)


@pytest.fixture
def device(driver: FakeDriver, binding: str) -> Iterator[Device]:
    """Return the GPU."""
    opened, _ = open_device()
    yield opened
    opened.close()


@pytest.fixture
def start(world: World, device: Device) -> Iterator[Start]:
    """Return what starts a session, which is closed in the end."""
    started: list[TensorRtSession] = []

    def begin() -> TensorRtSession:
        started.append(TensorRtSession(world.trt, device, PLAN, warm_up_s=0.0))
        return started[-1]

    yield begin
    for session in started:
        session.close()


def test_the_package_and_why_it_was_chosen_are_told(binding: str, device: Device) -> None:
    """The first choice needs no reason, the second has one."""
    opened, why = open_device()
    opened.close()
    assert why.startswith(binding)
    assert ("as pycuda cannot be imported" in why) == (binding != "pycuda")
    assert device.binding.startswith(binding)


@pytest.mark.parametrize("batch", [1, 3, 4, 9])
@pytest.mark.parametrize("smallest", [1, 4])
def test_batches_of_any_size_are_served(world: World, start: Start, batch: int, smallest: int) -> None:
    """What does not fit the engine is split and filled up, and what was filled in does not come out."""
    world.served = ((smallest, 3, 4, 4), *world.served[1:])
    session = start()
    for seed in range(2):
        inputs = images(batch, seed)
        (output,) = session.infer(inputs)
        np.testing.assert_array_equal(output, inputs[0])


@pytest.mark.parametrize("tensors", [("y", "z", "x"), ("z", "x", "y"), ("x", "y")])
def test_inputs_keep_the_models_order(world: World, device: Device, tensors: tuple[str, ...]) -> None:
    """An engine may have another, and may have dropped an input that it does not use."""
    world.tensors = {name: "OUTPUT" if name == "y" else "INPUT" for name in tensors}
    interface = Interface({"x": None, "z": None}, ("y",))
    session = TensorRtSession(world.trt, device, PLAN, interface=interface, warm_up_s=0.0)
    (output,) = session.infer([*images(4, 1), *images(4, 2)])
    np.testing.assert_array_equal(output, images(4, 1)[0])
    session.close()


def test_what_it_returned_stays(start: Start) -> None:
    """A second run does not change the first one's outputs."""
    session = start()
    (first,) = session.infer(images(4, 1))
    before = first.copy()
    session.infer(images(4, 2))
    np.testing.assert_array_equal(first, before)


def test_times_are_the_gpus_alone(world: World, start: Start) -> None:
    """Neither transfers nor the launch of the first run on an idle stream are in them."""
    session = start()
    for runs in (5, 1, 20):
        assert session.device_ns(images(4), runs) == [world.nanoseconds] * runs
    assert session.conditions()["gpu_mode"] == "cuda-graph"


def test_two_sessions_take_turns(world: World, start: Start, binding: str) -> None:
    """As the baseline and the candidate do, each with a stream of its own."""
    other, _ = open_device()
    first, second = start(), TensorRtSession(world.trt, other, PLAN, warm_up_s=0.0)
    for _ in range(2):
        for session in (first, second):
            assert session.device_ns(images(2), 3) == [world.nanoseconds] * 3
    second.close()
    other.close()
    assert first.device_ns(images(2), 3) == [world.nanoseconds] * 3


@pytest.mark.parametrize(("nanoseconds", "expected"), [(1, "yes"), (10**11, "no")])
def test_an_engine_that_waits_for_the_host_is_told(world: World, start: Start, nanoseconds: int, expected: str) -> None:
    """Its times are those of the host, not of the GPU."""
    world.nanoseconds = nanoseconds
    session = start()
    session.device_ns(images(4), 5)
    assert session.conditions()["enqueue_bound"] == expected


def test_without_graphs_work_is_handed_over_one_by_one(world: World, start: Start, driver: FakeDriver) -> None:
    """And the mode is recorded with the reason."""
    driver.fail("cuStreamBeginCapture_v2", CAPTURE_UNSUPPORTED)
    session = start()
    assert session.device_ns(images(4), 5) == [world.nanoseconds] * 5
    assert session.conditions()["gpu_mode"].startswith("enqueue, as it cannot be captured (cuStreamBeginCapture")


@pytest.mark.parametrize("function", ["cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_a_graph_that_cannot_be_made_is_done_without(
    world: World, start: Start, driver: FakeDriver, function: str
) -> None:
    """Wherever its making fails, later runs are right."""
    if function == "cuGraphInstantiateWithFlags":
        driver.fail(function, CAPTURE_UNSUPPORTED)
    else:
        world.enqueue = _with_a_wait(driver)
    session = start()
    (output,) = session.infer(images(4))
    np.testing.assert_array_equal(output, images(4)[0])
    assert session.mode.startswith("enqueue, as")
    assert not driver.capturing(session.device.handle)


def _with_a_wait(driver: FakeDriver) -> Callable[..., None]:
    """Return work that waits for the stream when it is captured, which breaks the capture."""

    def enqueue(stream: int, *arguments: int) -> None:
        driver.work(stream, *arguments)
        if driver.capturing(stream):
            driver.library.cuStreamSynchronize(driver.pointer(stream))

    return enqueue


def test_work_that_fails_while_it_is_captured_leaves_capture_mode(
    world: World, start: Start, driver: FakeDriver
) -> None:
    """Otherwise nothing could run on the stream any more."""
    world.fails_at = 2
    session = start()
    assert session.device_ns(images(4), 5) == [world.nanoseconds] * 5
    assert "TensorRT did not run the engine" in session.mode
    assert not driver.capturing(session.device.handle)


def test_new_shapes_have_new_buffers(world: World, start: Start, driver: FakeDriver) -> None:
    """And the old ones are freed."""
    session = start()
    session.infer(images(4))
    before = driver.live()
    for batch in (1, 4, 2, 4):
        session.infer(images(batch))
    assert driver.live() == before


def test_layers_are_told_with_bits_and_times(start: Start) -> None:
    """Bits from what a layer reads, times from the profiler, multiply-accumulates from its shapes."""
    assert start().kernels(images(2)) == [
        Kernel(name="conv1 + relu1", kind="CaskConvolution", bits=8, milliseconds=1.0, macs=216 * 2 * 4 * 4),
        Kernel(name="fc", kind="gemm", bits=16, milliseconds=0.5, macs=2 * 10 * 128),
    ]


def test_sparse_kernels_are_counted(start: Start) -> None:
    """By what the inspector says that was chosen."""
    session = start()
    session.infer(images(1))
    assert session.conditions()["sparse_layers"] == "1"


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "context": ({"context": False}, r"cannot set the engine up in the GPU's memory"),
    "shape": ({"served": ((1, 3, 2, 2),) * 3}, r"from \(1, 3, 2, 2\) to \(1, 3, 2, 2\): build it for this shape"),
    "unknown": ({"unknown_shapes": ["x", "z"]}, r"lacks the shapes of x, z"),
    "type": ({"output_type": "BF16"}, r"'y' has the type BF16, which NumPy lacks"),
    "address": ({"takes_addresses": False}, r"does not take a buffer for 'x'"),
    "enqueue": ({"fails_at": 1}, r"The GPU failed while the model was run: TensorRT did not run the engine"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_what_tensorrt_refuses_has_a_reason(world: World, start: Start, refusal: str) -> None:
    """One sentence, and nothing is left behind."""
    settings, reason = REFUSALS[refusal]
    for name, value in settings.items():
        setattr(world, name, value)
    with pytest.raises(InfeasibleError, match=reason) as caught:
        start().infer(images(1))
    assert caught.value.reason.endswith(".")


def test_outputs_whose_size_depends_on_values_are_refused(world: World, start: Start) -> None:
    """There is no buffer of the right size for them."""
    world.behaviour["IExecutionContext.get_tensor_shape"] = lambda _, name: world.shape if name == "x" else (-1, 10)
    with pytest.raises(InfeasibleError, match="output 'y' depends on the inputs' values"):
        start().infer(images(1))


def test_a_damaged_engine_is_refused(world: World, device: Device) -> None:
    """With what TensorRT says of it."""
    with pytest.raises(InfeasibleError, match="cannot load the engine: Error Code 1: the magic tag does not match"):
        TensorRtSession(world.trt, device, b"ftrt, damaged")


@pytest.mark.parametrize(
    ("function", "status", "after"),
    [
        ("cuMemAlloc_v2", OUT_OF_MEMORY, 0),
        ("cuMemAlloc_v2", OUT_OF_MEMORY, 1),
        ("cuMemsetD8Async", ILLEGAL_ADDRESS, 0),
        ("cuStreamSynchronize", ILLEGAL_ADDRESS, 0),
        ("cuMemcpyHtoDAsync_v2", ILLEGAL_ADDRESS, 0),
        ("cuGraphLaunch", ILLEGAL_ADDRESS, 0),
        ("cuMemcpyDtoHAsync_v2", ILLEGAL_ADDRESS, 0),
    ],
)
def test_what_the_gpu_fails_at_has_a_reason(
    start: Start, driver: FakeDriver, function: str, status: int, after: int
) -> None:
    """Wherever it fails, what was allocated before is freed."""
    session = start()
    driver.fail(function, status, after)
    with pytest.raises(InfeasibleError, match="The GPU failed while the model was run: cu") as caught:
        session.infer(images(4))
    assert caught.value.rung == "build"


@pytest.mark.parametrize("function", ["cuEventCreate", "cuEventRecord", "cuEventElapsedTime_v2"])
def test_what_fails_while_it_is_timed_ends_there(start: Start, driver: FakeDriver, function: str) -> None:
    """The candidate ends at the rung of latency."""
    session = start()
    driver.fail(function, ILLEGAL_ADDRESS)
    with pytest.raises(InfeasibleError, match="while the model was timed") as caught:
        session.device_ns(images(4), 5)
    assert caught.value.rung == "latency"


def test_clocks_heat_and_neighbours_are_read() -> None:
    """From NVML, by the GPU's UUID; our own process is no neighbour."""
    assert nvml.conditions("00010203-0405-0607-0809-0a0b0c0d0e0f", "before") == {
        "gpu_clock_mhz_before": "1410",
        "gpu_memory_clock_mhz_before": "9501",
        "gpu_temperature_c_before": "83",
        "gpu_slowed_by_before": "SwPowerCap, SwThermalSlowdown",
        "gpu_other_processes_before": "1",
    }


def test_a_gpu_that_nvml_does_not_know_is_said_to_be_unread() -> None:
    """Nothing is made up for it."""
    assert nvml.conditions("another", "after") == {"gpu_state_after": "unavailable"}
