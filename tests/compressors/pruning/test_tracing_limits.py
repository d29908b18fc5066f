"""Tracing that would never end is given up, and the network is compressed without it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch_pruning.dependency.graph as library
from torch import Tensor, nn

from autocompress.compressors.pruning import tracing_limits as bounds
from autocompress.compressors.pruning.dependency_groups import channel_group, dependency_graph
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.tracing_limits import TooLargeError, bounded
from autocompress.studies.residual import ResidualNet

X = (torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)


def residual() -> nn.Module:
    """Return a network of two stages."""
    return ResidualNet((8, 16), (1, 1), classes=3).eval()


def test_a_group_that_is_too_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller groups of the same network are still on offer, and so are all layers."""
    monkeypatch.setattr(bounds, "STEPS", 120)
    network = inspect(residual(), X)
    assert {group.name for group in network.groups} == {"stages.0.0.conv1"}
    assert len(network.layers) == 7
    assert "not followed to their ends within 120 steps" in dict(network.left_alone)["stages.1.0.conv1"]


def test_a_network_that_cannot_be_traced_keeps_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """All groups are left alone with the reason; what needs no groups is still offered."""

    class Flat(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))

    monkeypatch.setattr(bounds, "STEPS", 0)
    network = inspect(Flat(), X)
    assert network.groups == ()
    assert {layer.name for layer in network.layers} == {"0", "2"}
    assert network.left_alone == (
        ("(all groups)", "its dependencies cannot be traced: they are not followed to their ends within 0 steps"),
    )


def test_bounded_tracing_finds_what_the_library_finds() -> None:
    """Within the bound nothing changes."""
    model = residual()
    graph = dependency_graph(model, X)
    for root in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        channels = list(range(root.out_channels))
        plain = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, channels)
        ours = channel_group(graph, root, channels)
        assert [(dep.target, dep.handler, idxs) for dep, idxs in ours] == [
            (dep.target, dep.handler, idxs) for dep, idxs in plain
        ]


def test_the_library_is_itself_again() -> None:
    """Also after the bound was met."""
    before = library.Group
    model = residual()
    graph = dependency_graph(model, X)
    with pytest.raises(TooLargeError), bounded(3):
        graph.get_pruning_group(model.stem[0], graph.get_pruner_of_module(model.stem[0]).prune_out_channels, [0, 1])
    assert library.Group is before


def test_rolled_windows_end() -> None:
    """A network of windows that are rolled, cut and joined again, as Swin's, is inspected within the bound."""

    class Rolled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(1, 8, 2, 2)
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).permute(0, 2, 3, 1)
            for layer in self.layers:
                x = x.roll((1, 1), (1, 2))
                x = torch.cat([x[:, ::2], x[:, 1::2]], 1)
                batch, height, width, channels = x.shape
                windows = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
                x = x + layer(windows.reshape(-1, 4, channels)).view(batch, height, width, channels)
            out: Tensor = self.head(x.mean((1, 2)))
            return out

    network = inspect(Rolled().eval(), X)
    assert {"layers.0.0", "layers.3.0"} <= {group.name for group in network.groups}
    assert len(network.layers) == 10


def test_a_fresh_process_loads_nothing_that_pruning_does_not_need() -> None:
    """Neither timm nor torchvision, which take seconds, nor torch's compiler; and timm is not hidden from a study."""
    heavy = "{'timm', 'torchvision', 'torch._dynamo'}"
    code = f"import sys, autocompress.compressors.pipeline; print({heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
