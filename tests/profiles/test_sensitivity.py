"""How sensitive a network is to each choice, before the first trial."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compressors.pipeline import space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.profiles.sensitivity import Sensitivities, curve, middle, sensitivities
from autocompress.spaces.candidate import BITS, PRUNING_RATIO
from autocompress.spaces.layers import Network
from autocompress.spaces.space import Choice, Space
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task


def measured(*what: Any, **how: Any) -> Sensitivities:
    """Return the damages that are begun and waited for."""
    with sensitivities(*what, **how) as damages:
        return damages()


pytestmark = pytest.mark.usefixtures("one_thread")


def residual() -> tuple[Task, Network, Space]:
    """Return a small residual network, its parts, and the pruning and the bits that may vary."""
    images = [(torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)) for _ in range(2)]
    task = Task(ResidualNet((16, 32), (1, 1)).eval(), images[0][0][:1], images, images)
    network = inspect(task.model, task.examples)
    space = space_of(network, runtimes.load("fake").capabilities)
    return task, network, Space(tuple(c for c in space.choices if c.axis in (PRUNING_RATIO, BITS)))


def test_damages_are_of_each_choice_alone() -> None:
    """Every choice has a finite damage above nothing, and a choice that cannot be applied an infinite one."""
    task, _, space = residual()
    broken = Choice(axis=PRUNING_RATIO, target="nowhere", levels=(0.0, 0.5), neutral=0.0)
    found = measured(task.model, supplies_of(task), Space((*space.choices, broken)), lambda text: None)
    assert found.pop(broken.name) == (0.0, float("inf"))
    assert {name: len(by_level) for name, by_level in found.items()} == space.sizes
    for none, *by_level in found.values():
        assert none == 0.0
        assert all(0 < damage < float("inf") for damage in by_level)
        assert by_level == sorted(by_level)
    bits, pruning = ([found[c.name][-1] for c in space.on(axis)] for axis in (BITS, PRUNING_RATIO))
    assert max(bits) < max(pruning)


def test_damages_end_in_time() -> None:
    """Without time, the choice of each axis that is about most work is tried, and the others are taken like it."""
    task, network, space = residual()
    macs = {layer.name: layer.macs for layer in network.layers}
    supplies, notices = supplies_of(task), list[str]()
    found = measured(task.model, supplies, space, notices.append, network=network, budget_s=0.0)
    for axis in (PRUNING_RATIO, BITS):
        choices = list(space.on(axis))
        dearest = max(choices, key=lambda choice: macs[choice.target])
        alone = measured(task.model, supplies, Space((dearest,)), lambda text: None)
        probed = middle(dearest)
        assert [found[choice.name][middle(choice)] for choice in choices] == pytest.approx(
            [alone[dearest.name][probed]] * len(choices)
        )
    assert "2 of " in notices[-1]
    assert "were tried" in notices[-1]


def test_damages_change_nothing() -> None:
    """The network that is probed keeps its weights and its mode."""
    task, _, space = residual()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    measured(task.model.train(), supplies_of(task), space, lambda text: None)
    assert task.model.training
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())


def test_a_choice_without_a_technique_damages_nothing() -> None:
    """Only networks that techniques return are compared: an axis that none has leaves the outputs as they are."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    batch = (torch.randn(4, 2, 2), torch.zeros(4, dtype=torch.long))
    space = Space((Choice(axis="nothing", target="1", levels=(0, 1), neutral=0),))
    found = measured(model, supplies_of(Task(model, batch[0][:1], [batch], [batch])), space, lambda text: None)
    assert found == {"nothing:1": (0.0, 0.0)}


@given(st.floats(1e-6, 10.0), st.floats(1.0, 6.0), st.integers(2, 9))
def test_damage_between_probes_is_a_power_of_the_level(first: float, power: float, levels: int) -> None:
    """Probed levels keep their damage, and the others lie on a rising curve through them that begins at nothing."""
    half, last = max(1, (levels - 1) // 2), max(1, 3 * (levels - 1) // 4)
    known = {half: first, last: first * (last / half) ** power}
    found = curve(known, levels)
    assert len(found) == levels
    assert found[0] == 0.0
    assert list(found) == sorted(found)
    assert all(found[level] == pytest.approx(value) for level, value in known.items())


def test_damages_do_not_depend_on_the_number_of_processes() -> None:
    """Two processes find exactly what one finds, and nothing is said to be predicted."""
    task, network, space = residual()
    broken = Choice(axis=PRUNING_RATIO, target="nowhere", levels=(0.0, 0.5), neutral=0.0)
    space, supplies = Space((*space.choices, broken)), supplies_of(task)
    notices = list[str]()
    alone, together = (
        measured(task.model, supplies, space, notices.append, network=network, processes=processes)
        for processes in (1, 2)
    )
    assert together == alone
    assert not [notice for notice in notices if "predicted" in notice]
