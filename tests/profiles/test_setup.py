"""What a network and its runtimes offer to a search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.errors import StudyError
from autocompress.evaluators.runtimes.fake import FakeRuntime
from autocompress.profiles.setup import ZEROS, set_up
from autocompress.spaces.candidate import BITS, PALETTE, PRUNING_RATIO, SPARSITY
from autocompress.spaces.space import Space
from autocompress.studies.task import Task

pytestmark = pytest.mark.usefixtures("one_thread")


class Able(FakeRuntime):
    """The fake runtime with other capabilities."""

    def __init__(self, **more: object) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, **more)  # type: ignore[arg-type]


def task_of(*layers: nn.Module, **more: object) -> Task:
    """Return a task for a network of images in three classes."""
    images = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 3) for _ in range(2)]
    return Task(nn.Sequential(*layers).eval(), images[0][0][:1], images, images, **more)  # type: ignore[arg-type]


def small(**more: object) -> Task:
    """Return a task with a network of two convolutions and a head."""
    return task_of(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)),
        **more,
    )


def levels(space: Space, axis: str, target: str) -> tuple[object, ...]:
    """Return the levels of one choice."""
    return next(choice.levels for choice in space.on(axis) if choice.target == target)


def test_layers_groups_and_choices_are_found() -> None:
    """Each layer and each group of channels has its choices, and the distance fits the loss."""
    setup = set_up(small(), [FakeRuntime()])
    assert [layer.name for layer in setup.network.layers] == ["0", "2", "6"]
    assert {choice.target for choice in setup.space.on(PRUNING_RATIO)} == {"0", "2"}
    assert {choice.target for choice in setup.space.on(BITS)} == {"0", "2", "6"}
    assert setup.distance.name == "softmax over axis 1"
    assert setup.task.distance == setup.distance.distance


def test_layers_to_keep_are_left_alone_with_a_reason() -> None:
    """A layer in `keep` has no choices."""
    setup = set_up(small(keep=["2"]), [FakeRuntime()])
    assert "2" in dict(setup.network.left_alone)
    assert not [choice for choice in setup.space.choices if choice.target == "2"]


def test_nothing_to_compress_is_refused() -> None:
    """The message gives the rule and the way out."""
    with pytest.raises(StudyError, match=r"must have a convolution or a linear layer .* out of the task's `keep`"):
        set_up(small(keep=["0", "2", "6"]), [FakeRuntime()])
    with pytest.raises(StudyError, match="this one has none"):
        set_up(task_of(nn.AvgPool2d(4), nn.Flatten()), [FakeRuntime()])


def test_compact_files_offer_zeros_and_palettes() -> None:
    """Where the bytes of compact files count, zeros and palettes save some."""
    plain, compact = (set_up(small(), [FakeRuntime()], compact=each).space for each in (False, True))
    assert not list(plain.on(PALETTE))
    assert list(compact.on(PALETTE))
    assert set(levels(compact, SPARSITY, "2")) >= set(ZEROS)


def test_several_runtimes_offer_what_one_of_them_can_do() -> None:
    """Bits of either runtime are offered, bits of weights alone only where both hold them, and channels suit both."""
    one, other = Able(bits=(32, 8), channel_multiple=4), Able(bits=(32,), channel_multiple=6)
    both = set_up(small(), [one, other])
    assert levels(both.space, BITS, "2") == (32, 8)
    alone = set_up(small(), [other])
    assert not list(alone.space.on(BITS))


def test_the_batch_that_is_served_is_the_options() -> None:
    """Example inputs have as many examples as are served at a time."""
    assert set_up(small(), [FakeRuntime()], batch=4).supplies.examples[0].shape == (4, 1, 8, 8)
    assert set_up(small(), [FakeRuntime()]).supplies.examples[0].shape == (1, 1, 8, 8)


def test_runtimes_without_onnx_need_no_export() -> None:
    """A network that ONNX lacks operators for is fine where no runtime reads ONNX."""

    class Odd(nn.Module):
        """Multiplies by a singular value."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the product."""
            return x * torch.linalg.svdvals(x)[:, :1]

    task = task_of(nn.Flatten(), nn.Linear(64, 8), nn.Unflatten(1, (2, 4)), Odd(), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(StudyError, match=r"must be exported.*svdvals"):
        set_up(task, [FakeRuntime()])
    setup = set_up(task, [Able(opset=None)])
    assert not setup.supplies.onnx
