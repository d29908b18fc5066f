"""What a candidate costs besides time, on one runtime and on several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.ladder.resources import SLACK, ResourceLimits
from autocompress.evaluators.measurement import Deployment, Infeasible, Latency, Measurement, Window
from autocompress.evaluators.meters.latency import Calibration, Plan
from autocompress.spaces.candidate import Candidate

ORT, VINO = Deployment("ort"), Deployment("vino")

FILES = {ORT: b"x" * 100, VINO: b"x" * 200}


class Scales:
    """A meter of which the file's length is its memory, and half of that its energy; refuses and hides on demand."""

    def __init__(self, *, refuses: tuple[str, ...] = (), hides: tuple[str, ...] = ()) -> None:
        self.refuses = refuses
        self.hides = hides
        self.asked: list[tuple[str, str | None]] = []

    def calibrate(self, plan: Plan, *, timeout_s: float | None = None) -> Calibration:
        """Refuse: nobody asks."""
        raise NotImplementedError

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Refuse: nobody asks."""
        raise NotImplementedError

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the length of the file."""
        self.asked.append(("memory", runtime))
        if runtime in self.refuses:
            raise InfeasibleError(f"{runtime} crashed", rung="build")
        return None if runtime in self.hides else len(artefact)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return half of the length of the file."""
        self.asked.append(("energy", runtime))
        return len(artefact) / 2


def spending(
    meter: Scales,
    *,
    size: float | None = None,
    memory: float | None = None,
    energy: float | None = None,
    also: tuple[str, ...] = (),
    compact: bool = False,
) -> ResourceLimits:
    """Return the weighed costs of a candidate under limits."""
    request = Request(
        folder="",
        candidate=Candidate(),
        epochs=0,
        max_size_bytes=size,
        max_memory_bytes=memory,
        max_energy_mj=energy,
        also=also,
    )
    found = ResourceLimits(request, {"": meter}, compact=compact)
    found.weigh({place: len(file) for place, file in FILES.items()})
    return found


@contextmanager
def on(rung: str) -> Iterator[None]:
    """Begin a rung."""
    yield


def measured(runtime: str) -> Measurement:
    """Return a measurement on a runtime."""
    latency = Latency(windows=(Window(baseline_ns=(1,), candidate_ns=(1,)),), baseline_ms=1.0, runtime=runtime)
    return Measurement(accuracy=1.0, latency=latency, size_bytes=1, params=1, macs=1)


def test_nothing_is_measured_that_was_not_asked_for() -> None:
    """Without limits every runtime is left, and no process is started."""
    meter = Scales()
    found = spending(meter)
    assert found.within(FILES, on) == (ORT, VINO)
    assert meter.asked == []
    assert found.added(measured("ort")) == measured("ort")


@pytest.mark.parametrize("name", ["size", "memory", "energy"])
def test_each_limit_leaves_the_runtimes_under_it(name: str) -> None:
    """A candidate continues where it costs no more than it may, the limit itself included."""
    scale = 2 if name == "energy" else 1
    also = () if name == "size" else (name,)
    for most, left in ((200, (ORT, VINO)), (199, (ORT,)), (100, (ORT,))):
        assert spending(Scales(), also=also, **{name: most / scale}).within(FILES, on) == left
    with pytest.raises(InfeasibleError, match=f"its {name} of .* is over the limit of") as caught:
        spending(Scales(), also=also, **{name: 99 / scale}).within(FILES, on)
    assert caught.value.rung == name


def test_what_one_limit_cuts_the_next_does_not_measure() -> None:
    """Memory is measured of what is small enough, energy of what needs little enough memory."""
    meter = Scales()
    found = spending(meter, size=150, memory=1000, energy=1000, also=("memory", "energy"))
    assert found.within(FILES, on) == (ORT,)
    assert meter.asked == [("memory", "ort"), ("energy", "ort")]
    added = found.added(measured("ort"))
    assert (added.memory_bytes, added.energy_mj) == (100, 50.0)
    assert found.added(measured("vino")) == measured("vino")


def test_what_is_known_of_a_cut_candidate_is_kept() -> None:
    """The least of each cost on any runtime goes with the reason."""
    found = spending(Scales(), memory=99, also=("memory",))
    with pytest.raises(InfeasibleError):
        found.within(FILES, on)
    ended = found.least(Infeasible(reason="", rung="memory"))
    assert ended == Infeasible(reason="", rung="memory", size_bytes=100, memory_bytes=100)


def test_a_runtime_that_fails_or_does_not_tell_is_left_out() -> None:
    """Where a cost is unknown a limit is not met; a reference baseline, which has no limit, continues."""
    for meter in (Scales(refuses=("ort",)), Scales(hides=("ort",))):
        assert spending(meter, memory=1000, also=("memory",)).within(FILES, on) == (VINO,)
        assert spending(meter, also=("memory",)).within(FILES, on) == (ORT, VINO)
    with pytest.raises(InfeasibleError, match="ort crashed"):
        spending(Scales(refuses=("ort", "vino")), memory=1000, also=("memory",)).within(FILES, on)
    with pytest.raises(InfeasibleError, match="does not tell its memory"):
        spending(Scales(hides=("ort", "vino")), memory=1000, also=("memory",)).within(FILES, on)


def test_a_compact_file_may_shrink_in_training() -> None:
    """A little over the limit is no reason to end before the training."""
    limit = 100 / SLACK + 0.01
    assert spending(Scales(), size=limit, compact=True).within(FILES, on) == (ORT,)
    with pytest.raises(InfeasibleError):
        spending(Scales(), size=limit).within(FILES, on)
