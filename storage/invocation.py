"""What was asked of a run last, kept in its directory for those who read it later: never a password."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..pareto.limits import Limits
from ..version import __version__
from .redact import plain_url

ADDRESSES = ("storage", "artifacts", "ray_address")
"""Options that may hold a password; of their values only `plain_url` is kept."""


UNITS = {
    "target_ms": ("target-latency", "ms"),
    "max_size_bytes": ("max-size", "B"),
    "max_memory_bytes": ("max-memory", "B"),
    "max_energy_mj": ("max-energy", "mJ"),
    "min_accuracy": ("min-accuracy", ""),
    "min_change": ("min-accuracy", ""),
    "time_budget_s": ("time-budget", "s"),
    "trial_timeout_s": ("trial-timeout", "s"),
    "trial_memory_bytes": ("trial-memory", "B"),
    "runtimes": ("runtime", ""),
}
"""Where an option of the command line has another name than its field, that, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """What a run was asked for.

    Attributes:
        study: as on the command line; empty where a `Task` was given.
        limits: what a model must meet.
        options: further fields of `Options` that are not their defaults.
        source: further options of the command line that say what the network is: ``data``, ``data_dir``, ``weights``.
        storage: URL of the database that holds the study, without what is hidden; None where its directory does.
        hidden: options whose URL is kept in part only: there is a user, a password or a query in it.
        about: what the task tells of the network: its ``license``, a ``description``.
        version: of autocompress.

    """

    study: str
    limits: Limits
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    storage: str | None = None
    hidden: tuple[str, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)
    version: str = __version__

    @classmethod
    def of(
        cls,
        limits: Limits,
        options: Mapping[str, Any],
        study: str = "",
        source: Mapping[str, object] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Invocation:
        """Return what is asked for, without passwords; the arguments are those of the class."""
        given = dict(options)
        plain = {name: plain_url(given[name]) for name in ADDRESSES if name in given}
        hidden = tuple(name for name, url in plain.items() if url != given[name])
        storage = plain.pop("storage", None)
        given.pop("storage", None)
        return cls(
            study=study,
            limits=limits,
            options=given | plain,
            source={name: str(value) for name, value in (source or {}).items() if value is not None},
            storage=storage,
            hidden=hidden,
            about={name: text for name, text in (about or {}).items() if text},
        )

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Invocation:
        """Read what `to_dict` wrote."""
        limits = dict(content["limits"])
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in content["options"].items()}
        rest = {**content, "options": options, "hidden": tuple(content["hidden"])}
        return cls(**{**rest, "limits": Limits(limits.pop("target_ms"), **limits)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "limits": self.limits.asked}

    def command(self, out: Path, *, limits: Limits | None = None, **changes: Any) -> str:
        """Return the command that goes on with a run; empty where it was begun from Python with a `Task`.

        Args:
            out: the run directory.
            limits: others than last time.
            changes: other fields of `Options`.
        """
        if not self.study:
            return ""
        told = replace(self, limits=limits or self.limits, options={**self.options, **changes})
        return shlex.join(["autocompress", *told._words(), "--out", str(out)])

    def _words(self) -> Iterator[str]:
        if self.study != "digits":
            yield self.study
        limits = {name: value for name, value in self.limits.asked.items() if value is not None and name != "unit"}
        for name, value in {**limits, **self.options, **self.source, "storage": self.storage}.items():
            if name not in self.hidden:
                yield from _option(name, value)
        for name in self.hidden:
            yield from (f"--{name.replace('_', '-')}", "URL")


def last(out: Path) -> Invocation | None:
    """Return what was asked of a run last; None where there is none, or that was not kept."""
    try:
        kept = json.loads((out / "study.json").read_text()).get("asked")
        return None if kept is None else Invocation.read(kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # another program's file, or a newer version's
        return None


def _option(name: str, value: Any) -> Iterator[str]:
    flag, unit = UNITS.get(name, (name.replace("_", "-"), ""))
    if isinstance(value, bool):
        yield f"--{flag}" if value else f"--no-{flag}"
    elif value is not None:
        sign = "+" if name == "min_change" and value >= 0 else ""
        for each in value if isinstance(value, tuple) else (value,):
            yield f"--{flag}"
            yield sign + (f"{each:.9g}" if isinstance(each, float) else str(each)) + unit
