"""The distance is the one that the task's own loss asks for, whatever the labels look like."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.studies.distance import Distance, Sigmoid, Softmax, SquaredError
from autocompress.studies.loss_probe import choose_distance
from autocompress.studies.task import Task

Loss = Callable[[Tensor, Tensor], Tensor]

POINTS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class To(nn.Module):
    """Maps points to outputs of a shape, and perhaps to something of the same shape again."""

    def __init__(self, *shape: int, end: Callable[[Tensor], Tensor] = lambda outputs: outputs) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.shape, self.end = shape, end
        self.layer = nn.Linear(4, int(np.prod(shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (batch, …)."""
        return self.end(self.layer(x).reshape(len(x), *self.shape))


def task_of(model: nn.Module, labels: Tensor, loss: Loss, **more: Any) -> Task:
    """Return a task of one batch, whose loss is that of outputs and labels."""
    batch = (POINTS, labels)
    return Task(model, POINTS[:1], [batch], [batch], loss=lambda model, b: loss(model(b[0]), b[1]), **more)


def classes(*shape: int, of: int, ignored: int | None = None) -> Tensor:
    """Return integer labels, a third of which is ignored."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(of, (16, *shape), generator=generator)
    if ignored is not None:
        labels[torch.rand(labels.shape, generator=generator) < 0.33] = ignored
    return labels


def answers(*shape: int) -> Tensor:
    """Return labels of no and yes, 0 and 1."""
    return classes(*shape, of=2).float()


def numbers(*shape: int) -> Tensor:
    """Return labels that are numbers, some of them large."""
    return 50 * torch.randn((16, *shape), generator=torch.Generator().manual_seed(3)) + 20


def focal(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss of Lin et al., ICCV 2017, for classes on axis 1."""
    each = functional.cross_entropy(outputs, labels, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def with_dice(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy and Dice of answers, as for segmentation into two."""
    share = outputs.sigmoid()
    dice = 1 - 2 * (share * labels).sum() / (share.sum() + labels.sum() + 1)
    return functional.binary_cross_entropy_with_logits(outputs, labels) + dice


def smoothed(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy of answers that are 0.1 and 0.9."""
    return functional.binary_cross_entropy_with_logits(outputs, 0.1 + 0.8 * labels)


def of_tokens(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy of classes on the last axis."""
    return functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())


def focal_of_answers(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss of answers."""
    each = functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def summed(loss: Any) -> Loss:
    """Return a loss of `torch.nn.functional` that is a sum."""
    return lambda outputs, labels: loss(outputs, labels, reduction="sum")


def ctc(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss of sequences without alignment, for outputs (batch, time, classes)."""
    lengths = torch.full((16,), outputs.shape[1]), torch.full((16,), 2)
    return functional.ctc_loss(outputs.log_softmax(2).transpose(0, 1), labels.clamp_min(1), *lengths)


def scale_invariant(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio of signals without their means, negative."""
    x, y = (z - z.mean(-1, keepdim=True) for z in (outputs, labels))
    goal = (x * y).sum(-1, keepdim=True) / y.square().sum(-1, keepdim=True) * y
    return -10 * (goal.square().sum(-1) / (x - goal).square().sum(-1)).log10().mean()


CE, BCE, MSE = functional.cross_entropy, functional.binary_cross_entropy_with_logits, functional.mse_loss

CASES: dict[str, tuple[nn.Module, Tensor, Loss, Distance]] = {
    "classes": (To(5), classes(of=5), CE, Softmax()),
    "classes, smoothed": (To(5), classes(of=5), lambda z, y: CE(z, y, label_smoothing=0.1), Softmax(scale=0.9)),
    "classes, focal": (To(5), classes(of=5), focal, Softmax()),
    "classes, margin": (To(5), classes(of=5), functional.multi_margin_loss, Softmax()),
    "pixels": (To(5, 3, 4), classes(3, 4, of=5), CE, Softmax()),
    "pixels, void": (To(5, 3, 4), classes(3, 4, of=5, ignored=255), lambda z, y: CE(z, y, ignore_index=255), Softmax()),
    "pixels, summed": (To(5, 3, 4), classes(3, 4, of=5), summed(CE), Softmax(scale=190.0)),
    "as many positions as classes": (To(4, 4), classes(4, of=4), of_tokens, Softmax(axis=2)),
    "tokens": (To(6, 3), classes(6, of=3), of_tokens, Softmax(axis=2)),
    "tokens, padded": (To(6, 3), classes(6, of=3, ignored=-100), of_tokens, Softmax(axis=2)),
    "sequences": (To(6, 3), classes(2, of=3), ctc, Softmax(axis=2)),
    "logarithms": (To(5, end=lambda z: z.log_softmax(1)), classes(of=5), functional.nll_loss, Softmax()),
    "one logit": (To(1), answers(1), BCE, Sigmoid()),
    "one logit, flat": (To(end=lambda z: z), answers(), BCE, Sigmoid()),
    "one logit, smoothed": (To(1), answers(1), smoothed, Sigmoid(scale=0.8)),
    "one logit, weighted": (To(1), answers(1), lambda z, y: BCE(z, y, pos_weight=torch.tensor(3.0)), Sigmoid()),
    "one logit, summed": (To(1), answers(1), summed(BCE), Sigmoid(scale=16.0)),
    "several labels": (To(5), answers(5), BCE, Sigmoid()),
    "several labels, focal": (To(5), answers(5), focal_of_answers, Sigmoid()),
    "masks": (To(1, 3, 4), answers(1, 3, 4), with_dice, Sigmoid()),
    "a number": (To(1), numbers(1), MSE, SquaredError()),
    "a number, flat": (To(), numbers(), MSE, SquaredError()),
    "numbers": (To(3), numbers(3), MSE, SquaredError()),
    "numbers, absolute": (To(3), numbers(3), functional.l1_loss, SquaredError()),
    "numbers, Huber": (To(3), numbers(3), functional.huber_loss, SquaredError()),
    "counts": (To(3), numbers(3).abs().round(), functional.poisson_nll_loss, SquaredError()),
    "pictures": (To(3, 4, 4), numbers(3, 4, 4), MSE, SquaredError()),
    "signals": (To(1, 12), numbers(1, 12), scale_invariant, SquaredError()),
    "probabilities": (To(1, end=torch.sigmoid), answers(1), functional.binary_cross_entropy, SquaredError()),
    "directions": (To(6), numbers(6), lambda z, y: -functional.cosine_similarity(z, y).mean(), SquaredError()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_tells_the_distance(name: str) -> None:
    """Classes are found on their axis, answers as such, and what is neither is taken for numbers."""
    model, labels, loss, expected = CASES[name]
    chosen = choose_distance(task_of(model, labels, loss))
    assert type(chosen.distance) is type(expected), chosen
    assert getattr(chosen.distance, "axis", None) == getattr(expected, "axis", None), chosen
    if expected.scale != 1 or loss in (CE, BCE):
        assert chosen.distance.scale == expected.scale, chosen
    assert chosen.softened is (not isinstance(expected, SquaredError))


def test_what_is_named_or_given_is_taken() -> None:
    """A task's own distance comes before what its loss asks for; a temperature is known to do nothing where it does."""
    model, labels, loss, _ = CASES["classes"]

    def own(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return (student - teacher).abs().mean()

    def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        return own(student, teacher, temperature) / temperature

    found = [choose_distance(task_of(model, labels, loss, distance=given)) for given in (own, softened)]
    assert [(chosen.distance, chosen.softened) for chosen in found] == [(own, False), (softened, True)]
    for name, kind in (("softmax", Softmax), ("sigmoid", Sigmoid), ("mse", SquaredError)):
        assert isinstance(choose_distance(task_of(model, labels, loss, distance=name)).distance, kind)
    assert choose_distance(task_of(model, labels, loss, distance=Softmax(axis=-1))).distance == Softmax(axis=-1)
    for nothing in ({"distance": "off"}, {"fit": lambda student, teacher, epochs: None}):
        assert choose_distance(task_of(model, labels, loss, **nothing)).distance is None


def test_a_loss_that_asks_no_network_has_no_distance() -> None:
    """A loss of what is inside the network alone says so, and there is nothing to compare."""
    model = To(3)
    batch = (POINTS, numbers(3))
    inside = Task(model, POINTS[:1], [batch], [batch], loss=lambda net, b: net.layer(b[0]).square().mean())
    chosen = choose_distance(inside)
    assert chosen.distance is None
    assert "does not depend" in str(chosen)


def test_numbers_weigh_what_their_loss_does() -> None:
    """A squared error in units a thousand times smaller, or summed, has a distance that grows alike."""
    scales = []
    for unit, reduction in ((1.0, "mean"), (1000.0, "mean"), (1.0, "sum")):
        loss: Loss = lambda z, y, r=reduction: MSE(z, y, reduction=r)  # type: ignore[misc]  # noqa: E731
        task = task_of(To(3, end=lambda z, unit=unit: unit * z), unit * numbers(3) / 50, loss)  # type: ignore[misc]
        distance = choose_distance(task).distance
        assert isinstance(distance, SquaredError)
        scales.append(distance.scale)
    assert scales[1] == pytest.approx(scales[0])
    assert scales[2] == pytest.approx(48 * scales[0], rel=0.05)


def test_probing_changes_nothing() -> None:
    """Weights, modes, hooks and every random state stay, and a loss that draws is asked under the same draws."""

    def drawn(outputs: Tensor, labels: Tensor) -> Tensor:
        order = torch.from_numpy(np.random.permutation(16))
        share = random.random()
        return share * BCE(outputs, labels) + (1 - share) * BCE(outputs[order], labels[order])

    model = To(5).eval()
    states = (random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state())
    chosen = choose_distance(task_of(model, answers(5), drawn))
    assert isinstance(chosen.distance, Sigmoid)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not model.training
    assert not model._forward_hooks
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_few_outputs_are_not_taken_for_directions_by_chance() -> None:
    """Classes of a small batch are classes, whichever numbers are drawn in place of the outputs."""
    labels = torch.arange(8) % 3
    batch = (POINTS[:8], labels)
    task = Task(To(3), POINTS[:1], [batch], [batch])
    assert choose_distance(task).name.startswith("softmax over axis 1")
