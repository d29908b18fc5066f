"""A copy of a network, whatever hangs on it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import StudyError
from autocompress.studies.networks.copied import copied


@dataclasses.dataclass
class Seen:
    """Something that a forward leaves behind."""

    last: Tensor


class Holder:
    """An object that is no container, with something in it."""

    def __init__(self, value: object) -> None:
        self.value = value


KEPT: dict[str, Callable[[Tensor], object]] = {
    "an attribute": lambda x: x,
    "a list": lambda x: [x, x],
    "a dict of tuples": lambda x: {"layer": (x, 1)},
    "a dataclass": Seen,
    "an object in an object": lambda x: Holder([Holder(x)]),
}


@pytest.mark.parametrize("kind", KEPT)
def test_what_a_forward_left_behind_is_copied_without_its_history(kind: str) -> None:
    """However deep an activation lies, the copy computes the same, shares no weight, and can be copied again."""
    network, x = nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3)
    network[0].kept = KEPT[kind](network(x))
    copy = copied(copied(network))
    torch.testing.assert_close(copy(x), network(x), rtol=0, atol=0)
    assert type(copy[0].kept) is type(network[0].kept)
    assert copy[0].weight is not network[0].weight


def test_an_activation_is_detached_and_stays_one_tensor() -> None:
    """Two names of one activation are one tensor in the copy, with the values and without gradients."""
    network = nn.Sequential(nn.Linear(3, 3))
    network.one = network.other = network(torch.ones(1, 3))  # type: ignore[assignment]
    copy: Any = copied(network)
    assert copy.one is copy.other
    assert not copy.one.requires_grad
    torch.testing.assert_close(copy.one, network.one.detach(), rtol=0, atol=0)  # type: ignore[union-attr]


def test_what_is_made_in_inference_mode_can_be_trained() -> None:
    """PyTorch lets nobody train with tensors of inference mode; a copy has ordinary ones."""
    with torch.inference_mode():
        network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        network.seen = network(torch.ones(2, 3))
    copy = copied(network).train()
    copy(torch.randn(4, 3)).sum().backward()
    assert copy[0].weight.grad is not None


def test_tied_weights_and_modules_with_two_names_stay_so() -> None:
    """What is one in the network is one in the copy."""
    network = nn.ModuleDict({"a": nn.Embedding(4, 3), "b": nn.Linear(3, 4, bias=False)})
    network["b"].weight = network["a"].weight
    network["c"] = network["b"]
    copy = copied(network)
    assert copy["b"].weight is copy["a"].weight is not network["a"].weight
    assert copy["c"] is copy["b"]


def test_what_cannot_be_copied_is_named() -> None:
    """The message has the attribute, what it is, and the way out."""
    network = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU()))
    network[1][0].guard = {"lock": threading.Lock()}
    message = r"must be copyable; `1.0.guard`, of type dict, cannot be copied: TypeError: .*lock.*Take it out"
    with pytest.raises(StudyError, match=message):
        copied(network)
