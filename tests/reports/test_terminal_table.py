"""What the user reads at the end of a run."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from autocompress.pareto.front import ParetoFront
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.reports.terminal_table import print_table

from .conftest import PROFILE, front_for


def shown(front: ParetoFront, where: str = "runs/digits") -> str:
    """Return what a terminal of 80 columns shows."""
    output = io.StringIO()
    print_table(front, where, Console(file=output, width=80))
    return output.getvalue()


@pytest.mark.parametrize("target_ms", [9.0, 4.0, 0.5])
def test_the_table_fits_eighty_columns(target_ms: float) -> None:
    """No line is wider, no cell is cut, and every model has its row."""
    front = front_for(target_ms)
    text = shown(front)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    rows = [line[2:].split("  ")[0] for line in text.splitlines()]
    for m in (front.baseline, *front.references):
        assert m.role in rows
    for m in front.models:
        assert any(row.startswith(m.id) for row in rows)


def served_by(front: ParetoFront, name: str) -> ParetoFront:
    """Return a front as another runtime would have it."""

    def there(model: Model) -> Model:
        latency = replace(model.measurement.latency, runtime=name)
        return replace(model, measurements=(replace(model.measurement, latency=latency),))

    models, references = (tuple(map(there, each)) for each in (front.models, front.references))
    return replace(front, baseline=there(front.baseline), models=models, references=references)


@pytest.mark.parametrize("width", [120, 80, 60, 40])
@pytest.mark.parametrize("several", [False, True], ids=["one runtime", "several"])
def test_the_table_fits_its_terminal(width: int, several: bool) -> None:
    """What there is no room for is left out, never cut; the name, latency, accuracy and verdict always stay."""
    front = front_for(4.0)
    if several:
        alone = served_by(front, "onnxruntime"), served_by(front, "/home/me/serving/mine.py:with-a-long-name")
        front = replace(alone[1], portfolio=alone)
    output = io.StringIO()
    where = "runs/" + "a-long-name-of-a-study-" * 5
    print_table(front, where, Console(file=output, width=width))
    *lines, file, every = output.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in output.getvalue()
    assert {"model", "ms", "valid", "meets"} <= set(lines[0].split())
    assert front.recommended is not None
    assert file == f"  Files: {where}/{front.recommended.path}/model.onnx"  # to be copied, however long
    assert every == f"  All models: {where}/pareto.csv"


def test_the_recommended_model_is_marked() -> None:
    """One arrow stands before the recommended model; the conclusion says what that gains and where it is."""
    front = front_for(4.0)
    text = shown(front)
    best = front.recommended
    assert best is not None
    table, conclusion = text.split("\n\n", 1)
    assert [line for line in table.splitlines() if line.startswith("→")] == [
        line for line in table.splitlines() if best.id in line
    ]
    assert conclusion.startswith(f"→ {best.id} meets 4 ms: ")
    assert "× faster" in conclusion
    assert f"runs/digits/{best.path}/model.onnx" in " ".join(conclusion.split())


SEVERAL = Limits(4.0, min_accuracy=0.6, max_size_bytes=2e8, max_memory_bytes=3e8, max_energy_mj=20.0)


def test_several_limits_are_named_with_what_the_best_model_needs() -> None:
    """The conclusion names every limit, and a line tells the best model's value of each, all within 80 columns."""
    front = limited(front_for(4.0), SEVERAL)
    text = shown(front)
    said = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    best = front.recommended
    assert best is not None
    assert f"→ {best.id} meets {SEVERAL}: " in said
    assert f"Limits: {'; '.join(SEVERAL.verdicts(best.measurement).values())}." in said
    for limit in ("at most 4 ms", "at most 200 MB", "at most 300 MB", "at most 20 mJ", "at least 60.00%"):
        assert limit in said
    rows = [line for line in text.split("\n\n")[0].splitlines()[1:] if line[2:7].isdigit()]
    assert [row.split()[-1] == "yes" for row in rows] == [SEVERAL.satisfied_by(m.measurement) for m in front.models]


def test_what_misses_one_of_several_limits_misses() -> None:
    """Where nothing meets all, the nearest is the one whose largest excess is least, and its reasons are given."""
    strict = replace(SEVERAL, max_size_bytes=1e6)
    front = limited(front_for(4.0), strict)
    best = front.recommended
    assert best is not None
    assert not front.meets_target
    assert strict.largest(best.measurement) == min(strict.largest(m.measurement) for m in front.models)
    front = replace(front, reasons=strict.reasons(best.measurement, [m.measurement for m in front.models]))
    said = " ".join(shown(front).split())
    assert f"Nothing meets {strict}. → {best.id} is the nearest" in said
    assert "It misses: size " in said
    assert " over 1 MB; the best measured value: " in said


def limited(front: ParetoFront, limits: Limits) -> ParetoFront:
    """Return a front of which memory and energy are known, under limits."""
    models = tuple(
        replace(
            m,
            measurements=(replace(m.measurement, memory_bytes=m.measurement.size_bytes + 50_000_000, energy_mj=12.5),),
        )
        for m in front.models
    )
    return replace(front, limits=limits, models=models)


def test_where_nothing_meets_the_target_the_reasons_are_given() -> None:
    """The nearest model, the floor and the dearest layers are named."""
    front = front_for(0.5)
    text = " ".join(shown(front).split())
    best = front.recommended
    assert best is not None
    assert f"Nothing meets 0.5 ms. → {best.id} is the nearest" in text
    assert f"The floor, measured with everything at its strongest: {PROFILE.floor_ms:.2f} ms." in text
    dearest = max(PROFILE.costs.layer_ms, key=lambda name: PROFILE.costs.layer_ms[name])
    assert f"What costs most in the baseline: {dearest} " in text


def test_without_any_model_the_reasons_are_given() -> None:
    """An empty front points to the trials."""
    front = replace(front_for(0.5), models=(), references=())
    assert "No candidate was measured completely; trials.csv says why." in shown(front)
