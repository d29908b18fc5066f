"""The table at the end of a run, in 80 columns."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..front import Model, ParetoFront


def render(front: ParetoFront, where: str) -> RenderableType:
    """Return the front as a table, with the recommended model and, where nothing meets the target, the reasons."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    runtimes = ("runtime",) if front.portfolio else ()
    for name in ("model", *runtimes, "ms", "95 % range", "faster", "valid", "test", "MB", "meets"):
        table.add_column(name, justify="left" if name in ("model", "runtime") else "right", no_wrap=True)
    best = front.recommended
    for model in (front.baseline, *(m for m in front.obvious if m not in front.models), *front.models):
        role = model.role if model.role != "front" else model.id
        mark = "→ " if model == best else "  "
        named = [model.measurement.latency.runtime for _ in runtimes]
        table.add_row(mark + role, *named, *_cells(model, front), style="bold" if mark == "→ " else "")
    return Group(table, Text(), *map(Text, _conclusion(front, where)))


def _cells(model: Model, front: ParetoFront) -> list[str]:
    measured = model.measurement
    latency = measured.latency
    test = "–" if measured.test_accuracy is None else f"{measured.test_accuracy:.2%}"
    return [
        f"{latency.median_ms:.2f}",
        f"{latency.low_ms:.2f}–{latency.high_ms:.2f}",
        f"{1 / latency.ratio:.2f}×",
        f"{measured.accuracy:.2%}",
        test,
        f"{measured.size_bytes / 1e6:.2f}",
        "yes" if front.meets(model) else "no",
    ]


def _conclusion(front: ParetoFront, where: str) -> list[str]:
    best = front.recommended
    base = front.baseline.measurement
    if best is None:
        so = "meets" if front.meets(front.baseline) else "misses"
        return [
            "No candidate could be measured to the end; trials.csv says why.",
            f"The unchanged network {so} {front.limits}.",
            *front.reasons,
        ]
    measured = best.measurement
    accuracy = f"{measured.accuracy - base.accuracy:+.2%} accuracy on the validation data"
    if measured.test_accuracy is not None and base.test_accuracy is not None:
        accuracy = f"{measured.test_accuracy - base.test_accuracy:+.2%} accuracy on the test data"
    gain = f"{1 / measured.latency.ratio:.2f}× faster, {base.size_bytes / measured.size_bytes:.1f}× smaller, {accuracy}"
    if front.meets_target:
        lines = [f"→ {best.id} meets {front.limits}: {gain}."]
        tied = [name for name in front.tied(best) if name != best.id]
        if tied:
            lines.append(f"  Its latency is tied with {', '.join(tied)}: their intervals overlap.")
    else:
        lines = [f"Nothing meets {front.limits}. → {best.id} is the nearest: {gain}.", *front.reasons]
    if front.limits.several and front.meets_target:
        lines.append(f"  Limits: {'; '.join(front.limits.verdicts(measured).values())}.")
    lines += [f"  Warning: {warning}." for warning in measured.warnings]
    lines += [_alone(each) for each in front.portfolio]
    return [*lines, f"  Files: {where}/{best.path}/{measured.file} · all models: {where}/pareto.csv"]


def _alone(front: ParetoFront) -> str:
    """Return one line on the best of a runtime by itself."""
    best, runtime = front.recommended, front.baseline.measurement.latency.runtime
    if best is None:
        return f"  On {runtime} alone: nothing could be measured."
    found = f"{best.id}, {best.measurement.accuracy:.2%} at {best.measurement.latency.median_ms:.2f} ms"
    return f"  On {runtime} alone: {found}, {'meets' if front.meets_target else 'misses'} what was asked for."


def show(front: ParetoFront, where: str, console: Console) -> None:
    """Print the table."""
    console.print(render(front, where))
