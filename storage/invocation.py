"""The last invocation of a run, kept in its directory for later readers; it never has a password."""

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
"""Options that may hold a password; only the `plain_url` of their values is kept."""


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
"""Names and units of options whose command-line name differs from their field."""


@dataclass(frozen=True, kw_only=True)
class Invocation:
    """The invocation of a run.

    Attributes:
        study: as on the command line; empty if a `Task` was given.
        limits: the limits that a model must meet.
        options: further fields of `Options` that are not the defaults.
        source: further options of the command line that select the network: ``data``, ``data_dir``, ``weights``.
        storage: URL of the database with the study, without hidden parts; None if the study is in the run directory.
        hidden: options whose URL is kept only in part, because it has a user, a password or a query.
        about: the task's description of the network: its ``license``, a ``description``.
        version: version of autocompress.

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
        """Return an invocation without passwords; the arguments are those of the class."""
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
        """Return the invocation that `to_dict` wrote."""
        limits = dict(content["limits"])
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in content["options"].items()}
        rest = {**content, "options": options, "hidden": tuple(content["hidden"])}
        return cls(**{**rest, "limits": Limits(limits.pop("target_ms"), **limits)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "limits": self.limits.asked}

    def command(self, out: Path, *, limits: Limits | None = None, **changes: Any) -> str:
        """Return the command that resumes a run; empty if it was started from Python with a `Task`.

        Args:
            out: the run directory.
            limits: new limits.
            changes: new values of other fields of `Options`.
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
    """Return the last invocation of a run; None if there is none, or it was not kept."""
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
