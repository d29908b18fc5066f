"""Measures the damage of one choice: the change of a network's outputs when this choice is applied alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..compressors.batch_norm import NORMS, estimate_batch_norm, fold_batch_norm
from ..compressors.modules import Inputs, run
from ..compressors.phases import NUMBERS, TECHNIQUES, applied
from ..compressors.refit import LayerOutputs
from ..compressors.technique import Supplies
from ..spaces.candidate import Candidate
from ..spaces.space import Choice
from ..studies.networks.copied import copied
from ..studies.task import have_a_batch

PIECE = 32
"""Examples that give the statistics and ranges of a changed network, and that its outputs are compared on at a time."""

MOST = 4
"""Most pieces on which outputs are compared."""

ENOUGH = 0.1
"""Standard error of a damage, relative to it, below which no more examples are added; damages differ by far more."""

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""Running mean and variance of each batch norm, by its name."""


class Damages:
    """Measures the damage of choices; each is applied alone.

    The damage is the mean squared change of the outputs over their variance.

    Args:
        model: the network; it is not changed.
        supplies: its calibration data are compared.

    """

    def __init__(self, model: nn.Module, supplies: Supplies) -> None:
        self.model = copied(model).eval()
        self.folded = fold_batch_norm(self.model, supplies.examples).eval()
        self.batches = divided(self.model, supplies.calibration)
        self._supplies = replace(supplies, calibration=self.batches[:1], statistics=self.batches)
        self._original = LayerOutputs(self.model, self.batches)
        self._before = [run(self.model, inputs) for inputs in self.batches]
        self._variance = torch.cat(self._before).var().clamp_min(1e-12)
        self._statistics = statistics_of(self.model)
        estimated = copied(self.model)
        estimate_batch_norm(estimated, self.batches[:1])
        self._estimated = statistics_of(estimated)

    def __call__(self, probe: tuple[Choice, int]) -> float:
        """Return the damage of a choice at a level; infinite if it cannot be applied."""
        try:
            found = self._change(self._applied(*probe))
        except Exception:  # a user's forward may fail in any way
            return math.inf
        return math.inf if math.isnan(found) else found

    def _applied(self, choice: Choice, level: int) -> nn.Module:
        """Return the network with one choice at a level."""
        candidate = Candidate({choice.axis: {choice.target: choice.levels[level]}})
        model = self.model
        for technique in TECHNIQUES:
            if technique.axis == choice.axis:
                before = self.folded if technique in NUMBERS else model
                model = applied(before, (technique,), candidate, self._supplies, self._original)
        if model is not self.model:
            estimate_batch_norm(model, self.batches[:1])
            self._shift(model)
        return model

    def _shift(self, model: nn.Module) -> None:
        """Let a choice change the statistics of batch norms by what it changes on the same examples.

        The statistics of a few examples are far from those of all, with or without the choice.
        """
        for name, norm in norms_of(model).items():
            before, estimated = self._statistics.get(name), self._estimated.get(name)
            if before is None or estimated is None or before[0].shape != norm.running_mean.shape:
                continue  # channels that are gone
            norm.running_mean.add_(before[0] - estimated[0])
            norm.running_var.mul_(before[1] / estimated[1].clamp_min(1e-12))

    def _change(self, model: nn.Module) -> float:
        """Return the mean squared change of the outputs over their variance, on as many examples as it needs."""
        changes: list[Tensor] = []
        for inputs, before in zip(self.batches, self._before, strict=True):
            change = (run(model, inputs) - before).square() / self._variance
            one_each = len(change) == len(inputs[0])
            changes.append(change.flatten(1).mean(1) if one_each and change.dim() > 1 else change.reshape(-1))
            if one_each and settled(torch.cat(changes)):
                break
        return float(torch.cat(changes).mean())


def settled(values: Tensor) -> bool:
    """Return whether the mean of some values is known well enough.

    >>> settled(torch.tensor([1.0, 1.1, 0.9])), settled(torch.tensor([1.0, 3.0, 0.1]))
    (True, False)
    """
    return float(values.std()) / math.sqrt(len(values)) <= ENOUGH * float(values.mean())


def divided(model: nn.Module, batches: Sequence[Inputs]) -> list[Inputs]:
    """Return the first examples in batches of `PIECE`; or as they come, where the network knows one size alone."""
    found = [
        tuple(x[i : i + PIECE] for x in inputs)
        for inputs in batches[:MOST]
        for i in range(0, len(inputs[0]) if have_a_batch(inputs) else 1, PIECE)
    ]
    if not all(map(have_a_batch, batches[:MOST])):
        return list(batches[:MOST])
    try:
        run(model, found[0])
    except Exception:  # a forward that knows one size of batch
        return list(batches[:MOST])
    return found[:MOST]


def norms_of(model: nn.Module) -> dict[str, Any]:
    """Return the batch norms with running statistics, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, NORMS) and m.track_running_stats}


def statistics_of(model: nn.Module) -> Statistics:
    """Return the statistics of a network's batch norms."""
    return {name: (m.running_mean.clone(), m.running_var.clone()) for name, m in norms_of(model).items()}
