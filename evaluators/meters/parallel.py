"""Calls on several devices at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from ...search.workers.remote_meter import RemoteMeter
from ..device_lock import off_the_floor
from .latency import Meter

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Meters:
    """The meters of a study's devices, by the devices' names; the first one's costs are those that the search knows."""

    each: Mapping[str, RemoteMeter]

    def mute(self) -> Meters:
        """Return the same for another process; see `RemoteMeter.mute`."""
        return Meters({name: meter.mute() for name, meter in self.each.items()})

    def gone(self) -> str:
        """Return a sentence for each device that no living node offers."""
        return " · ".join(filter(None, (meter.gone() for meter in self.each.values())))


def devices_of(meter: Meter | Meters) -> tuple[str, ...]:
    """Return the names of the devices that a study measures on; this machine has none."""
    return tuple(meter.each) if isinstance(meter, Meters) else ("",)


def meter_at(meter: Meter | Meters, device: str) -> Meter:
    """Return what measures on a device."""
    return meter.each[device] if isinstance(meter, Meters) else meter


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what calls return that wait for devices, each for one of its own, and so all at the same time.

    The waiting is done in Python alone, so that an interruption may come at any moment; then nobody waits any more.

    Raises:
        BaseException: what the first call raises that fails.
    """
    if len(calls) == 1:
        return [calls[0]()]
    answers: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()

    def answer(number: int) -> None:
        try:
            answers.put((number, calls[number](), None))
        except BaseException as error:
            answers.put((number, None, error))

    with off_the_floor():
        for number in range(len(calls)):
            threading.Thread(target=answer, args=(number,), name="device", daemon=True).start()
        found: dict[int, Any] = {}
        while len(found) < len(calls):
            number, value, error = answers.get()
            if error is not None:
                raise error
            found[number] = value
    return [found[number] for number in range(len(calls))]
