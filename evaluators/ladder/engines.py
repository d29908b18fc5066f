"""The engines of a trial: a runtime builds each of its files once, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from ..meters.isolated_engine import PATIENCE_S, engine
from ..runtime import Engine, Runtime


class Engines:
    """Engines of files, built when they are first asked for; they end with the context, or with `close`.

    Args:
        patience_s: returns the seconds in which an engine must answer; see `isolated_engine.engine`.
    """

    def __init__(self, patience_s: Callable[[], float] = lambda: PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._built: dict[tuple[str, bytes], Engine] = {}
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, runtime: Runtime, artefact: bytes) -> Engine:
        """Return the engine of a runtime's file, on one thread.

        Raises:
            InfeasibleError: the runtime refuses the model.
        """
        key = runtime.name, artefact
        if key not in self._built:
            made = engine(runtime, artefact, threads=1, patience_s=self._patience_s())
            self._built[key] = self._open.enter_context(made)
        return self._built[key]

    def close(self) -> None:
        """End all engines; one that is asked for again is built again."""
        self._built.clear()
        self._open.close()
