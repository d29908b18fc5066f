"""Pruning bit by bit, after training that makes channels small; attention loses whole heads."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.distillation import distill
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.distillation.schedule import Schedule
from autocompress.compressors.phases import phases
from autocompress.compressors.pipeline import apply_candidate
from autocompress.compressors.pruning.importance import IMPORTANCES
from autocompress.compressors.pruning.prune import Prune, penalty, remove_channels, schedule, way
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from .samples import supplied


@given(st.integers(1, 2000), st.integers(1, 6), st.sampled_from([1, 1, 2, 3, 24, 64]), st.data())
def test_way_goes_down_to_the_width_in_equal_parts(
    channels: int, steps: int, granularity: int, data: st.DataObject
) -> None:
    """Widths fall to the last, whole grains at a time, near the straight line, in fine multiples where they can."""
    channels *= granularity
    width = data.draw(st.integers(1, channels // granularity)) * granularity
    widths = way(channels, width, steps, granularity=granularity)
    assert len(widths) == steps
    assert widths[-1] == width
    assert widths == sorted(widths, reverse=True)
    gone = channels - width
    for step, found in enumerate(widths, start=1):
        assert width <= found <= channels
        assert found % granularity == 0
        line = channels - gone * step / steps
        assert abs(found - line) <= max(granularity, gone / steps) / 2 + 1e-9
    for power in (granularity * 2**i for i in range(8)):
        if width % power == 0 and channels % power == 0 and gone // power >= steps:
            assert all(found % power == 0 for found in widths)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from([2, 3, 4]), st.data())
def test_schedule_reaches_exactly_the_final_widths(widths: list[int], steps: int, data: st.DataObject) -> None:
    """Step after step, each on what the last one left, gives the widths that the candidate gives in one go."""
    examples = (torch.ones(1, 2),)
    layers: list[nn.Module] = []
    for inputs, outputs in zip([2, *widths], widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
    names = [str(2 * i) for i in range(len(widths))]
    ratio = {name: 1 - data.draw(st.integers(1, n)) / n for name, n in zip(names, widths, strict=True)}
    candidate = Candidate({"pruning_ratio": ratio, "pruning": {"steps": steps}, "bits": {"0": 8}})
    given, found = Supplies(examples=examples, calibration=()), schedule(candidate, model, examples)
    assert 1 <= len(found) <= steps
    pruned: nn.Module = model
    for step in found:
        before = pruned
        pruned = Prune().apply(before, step, given)
        assert {axis: step[axis] for axis in ("pruning", "bits")} == {a: candidate[a] for a in ("pruning", "bits")}
        for name in step["pruning_ratio"] if any(ratio.values()) else ():
            narrower, wider = (m.get_submodule(name).weight.shape[0] for m in (pruned, before))
            assert narrower < wider
    direct = Prune().apply(model, candidate, given)
    assert [p.shape for p in pruned.parameters()] == [p.shape for p in direct.parameters()]


class Attention(nn.Module):
    """Four heads of six channels over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 6
        self.qkv = nn.Linear(8, 3 * 24)
        self.proj = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, 8) to the same shape."""
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: Tensor = self.proj(found.reshape(n, t, self.num_heads * self.head_dim))
        return out


def test_schedule_takes_whole_heads() -> None:
    """Attention loses one head at a time, though its channels would divide otherwise."""
    model, examples = nn.Sequential(Attention(), nn.ReLU(), nn.Linear(8, 2)).eval(), (torch.randn(1, 3, 8),)
    candidate = Candidate({"pruning_ratio": {"0.qkv": 0.75}, "pruning": {"steps": 2}})
    given, counts, pruned = Supplies(examples=examples, calibration=()), [], model
    for step in schedule(candidate, model, examples):
        pruned = Prune().apply(pruned, step, given)  # type: ignore[assignment]
        counts.append(pruned[0].qkv.out_features // 18)
    assert counts in ([2, 1], [3, 1])
    assert pruned(*examples).shape == (1, 3, 2)


@pytest.mark.parametrize("importance", [name for name in IMPORTANCES if name != "bn_scale"])
def test_useless_head_goes_first(importance: str) -> None:
    """Of attention the whole head goes whose channels are worth least together, however they are scored."""
    model, examples = nn.Sequential(Attention(), nn.ReLU(), nn.Linear(8, 2)).eval(), (torch.ones(1, 3, 8),)
    attention = model.get_submodule("0")
    head = range(6, 12)
    with torch.no_grad():
        for row in (start + channel for start in (0, 24, 48) for channel in head):
            attention.qkv.weight[row], attention.qkv.bias[row] = 0, 0
        attention.proj.weight[:, head] = 0
    data = [(torch.randn(8, 3, 8), torch.randint(0, 2, (8, 2))) for _ in range(2)]
    given = Supplies(examples=examples, calibration=(), batches=data, loss=token_loss)
    pruned = remove_channels(model, {"0.qkv": 54}, examples, importance=importance, supplies=given)
    x = torch.randn(2, 3, 8)
    assert pruned.get_submodule("0.proj").weight.shape == (8, 18)
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-4, atol=1e-5)


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared difference of the mean over a sequence from a target."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs).mean(1), targets.float())


def small_task() -> Task:
    """Return a task with a small residual network and noise for data."""
    data = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 10) for _ in range(2)]
    model = ResidualNet((8, 16), (1, 1)).eval()
    return Task(model=model, example_inputs=torch.ones(1, 1, 8, 8), train=data, validation=data)


RATIOS = {"stem.0": 0.5, "stages.1.0.conv1": 0.75}


def test_phases_make_small_then_prune_bit_by_bit() -> None:
    """A candidate with a penalty and four steps is trained once unpruned, and after each step, for all epochs."""
    task, seen = small_task(), []
    how = {"steps": 4, "penalty": "group", "importance": "taylor"}
    candidate = Candidate({"pruning_ratio": RATIOS, "pruning": how})
    found = phases(candidate, task.model, task.examples)
    assert [len(phase.techniques) for phase in found] == [0, 1, 1, 1, 1]
    assert [phase.penalty is None for phase in found] == [False, True, True, True, True]
    assert sum(phase.share for phase in found) == pytest.approx(1)

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        seen.append(student.get_submodule("stages.1.0.conv1").weight.shape[0])

    compressed = apply_candidate(replace(task, fit=fit), candidate, supplied(task.examples, 10), epochs=1)
    assert seen == [16, 14, 10, 8, 4]
    assert compressed.plain.get_submodule("stem.0").weight.shape[0] == 4


def test_all_phases_have_one_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pruning in steps and rounding happen inside one warm-up and cosine, whose rates are those of one training."""
    task, rates = small_task(), []

    def watched(student: nn.Module, *args: Any, schedule: Schedule, **more: Any) -> None:
        rates.append(schedule.rates(batches=8))
        distil(student, *args, schedule=schedule, **more)

    monkeypatch.setattr(distill, "distil", watched)
    axes = {"pruning_ratio": RATIOS, "pruning": {"steps": 2}, "bits": {"stem.0": 8}}
    apply_candidate(task, Candidate(axes), supplied(task.examples, 10), epochs=2)
    assert len(rates) == 3
    assert list(itertools.chain(*rates)) == Schedule(2).rates(8)


def test_default_settings_are_one_step_without_penalty() -> None:
    """A candidate that says nothing of how it is pruned has one phase, with all that it prunes."""
    task, candidate = small_task(), Candidate({"pruning_ratio": RATIOS})
    (phase,) = phases(candidate, task.model, task.examples)
    assert phase.candidate == candidate
    assert phase.penalty is None


def test_no_penalty_on_what_stays() -> None:
    """Groups whose ratio is 0 pay nothing, and there is no penalty where nothing is pruned."""
    task = small_task()
    idle = Candidate({"pruning_ratio": {"stem.0": 0.0}, "pruning": {"penalty": "group"}})
    assert penalty(idle, task.model, task.examples) is None
    busy = Candidate({"pruning_ratio": {**RATIOS, "stem.0": 0.0}, "pruning": {"penalty": "l1"}})
    extra = penalty(busy, task.model, task.examples)
    assert extra is not None
    slopes = torch.autograd.grad(extra(task.model), [task.model.stem[1].weight], allow_unused=True)
    assert slopes == (None,)


def test_steps_are_positive() -> None:
    """No step at all is infeasible."""
    task = small_task()
    candidate = Candidate({"pruning_ratio": RATIOS, "pruning": {"steps": 0}})
    with pytest.raises(InfeasibleError, match="1 step or more, got 0"):
        schedule(candidate, task.model, task.examples)
