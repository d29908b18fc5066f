"""The order of the techniques, and the contract that each of them keeps."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.modules import count, parts
from autocompress.compressors.phases import TECHNIQUES as ALL
from autocompress.compressors.pipeline import Compressed, apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.sparsify import TWO_FOUR
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.compressors.technique import Supplies, Technique
from autocompress.errors import InfeasibleError, blamed
from autocompress.spaces.candidate import BITS, DEPTH, PRUNING_RATIO, SETTINGS, SPARSITY, Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Network
from autocompress.spaces.space import Space
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Batch, Task

from .samples import batches

CAPABILITIES = Capabilities(runtime="fake", bits=(32, 8), channel_multiple=4, palettes=True, sparsity=(0.5, "2:4"))
TECHNIQUES = {technique.axis: technique for technique in ALL}


@pytest.fixture
def task() -> Task:
    """Return a task with a small residual network."""
    model = ResidualNet((8, 16), (1, 1), classes=2).eval()
    model.stem[2] = nn.SiLU()  # a function that has cheaper forms
    return Task(
        model=model,
        example_inputs=torch.ones(1, 1, 8, 8),
        train=batches(8),
        validation=batches(2),
        resolutions=(0.75, 0.5),
    )


def strongest(space: Space) -> Candidate:
    """Return the candidate that compresses most, of all branches without the last one alone."""
    *others, _ = space.on(DEPTH)
    return space.at(lambda choice: 0 if choice.axis in SETTINGS or choice in others else len(choice.levels) - 1)


def space(task: Task) -> Space:
    """Return all that may vary in a task's network."""
    return space_of(found_in(task), CAPABILITIES)


def found_in(task: Task) -> Network:
    """Return what can be compressed in a task's network."""
    return inspect(task.model, task.examples, keep=task.keep, resolutions=task.resolutions)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a network's weights and statistics."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Say whether two states are the same to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def served(file: bytes, images: Tensor) -> Tensor:
    """Return what ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI its sums of products overflow
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


@pytest.fixture(params=TECHNIQUES.values(), ids=TECHNIQUES)
def technique(request: pytest.FixtureRequest) -> Technique:
    """Return every technique in turn."""
    chosen: Technique = request.param
    return chosen


def test_technique_offers_choices_on_its_axis(technique: Technique, task: Task) -> None:
    """Every choice has the technique's axis, several distinct levels, and the neutral one first."""
    offers = technique.choices(found_in(task), CAPABILITIES)
    assert offers
    for choice in offers:
        assert choice.axis == technique.axis
        assert len(set(choice.levels)) == len(choice.levels) > 1
        assert choice.levels[0] == choice.neutral


def test_technique_leaves_the_network_and_repeats_itself(technique: Technique, task: Task) -> None:
    """The given network stays, the result is another, and the same choice gives the same result."""
    before, supplies = state(task.model), supplies_of(task)
    offers = technique.choices(found_in(task), CAPABILITIES)
    chosen = {choice.target: choice.levels[-1] for choice in offers}
    once, again = (technique.apply(task.model, Candidate({technique.axis: chosen}), supplies) for _ in range(2))
    assert same(before, state(task.model))
    assert same(state(once), state(again))
    images = task.train[0][0]  # type: ignore[index]
    assert not torch.equal(once.eval()(images), task.model(images))
    assert once.eval()(images).shape == task.model(images).shape


def test_neutral_choice_changes_nothing(technique: Technique, task: Task) -> None:
    """The neutral level, stated or left out, keeps what the network computes."""
    offers = technique.choices(found_in(task), CAPABILITIES)
    images = task.train[0][0]  # type: ignore[index]
    for chosen in ({}, {choice.target: choice.neutral for choice in offers if choice.neutral is not None}):
        neutral = technique.apply(task.model, Candidate({technique.axis: chosen}), supplies_of(task))
        torch.testing.assert_close(neutral.eval()(images), task.model(images), rtol=1e-4, atol=1e-4)


def test_unknown_target_is_infeasible(technique: Technique, task: Task) -> None:
    """A choice for a part that the network has not ends at the rung of building."""
    offers = technique.choices(found_in(task), CAPABILITIES)
    with pytest.raises(InfeasibleError, match="nowhere") as caught:
        technique.apply(task.model, Candidate({technique.axis: {"nowhere": offers[0].levels[-1]}}), supplies_of(task))
    assert caught.value.rung == "build"


def test_space_has_every_technique_and_the_settings(task: Task) -> None:
    """The space is what all techniques offer, and distillation's settings."""
    assert {choice.axis for choice in space(task).choices} - SETTINGS == {*TECHNIQUES}


class Joined(nn.Module):
    """Linear layers that read one group of channels, many inputs each, and two groups side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, stride=2)
        self.wide, self.other = nn.Linear(16 * 9, 32), nn.Linear(16 * 9, 32)
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits."""
        x = self.conv(x).relu().flatten(1)
        output: Tensor = self.head(torch.cat([self.wide(x).relu(), self.other(x).relu()], 1))
        return output


@given(st.data())
@settings(max_examples=15)
def test_every_point_of_a_space_can_be_built(data: st.DataObject) -> None:
    """Levels that need inputs in fours or sixteens give way to pruning that leaves others."""
    model = Joined().eval()
    found = inspect(model, (torch.ones(1, 1, 8, 8),))
    offered = space_of(found, replace(CAPABILITIES, weight_bits=(4,), channel_multiple=2))
    point = {name: data.draw(st.integers(0, size - 1), name) for name, size in offered.sizes.items()}
    strict = {**point, "bits:head": offered.sizes["bits:head"] - 1, "sparsity:head": offered.sizes["sparsity:head"] - 1}
    candidate = offered.candidate(strict)
    images = [(torch.ones(4, 1, 8, 8),)]
    supplies = Supplies(examples=images[0], calibration=images, statistics=images, batches=batches(2), rough=True)
    for technique in ALL:
        model = technique.apply(model, candidate, supplies)
    assert offered.candidate(offered.levels(candidate)) == candidate
    pruned = candidate[PRUNING_RATIO].keys() & {"wide", "other"}
    assert pruned or (candidate[BITS]["head"], candidate[SPARSITY]["head"]) == (4, TWO_FOUR)


def test_pruned_and_quantized_network_trains_and_exports(task: Task) -> None:
    """Pruning and INT8 at their strongest make it smaller; it learns the task, and is served as it was trained."""
    candidate = space(task).at(lambda choice: len(choice.levels) - 1 if choice.axis in (PRUNING_RATIO, BITS) else 0)
    result = apply_candidate(task, candidate, supplies_of(task), epochs=12)
    assert result.params < 0.5 * sum(p.numel() for p in task.model.parameters())
    assert result.macs < 0.5 * sum(cost.macs for cost in count(task.model, task.examples).values())
    rounded = {name for layer in candidate["bits"] for name, _ in parts(result.model, layer)}
    assert {name for name, module in result.model.named_modules() if isinstance(module, Quantized)} == rounded
    onnx.checker.check_model(onnx.load_from_string(result.onnx))
    assert task.metric(result.model, task.validation) > 0.85
    assert_served_as_trained(result, task)


def test_all_techniques_at_once_train_and_export(task: Task) -> None:
    """The strongest candidate of all is built, trained and exported, and its file computes what PyTorch does."""
    result = apply_candidate(task, strongest(space(task)), supplies_of(task), epochs=2)
    assert_served_as_trained(result, task)


def assert_served_as_trained(result: Compressed, task: Task) -> None:
    """Check that ONNX Runtime computes what PyTorch does."""
    for images, _ in task.validation:
        with torch.no_grad():
            expected = result.model(images)
        actual = served(result.onnx, images)
        assert float((actual - expected).abs().max()) < 0.1 * float(expected.max() - expected.min())


@pytest.mark.parametrize("training", [True, False])
def test_the_tasks_network_is_not_changed(task: Task, training: bool) -> None:
    """Weights, statistics, gradients and mode of the original stay, training and export included."""
    model = task.model.train(training)
    before = state(model)
    apply_candidate(task, strongest(space(task)), supplies_of(task), epochs=0.5)
    assert same(before, state(model))
    assert all(module.training is training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_same_seed_gives_the_same_bytes(task: Task) -> None:
    """A candidate, its epochs and a seed determine the file; another seed may not give it."""
    candidate, supplies = strongest(space(task)), supplies_of(task)
    task = replace(task, train=shuffled(task))
    one, same_seed, other = (apply_candidate(task, candidate, supplies, epochs=1, seed=seed).onnx for seed in (1, 1, 2))
    assert one == same_seed
    assert one != other


def shuffled(task: Task) -> torch.utils.data.DataLoader[Batch]:
    """Return the training data in a new order at every pass."""
    data = [pair for images, labels in task.train for pair in zip(images, labels, strict=True)]
    return torch.utils.data.DataLoader(data, batch_size=16, shuffle=True)  # type: ignore[arg-type]


def test_unchanged_network_is_exported_as_it_is(task: Task) -> None:
    """The empty candidate without training is the float network."""
    result = apply_candidate(task, Candidate(), supplies_of(task), epochs=0)
    images = task.train[0][0]  # type: ignore[index]
    torch.testing.assert_close(served(result.onnx, images), task.model(images).detach(), rtol=1e-3, atol=1e-4)
    assert result.macs == sum(cost.macs for cost in count(task.model, task.examples).values())
    assert not any(isinstance(module, Quantized) for module in result.model.modules())


def test_state_has_float_weights_under_the_names_of_the_network(task: Task) -> None:
    """What is saved beside the file has the names of the original, without quantizers and batch norms."""
    candidate = space(task).at(lambda choice: len(choice.levels) - 1 if choice.axis in {"pruning_ratio", "bits"} else 0)
    saved = apply_candidate(task, candidate, supplies_of(task), epochs=0).state()
    names = {name for name in task.model.state_dict() if name.endswith("weight")}
    norms = {f"{name}.weight" for name, m in task.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name in saved if name.endswith("weight")} == names - norms
    assert all(value.is_contiguous() and value.is_floating_point() for value in saved.values())


def test_epochs_are_shared_between_shapes_and_numbers(task: Task) -> None:
    """A network with both kinds of change is trained twice, for all epochs together; otherwise once."""
    seen: list[float] = []
    task = replace(task, fit=lambda student, teacher, epochs: seen.append(epochs))
    supplies = supplies_of(task)
    shapes, numbers = {"pruning_ratio": {"stem.0": 0.5}}, {"bits": {"head": 8}}
    for axes, trainings in (({}, 1), (shapes, 1), (numbers, 1), (shapes | numbers, 2)):
        seen.clear()
        apply_candidate(task, Candidate(axes), supplies, epochs=2.0)
        assert len(seen) == trainings
        assert sum(seen) == pytest.approx(2.0)


def test_one_shot_trains_nothing(task: Task) -> None:
    """Without epochs the network is only built."""
    seen: list[float] = []
    task = replace(task, fit=lambda student, teacher, epochs: seen.append(epochs))
    apply_candidate(task, strongest(space(task)), supplies_of(task), epochs=0)
    assert seen == []


def test_statistics_are_estimated_after_pruning(task: Task) -> None:
    """A pruned network that was not trained has batch norms that fit what they now see."""
    result = apply_candidate(task, Candidate({"pruning_ratio": {"stem.0": 0.5}}), supplies_of(task), epochs=0)
    images = torch.cat([images for images, _ in task.train])
    made = result.model.stem(images)  # type: ignore[operator]
    before_relu = result.model.stem[0](images).transpose(0, 1).flatten(1)  # type: ignore[index]
    assert made.shape[1] == 4
    torch.testing.assert_close(before_relu.mean(1), torch.zeros(4), rtol=0, atol=0.05)
    torch.testing.assert_close(before_relu.var(1), torch.ones(4), rtol=0, atol=0.05)


def test_what_torch_refuses_is_infeasible(task: Task) -> None:
    """Shapes that do not fit end the trial with a reason, not the study."""

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.new_ones(3, 3)

    with pytest.raises(InfeasibleError, match="the network cannot be built") as caught:
        apply_candidate(replace(task, model=Broken()), Candidate(), supplies_of(task), epochs=0)
    assert caught.value.rung == "build"


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, ValueError])
@pytest.mark.parametrize("part", ["loss", "train"])
def test_a_defect_of_the_tasks_functions_still_raises(task: Task, part: str, kind: type[Exception]) -> None:
    """What the user's own code raises is not taken for a candidate that cannot be built; it tells whose it is."""
    supplies, error = supplies_of(task), kind("mine")

    class Train:
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[Batch]:
            yield from batches(1)
            raise error

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        raise error

    task = replace(task, **{part: {"loss": loss, "train": Train()}[part]})
    with pytest.raises(kind, match="mine") as caught:
        apply_candidate(task, Candidate(), supplies, epochs=1)
    assert caught.value is error
    assert blamed(error) == f"raised in the task's `{part}`"


def test_deadline_reaches_the_training(task: Task) -> None:
    """Time that is over ends the training with its reason."""
    with pytest.raises(InfeasibleError, match="time was over") as caught:
        apply_candidate(task, Candidate(), supplies_of(task), epochs=1, deadline=time.monotonic())
    assert caught.value.rung == "train"


def test_calibration_data_are_the_same_each_time(task: Task) -> None:
    """A loader that shuffles gives the same batches, and the global random state stays."""
    task = replace(task, train=shuffled(replace(task, train=batches(12))))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    once = supplies_of(task)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = supplies_of(task)
    for one, other in zip(once.statistics, again.statistics, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    for one, other in zip(once.batches, again.batches, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_calibration_data_of_its_own_come_first(task: Task) -> None:
    """A task's calibration loader is used in place of the training data."""
    own = [(torch.zeros(2, 1, 8, 8), torch.zeros(2))]
    supplies = supplies_of(replace(task, calibration=own))
    assert len(supplies.calibration) == 1
    assert not supplies.calibration[0][0].any()


def test_compressed_network_can_be_copied(task: Task) -> None:
    """The result outlives the task."""
    result = apply_candidate(task, strongest(space(task)), supplies_of(task), epochs=0)
    images = task.train[0][0]  # type: ignore[index]
    torch.testing.assert_close(copy.deepcopy(result.model)(images), result.model(images), rtol=0, atol=0)


def test_a_training_of_ones_own_has_no_settings_of_ours(task: Task) -> None:
    """With a `fit` nothing is offered that only our training knows; what is done before and between it stays."""
    network = inspect(task.model, task.examples)
    ours = {choice.name for choice in space_of(network, CAPABILITIES, task).choices}
    own = replace(task, fit=lambda student, teacher, epochs: None)
    left = {choice.name for choice in space_of(network, CAPABILITIES, own).choices}
    assert ours - left == {"pruning:penalty", *(name for name in ours if name.startswith("distillation:"))}
    assert {"pruning:steps", "pruning:importance"} <= left <= ours
