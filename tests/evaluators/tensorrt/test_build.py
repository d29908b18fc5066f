"""How engines are built, on the strict fake of each version."""

from __future__ import annotations

import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.tensorrt.build import BuildOptions, build
from autocompress.evaluators.tensorrt.log import logger

from .world import MANIFESTS, PLAN, ParserError, World

SHAPES = {"x": ((1, 3, 4, 4), (4, 3, 4, 4), (8, 3, 4, 4))}

FAILURES = {
    "parser": (
        {"parser_errors": [ParserError()]},
        "TensorRT cannot read the model: UNSUPPORTED_NODE at node 3 'foo_3' (Foo): no importer for it.",
    ),
    "file": (
        {"parser_errors": [ParserError(code="MODEL_DESERIALIZE_FAILED", node=-1, text="no protobuf")]},
        "TensorRT cannot read the model: MODEL_DESERIALIZE_FAILED at the file: no protobuf.",
    ),
    "empty": ({"outputs": 0}, "TensorRT cannot read the model: the network in it has no outputs."),
    "profile": (
        {"profile_index": -1, "says": [("ERROR", "Error Code 3: profile->isValid().")]},
        "TensorRT rejects the shapes 'x' ((1, 3, 4, 4), (4, 3, 4, 4), (8, 3, 4, 4)): Error Code 3: profile->isValid().",
    ),
    "unsupported": (
        {"plan": None, "says": [("WARNING", "slow"), ("ERROR", "no implementation for node fc."), ("ERROR", "gone")]},
        "TensorRT cannot build the model: no implementation for node fc.",
    ),
    "silent": ({"plan": None}, "TensorRT cannot build the model: it gave no reason."),
    "memory": (
        {"plan": None, "says": [("ERROR", "Error Code 2: OutOfMemory (Requested size was 5 bytes.)")]},
        "TensorRT ran out of the GPU's memory while it built the model: "
        "Error Code 2: OutOfMemory (Requested size was 5 bytes.).",
    ),
}


@pytest.fixture(params=MANIFESTS)
def version(request: pytest.FixtureRequest) -> str:
    """Return the manifest of each version in turn."""
    return str(request.param)


def test_a_network_is_built(version: str) -> None:
    """The plan and the grown cache of timings come back; the options reach the builder."""
    world = World(version)
    options = BuildOptions(workspace_bytes=1 << 28, optimization_level=5, timing_cache=b"old", sparse=True)
    built = build(world.trt, b"a file", shapes=SHAPES, options=options)
    assert (built.plan, built.timing_cache) == (PLAN, b"old+timings")
    assert world.seen["limit"] == (world.trt.MemoryPoolType.WORKSPACE, 1 << 28)
    assert world.seen["flags"] == [world.trt.BuilderFlag.SPARSE_WEIGHTS]
    assert world.seen["config"]["builder_optimization_level"] == 5
    assert world.seen["config"]["profiling_verbosity"] == world.trt.ProfilingVerbosity.DETAILED
    assert world.seen["shapes"] == SHAPES


def test_nothing_is_limited_unless_asked(version: str) -> None:
    """Without options there is no limit of memory and no sparsity, and a fixed shape needs no profile."""
    world = World(version, declared=(4, 3, 4, 4))
    build(world.trt, b"a file")
    assert not {"limit", "flags", "shapes"} & set(world.seen)


def test_timings_of_another_gpu_are_left_alone(version: str) -> None:
    """A cache that does not fit is replaced by an empty one."""
    world = World(version, takes_timings=False)
    built = build(world.trt, b"a file", shapes=SHAPES, options=BuildOptions(timing_cache=b"of another GPU"))
    assert built.timing_cache == b"+timings"


def test_chosen_sparse_kernels_are_told(version: str) -> None:
    """As the builder's report names them; what it says beside is kept from warnings on."""
    world = World(version)
    world.says = [
        ("INFO", "Total Weights Memory: 1 byte"),
        ("WARNING", "something"),
        ("VERBOSE", "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: a + relu, b"),
        ("INFO", "(Sparsity) Chose 1 layer(s) using sparse tactics: a + relu"),
    ]
    built = build(world.trt, b"a file", shapes=SHAPES, options=BuildOptions(sparse=True))
    assert built.sparse_layers == ("a + relu",)
    assert len(built.log) == 3


@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_has_its_own_reason(version: str, failure: str) -> None:
    """One sentence that tells what to look at."""
    settings, reason = FAILURES[failure]
    with pytest.raises(InfeasibleError) as caught:
        build(World(version, **settings).trt, b"a file", shapes=SHAPES)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    assert caught.value.rung == "build"


@pytest.mark.parametrize(
    "said",
    [
        "Error Code 10: Internal Error (Could not find any implementation for node a due to insufficient workspace.)",
        "Tactic Selection: no tactics to implement the operation within workspace limit.",
        "Error Code 2: OutOfMemory (Requested size was 268435456 bytes.)",
    ],
)
def test_a_limit_that_is_too_small_is_not_the_models_fault(version: str, said: str) -> None:
    """The reason names the limit and the way out, in whatever words the builder has."""
    world = World(version, plan=None, says=[("ERROR", said)])
    with pytest.raises(InfeasibleError, match="workspace of 4,096 bytes: raise workspace_bytes, or leave it out"):
        build(world.trt, b"a file", shapes=SHAPES, options=BuildOptions(workspace_bytes=4096))


@pytest.mark.parametrize(
    "shapes",
    [
        ((4, 3, 4, 4), (1, 3, 4, 4), (8, 3, 4, 4)),
        ((1, 3, 4, 4), (8, 3, 4, 4), (4, 3, 4, 4)),
        ((1, 2, 4, 4), (4, 2, 4, 4), (8, 2, 4, 4)),
        ((1, 3, 4), (4, 3, 4), (8, 3, 4)),
    ],
)
def test_shapes_must_grow_and_fit(version: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    """TensorRT raises nothing when shapes are set that shrink, or are not the file's; we do."""
    world = World(version)
    with pytest.raises(InfeasibleError, match="must fit it and grow"):
        build(world.trt, b"a file", shapes={"x": shapes})  # type: ignore[dict-item]
    assert "shapes" not in world.seen


def test_an_open_shape_is_asked_for(version: str) -> None:
    """The reason names the input."""
    with pytest.raises(InfeasibleError, match=r"shape of the input 'x' \(-1, 3, 4, 4\); got none"):
        build(World(version).trt, b"a file")


def test_there_is_one_logger_a_process(version: str) -> None:
    """TensorRT ignores all but the first; what it said before is not told again."""
    world = World(version, says=[("WARNING", "something")])
    first = build(world.trt, b"a file", shapes=SHAPES)
    second = build(world.trt, b"a file", shapes=SHAPES)
    assert logger(world.trt) is world.seen["logger"]
    assert first.log == second.log == ("WARNING: something",)


def test_capabilities_are_for_rtx_only(version: str) -> None:
    """TensorRT itself builds for the GPU at hand; asking it for others is a mistake of ours."""
    with pytest.raises(AttributeError, match="num_compute_capabilities"):
        build(World(version).trt, b"a file", shapes=SHAPES, options=BuildOptions(capabilities=("SM86",)))
