"""The command that checks a study without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import in_a_line
from ..studies.metric_units import PLAIN, SHARE
from . import options as given
from .output import OK, USAGE, as_json, reported, working

if TYPE_CHECKING:
    from ..spaces.layers import Network
    from ..studies.loss_probe import Chosen
    from ..studies.task import Task
    from ..studies.validate import Findings

SHOWN = 12
"""How many parts that are left alone are shown; --json has all."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is known of a study before it runs.

    Attributes:
        study: the name that was asked for.
        found: what its task showed.
        network: its layers, and the parts left alone; None if an error was found before.
        distance: between a student's outputs and its teacher's; None likewise.
    """

    study: str
    found: Findings
    network: Network | None = None
    distance: Chosen | None = None


def check_study(
    study: given.StudyName = "digits",
    data: given.Data = None,
    data_dir: given.DataDir = None,
    weights: given.Weights = None,
    whole: given.Json = False,
) -> None:
    """Check a study and list what must be fixed; train, measure and write nothing.

    Exit code 2: something must be fixed.

    Examples:
        autocompress check-study my_study.py

        autocompress check-study my_study.py --json
    """
    with reported():
        from ..studies import loading

        with redirect_stdout(sys.stderr if whole else sys.stdout), working() as notice:
            task = loading.load(study, data=data, data_dir=data_dir, weights=weights)
            notice("checking the networks and all loaders")
            looked = look(study, task)
        if whole:
            typer.echo(as_json(as_data(looked)))
        else:
            Console(soft_wrap=not sys.stdout.isatty()).print(of_study(looked))
    raise typer.Exit(USAGE if looked.found.errors else OK)


def look(study: str, task: Task) -> Looked:
    """Check a task. If it has no errors, find its layers, export it and serve it once."""
    from ..evaluators import runtimes
    from ..profiles.baseline import baseline_required, export_baseline
    from ..profiles.setup import set_up
    from ..studies.validate import examine

    found, offer = examine(task), None
    if found.errors:
        return Looked(study=study, found=found)
    onnxruntime = runtimes.load("onnxruntime")
    try:
        with found.part():
            offer = set_up(found.task, [onnxruntime])
            found.notes += offer.notes
            with baseline_required(offer.decided):
                export_baseline(offer.task, onnxruntime, offer.supplies)
    except Exception as error:  # a user's network may fail in any way
        found.errors.append(
            f"It must be possible to analyse the network's layers; that raised {in_a_line(error)}. Change what its "
            "forward does there"
        )
    if offer is None:
        return Looked(study=study, found=found)
    return Looked(study=study, found=found, network=offer.network, distance=offer.distance)


def of_study(looked: Looked) -> RenderableType:
    """Return a study in 80 columns: its parts, notes, and what to fix."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for label, text in _parts(looked):
        grid.add_row(Text(label, style="bold"), Text(text))
    lists = [
        Text(f"\n{title}:" + "".join(f"\n {mark} {each}" for mark, each in items))
        for title, items in (
            ("Notes", [("-", each) for each in looked.found.notes]),
            ("To fix", [(f"{n}.", each) for n, each in enumerate(looked.found.errors, 1)]),
        )
        if items
    ]
    good = Text("\nNothing must be fixed. Nothing was measured or written.")
    return Group(grid, *lists, *[good] * (not looked.found.errors))


def _parts(looked: Looked) -> Iterator[tuple[str, str]]:
    found, network = looked.found, looked.network
    task = found.task
    yield "study", looked.study
    if found.model is not None:
        params = sum(p.numel() for p in task.base.parameters())
        macs = "" if network is None else f", {network.macs:,} multiply-accumulates for an example"
        layers = "" if network is None else f"{len(network.layers)} layers, {len(network.groups)} groups of channels, "
        yield "network", f"{layers}{params:,} parameters{macs}"
    for seen in found.loaders:
        of = "" if seen.whole or seen.length is None else f" of {seen.length:,}"
        labels = f", labels {seen.labels}" if seen.labels else ""
        yield seen.name, f"{seen.batches:,}{of} batches, {seen.examples:,} examples{labels}"
    yield "loss", _named(task.loss)
    yield "metric", f"{_named(task.metric)}, {_told(task.unit)}"
    if looked.distance is not None:
        yield "distance", str(looked.distance)
    for index, (name, why) in enumerate(() if network is None else network.left_alone):
        if index == SHOWN:
            yield "", f"and {len(network.left_alone) - SHOWN} more; --json lists all" if network else ""
            return
        yield "left alone" if not index else "", f"{name}: {why}"


def _named(function: Any) -> str:
    """Return the name of a loss or a metric, and where it is defined."""
    from ..studies.keywords import KeywordMetric
    from ..studies.task import cross_entropy, top1

    inner = function.metric if isinstance(function, KeywordMetric) else function
    if inner is cross_entropy:
        return "cross-entropy, the default"
    if inner is top1:
        return "share of correct answers, the default"
    code = getattr(inner, "__code__", None)
    name = getattr(inner, "__qualname__", type(inner).__name__)
    return f"{name} ({Path(code.co_filename).name}:{code.co_firstlineno})" if code else name


def _told(unit: str | None) -> str:
    """Say how a metric's values are printed."""
    if unit is None:
        return "in per cent while all its values lie between 0 and 1; metric_unit= sets the unit"
    return {SHARE: "in per cent", PLAIN: "a plain number"}.get(unit, f"in {unit}")


def as_data(looked: Looked) -> dict[str, object]:
    """Return the same for JSON."""
    found, network = looked.found, looked.network
    return {
        "study": looked.study,
        "errors": found.errors,
        "notes": found.notes,
        "parameters": sum(p.numel() for p in found.task.base.parameters()) if found.model is not None else None,
        "macs": None if network is None else network.macs,
        "layers": None if network is None else [layer.name for layer in network.layers],
        "groups": None if network is None else [group.name for group in network.groups],
        "left_alone": None if network is None else dict(network.left_alone),
        "loaders": {
            seen.name: {
                "batches": seen.length,
                "looked_at": seen.batches,
                "examples": seen.examples,
                "smallest": seen.least,
                "labels": seen.labels,
            }
            for seen in found.loaders
        },
        "loss": _named(found.task.loss),
        "metric": _named(found.task.metric),
        "metric_unit": found.task.unit,
        "distance": None if looked.distance is None else str(looked.distance),
    }
