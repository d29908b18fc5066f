"""Attention loses whole heads, and is left alone where that would mean something else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.modules import count, run
from autocompress.compressors.pruning.attention_heads import find_heads, prunable, remove_heads
from autocompress.compressors.pruning.dependency_groups import channel_group, dependency_graph
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import ratios, remove_channels


class Fused(nn.Module):
    """Attention with one layer for queries, keys and values, as in timm; interleaved as in some language models."""

    def __init__(self, heads: int, size: int, *, interleaved: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, size, heads * size
        self.interleaved = interleaved
        self.qkv = nn.Linear(6, 3 * heads * size)
        self.proj = nn.Linear(heads * size, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, 6) to the same shape."""
        batch, tokens, _ = x.shape
        if self.interleaved:
            q, k, v = self.qkv(x).reshape(batch, tokens, self.num_heads, 3, self.head_dim).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: Tensor = self.proj(found.reshape(batch, tokens, self.attn_dim))
        return out


class Separate(nn.Module):
    """Attention with three layers, as in BERT."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = heads, size, heads * size
        self.query, self.key, self.value = (nn.Linear(6, heads * size) for _ in range(3))
        self.dense = nn.Linear(heads * size, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, 6) to the same shape."""
        batch, tokens, _ = x.shape
        shape = (batch, tokens, self.num_attention_heads, self.all_head_size // self.num_attention_heads)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        found = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: Tensor = self.dense(found.reshape(batch, tokens, self.all_head_size))
        return out


class Encoder(nn.Module):
    """A stem, an attention and a head."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(4, 6), attention, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, 4) to (N, 2)."""
        x = self.stem(x)
        out: Tensor = self.head((x + self.attention(x)).mean(1))
        return out


X = (torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)),)


@settings(deadline=None, max_examples=15)
@given(
    fused=st.booleans(),
    heads=st.integers(2, 5),
    size=st.integers(1, 6),
    data=st.data(),
)
def test_without_a_head_the_network_computes_as_if_it_were_silent(
    fused: bool, heads: int, size: int, data: st.DataObject
) -> None:
    """Whichever heads go, and the module says how many are left."""
    model = Encoder(Fused(heads, size) if fused else Separate(heads, size)).eval()
    (found,) = find_heads(model, list(count(model, X)))
    gone = data.draw(st.sets(st.integers(0, heads - 1), min_size=1, max_size=heads - 1))
    silent = Encoder(Fused(heads, size) if fused else Separate(heads, size)).eval()
    silent.load_state_dict(model.state_dict())
    with torch.no_grad():
        silent.get_submodule(found.output).weight[:, found.columns(sorted(gone))] = 0
    remove_heads(model, found, sorted(gone))
    torch.testing.assert_close(run(model, X), run(silent, X))
    (left,) = find_heads(model, list(count(model, X))) or [None]
    assert left is None if heads - len(gone) == 1 else left is not None and left.count == heads - len(gone)


@pytest.mark.parametrize(("attention", "members"), [(Fused, ("qkv",)), (Separate, ("query", "key", "value"))])
def test_groups_of_heads(attention: type[nn.Module], members: tuple[str, ...]) -> None:
    """A head is the least that goes; levels of a group are numbers of whole heads."""
    network = inspect(Encoder(attention(4, 2)), X)
    group = next(group for group in network.groups if group.granularity > 1)
    assert group.members == tuple(f"attention.{name}" for name in members)
    assert group.channels == 4 * group.granularity
    assert all(round(group.channels * (1 - ratio)) % group.granularity == 0 for ratio in ratios(group, 1))
    assert len(ratios(group, 1)) == 4
    layers = {layer.name: layer for layer in network.layers}
    reader = "attention.proj" if attention is Fused else "attention.dense"
    assert layers[reader].in_groups == (group.name,)
    assert network.left_alone == ()


@pytest.mark.parametrize("attention", [Fused, Separate])
def test_the_least_heads_go(attention: type[nn.Module]) -> None:
    """Heads whose weights are zero go first, and without them the outputs are the same."""
    model = Encoder(attention(4, 3)).eval()
    (heads,) = find_heads(model, list(count(model, X)))
    with torch.no_grad():
        for name in heads.inputs:
            layer = model.get_submodule(name)
            rows = [row for row in range(len(layer.weight)) if heads.head_of(row) in (1, 3)]
            layer.weight[rows], layer.bias[rows] = 0, 0
        model.get_submodule(heads.output).weight[:, heads.columns([1, 3])] = 0
    pruned = remove_channels(model, {heads.name: 2 * heads.granularity}, X)
    torch.testing.assert_close(run(pruned, X), run(model, X))
    assert pruned.get_submodule(heads.output).weight.shape[1] == 6


def test_heads_and_width_go_together() -> None:
    """Heads and the channels that the attention reads and writes are pruned in one go."""
    model = Encoder(Fused(4, 3)).eval()
    groups = {group.name: group.channels for group in inspect(model, X).groups}
    assert set(groups) == {"stem", "attention.qkv"}
    pruned = remove_channels(model, {name: channels // 2 for name, channels in groups.items()}, X)
    assert pruned.get_submodule("attention.qkv").weight.shape == (18, 3)
    assert pruned.get_submodule("attention.proj").weight.shape == (3, 6)
    assert run(pruned, X).shape == (2, 2)


def test_heads_that_mean_something_else_are_left_alone() -> None:
    """Interleaved projections look the same, but removing rows would mix the heads: the outputs give it away."""
    model = Encoder(Fused(4, 3, interleaved=True)).eval()
    found = find_heads(model, list(count(model, X)))
    assert prunable(model, found, lambda changed: run(changed, X)) == [False]
    network = inspect(model, X)
    assert [group.name for group in network.groups] == ["stem"]
    assert dict(network.left_alone)["attention.qkv"] == "its heads mean something else once one is gone"


def test_importance_counts_all_that_a_head_has() -> None:
    """The group's items name every row and column of a head once."""
    model = Encoder(Fused(3, 2)).eval()
    graph = dependency_graph(model, X)
    group = channel_group(graph, model.get_submodule("attention.qkv"), list(range(18)))
    assert [
        (len(indices), len(item.root_idxs)) for item, (_, indices) in zip(group.items, group.items, strict=True)
    ] == [
        (18, 18),
        (6, 6),
    ]
