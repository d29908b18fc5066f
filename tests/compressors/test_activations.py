"""Activation functions are found by what they compute, and give way to cheaper ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.activation_functions import FUNCTIONS, function_of, functions_of
from autocompress.compressors.activations import Exchange, exchangeable
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.layers import Activations
from autocompress.studies.task import Task

from .samples import batches

EXAMPLES = (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Swish(nn.Module):
    """A user's own SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x · σ(x)."""
        return x * torch.sigmoid(x)


class Gate(nn.Module):
    """Squeeze and excite, with the scales brought into the shape of the channels by views."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 4), nn.Linear(4, channels)
        self.act, self.gate = nn.SiLU(), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels."""
        scales = self.gate(self.excite(self.act(self.squeeze(x.mean((2, 3))))))
        return x * scales.view(*x.shape[:2], 1, 1).expand_as(x)


class Net(nn.Module):
    """Two stages with squeeze-excite, one function called bare, and probabilities as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), Swish())
        self.stages = nn.Sequential(*(self.stage() for _ in range(2)))
        self.neck, self.head, self.probability = nn.Linear(8, 8), nn.Linear(8, 2), nn.Sigmoid()

    def stage(self) -> nn.Sequential:
        """Return a convolution and a gate."""
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Hardswish(), Gate(8))

    def forward(self, x: Tensor) -> Tensor:
        """Return two probabilities."""
        x = functional.gelu(self.neck(self.stages(self.stem(x)).mean((2, 3))))
        out: Tensor = self.probability(self.head(x))
        return out


def never(_: str) -> bool:
    """Keep nothing."""
    return False


def supplies(inputs: tuple[Tensor, ...] = EXAMPLES) -> Supplies:
    """Return the example inputs as all data."""
    return Supplies(examples=inputs, calibration=[inputs])


def exchanged(model: nn.Module, chosen: dict[str, str], inputs: tuple[Tensor, ...] = EXAMPLES) -> nn.Module:
    """Return a network with some activations exchanged."""
    return Exchange().apply(model, Candidate({"activation": chosen}), supplies(inputs)).eval()


@pytest.mark.parametrize(
    ("build", "function"),
    [
        (nn.SiLU, "silu"),
        (Swish, "silu"),
        (lambda: nn.GELU(approximate="tanh"), "gelu (tanh)"),
        (nn.GELU, "gelu"),
        (lambda: nn.Hardswish(inplace=True), "hardswish"),
        (nn.Mish, "mish"),
        (nn.Sigmoid, "sigmoid"),
        (nn.ReLU, None),
        (nn.Hardsigmoid, None),
        (nn.Identity, None),
        (lambda: nn.Softmax(1), None),
        (lambda: nn.AvgPool2d(1), None),
        (lambda: nn.Dropout(0.0), None),
        (lambda: nn.Sequential(nn.SiLU()), None),
        (lambda: nn.Linear(1, 1), None),
    ],
)
def test_a_function_is_known_by_its_values(build: Callable[[], nn.Module], function: str | None) -> None:
    """A module of any library counts as the function whose values it has, and all others as none."""
    assert function_of(build()) == function


def test_no_two_functions_are_alike() -> None:
    """Each function's own module is taken for that function alone."""

    class Is(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    assert [function_of(Is(function)) for function in FUNCTIONS.values()] == [*FUNCTIONS]


def test_functions_are_grouped_by_stage_and_outputs_stay() -> None:
    """Stages have a choice each; sigmoids count as gates only, and a bare function is left alone with a reason."""
    network = inspect(Net().eval(), EXAMPLES)
    stages = [
        Activations(
            name=f"stages.{n}",
            functions=("hardswish", "silu", "sigmoid"),
            layers=(f"stages.{n}.0", f"stages.{n}.2.squeeze", f"stages.{n}.2.excite"),
        )
        for n in range(2)
    ]
    assert network.activations == (Activations(name="stem", functions=("silu",), layers=("stem.0",)), *stages)
    assert dict(network.left_alone)["(its forward)"].startswith("it calls gelu as a function")


@pytest.mark.parametrize(
    ("keep", "left"),
    [("stages.1", ["stem", "stages.0"]), ("stages.0.2.gate", ["stem", "stages.1", "stages.0.1", "stages.0.2.act"])],
)
def test_what_the_task_keeps_is_not_offered(keep: str, left: list[str]) -> None:
    """A kept stage has no choice, and what is beside a kept function has one of its own."""
    network = inspect(Net().eval(), EXAMPLES, keep=[keep])
    assert [each.name for each in network.activations] == left


@pytest.mark.parametrize(
    ("level", "stage"), [("keep", ["hardswish", "silu", "sigmoid"]), ("hard", ["hardswish", "hardswish"]), ("relu", [])]
)
def test_only_what_is_chosen_is_exchanged(level: str, stage: list[str]) -> None:
    """In the chosen stages functions get the forms of the level, and elsewhere they stay."""
    changed = exchanged(Net().eval(), {"stages.0": level, "stages.1": level})
    assert [*functions_of(changed, EXAMPLES).modules.values()] == ["silu", *stage, *stage]


def test_exchanged_functions_are_gone_from_the_file() -> None:
    """A network whose functions are all exchanged exports to ReLU and hard-sigmoid."""
    model = exchanged(Net().eval(), {"stem": "relu", "stages.0": "relu", "stages.1": "relu"})
    kinds = [node.op_type for node in to_onnx(model, EXAMPLES).graph.node]
    assert kinds.count("Relu") == 5
    assert kinds.count("HardSigmoid") == 2
    assert kinds.count("Sigmoid") == 1
    assert "HardSwish" not in kinds


def test_the_fast_path_of_an_encoder_layer_sees_the_new_function() -> None:
    """PyTorch's own encoder layer, which computes GELU by itself when it may, computes ReLU."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.GELU(), batch_first=True).eval()
    tokens = (torch.randn(2, 4, 8),)
    with torch.no_grad():
        found = exchanged(layer, {"activation": "relu"}, tokens)(*tokens)
        layer.activation, layer.activation_relu_or_gelu = nn.ReLU(), 1
        torch.testing.assert_close(found, layer(*tokens))


def test_a_module_at_several_places_is_one() -> None:
    """A function that blocks share is exchanged in all of them."""
    act = nn.SiLU()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), act, nn.Conv2d(4, 4, 3), act).eval()
    ((group,), _) = exchangeable(model, EXAMPLES, never)
    assert group.name == "1"
    changed = exchanged(model, {"1": "relu"})
    assert isinstance(changed[3], nn.ReLU)  # type: ignore[index]
    assert isinstance(model[3], nn.SiLU)


def test_an_unknown_level_is_infeasible() -> None:
    """A level that there is not ends at the rung of building, with those that there are."""
    with pytest.raises(InfeasibleError, match="keep, hard, relu, got 'tanh'"):
        exchanged(Net().eval(), {"stem": "tanh"})


def test_training_recovers_what_the_exchange_changed() -> None:
    """All functions are exchanged before the first training, also where channels go in several steps."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    ).append(nn.Linear(64, 2))
    seen: list[nn.Module] = []
    task = Task(
        model=model.eval(),
        example_inputs=torch.ones(1, 1, 8, 8),
        train=batches(4),
        validation=batches(2),
        fit=lambda student, teacher, epochs: seen.append(student[2]),
    )
    chosen = Candidate({"activation": {"2": "relu"}, "pruning_ratio": {"0": 0.75}, "pruning": {"steps": 2}})
    apply_candidate(task, chosen, supplies_of(task), epochs=1)
    assert len(seen) == 2
    assert all(isinstance(module, nn.ReLU) for module in seen)
