"""PyTorch's attention, built of layers, computes what it did."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import remove_channels
from autocompress.studies.networks.multihead import SelfAttention, unpacked
from autocompress.studies.normalize import normalized
from autocompress.studies.task import Task


class Both(nn.Module):
    """A sequence that looks at itself, and then at the mean of another."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
        self.outer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, 8) to the same shape."""
        x = self.inner(x, x, x, need_weights=False)[0]
        other = x.mean(1, keepdim=True)
        out: Tensor = self.outer(x, other, other)[0]
        return out


class Weights(nn.Module):
    """A network that returns how much each token looks at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, 8) to (N, tokens, tokens)."""
        out: Tensor = self.attention(x, x, x)[1]
        return out


def encoder(*, batch_first: bool = True) -> nn.Module:
    """Return PyTorch's encoder of two layers, with numbers of its own in each."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=batch_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@settings(deadline=None, max_examples=20)
@given(
    heads=st.integers(1, 4),
    size=st.integers(1, 5),
    tokens=st.integers(1, 6),
    options=st.fixed_dictionaries({"bias": st.booleans(), "batch_first": st.booleans()}),
    masks=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_the_same_outputs(heads: int, size: int, tokens: int, options: Any, masks: tuple[bool, bool, bool]) -> None:
    """For every number of heads and form of masks, true or added."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(heads * size, heads, **options).eval()
    x = torch.randn((3, tokens, heads * size) if options["batch_first"] else (tokens, 3, heads * size))
    causal: Tensor = torch.ones(tokens, tokens).triu(1).bool()
    padding = torch.zeros(3, tokens).bool()
    padding[1, 1:] = True
    if masks[2]:
        causal, padding = (torch.zeros(m.shape).masked_fill(m, float("-inf")) for m in (causal, padding))
    given_masks = {"attn_mask": causal if masks[0] else None, "key_padding_mask": padding if masks[1] else None}
    expected, _ = attention(x, x, x, need_weights=False, **given_masks)
    actual, _ = SelfAttention(attention)(x, x, x, need_weights=False, **given_masks)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_task_holds_a_copy_whose_attention_is_layers(batch_first: bool) -> None:
    """The user's network stays as it is; the task's gives the same outputs, and its projections are layers."""
    torch.manual_seed(0)
    model, x = encoder(batch_first=batch_first), torch.randn(3, 5, 16)
    task, _ = normalized(Task(model, x, train=[], validation=[]))
    assert any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    assert not any(isinstance(module, nn.MultiheadAttention) for module in task.model.modules())
    with torch.no_grad():
        torch.testing.assert_close(task.model(x), model(x), rtol=1e-4, atol=1e-4)
    network = inspect(task.model, task.examples)
    layers = {layer.name for layer in network.layers}
    assert {"layers.0.self_attn.qkv", "layers.0.self_attn.out_proj", "layers.0.linear1"} <= layers


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_of_an_encoder_in_evaluation() -> None:
    """PyTorch's nested tensors, which need its own attention, are not made any more."""
    torch.manual_seed(0)
    model, x = encoder(), torch.randn(2, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = model(x, src_key_padding_mask=padding)
        actual = unpacked(model, (x,))(x, src_key_padding_mask=padding)
    torch.testing.assert_close(actual[~padding], expected[~padding], rtol=1e-4, atol=1e-4)


def test_heads_can_be_pruned() -> None:
    """Half the heads of every layer go, and the encoder still maps to the same shape."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    model = unpacked(encoder(), (x,))
    groups = {group.name: group for group in inspect(model, (x,)).groups}
    group = groups["layers.1.self_attn.qkv"]
    assert (group.channels, group.granularity) == (48, 12)
    pruned = remove_channels(model, {group.name: 24}, (x,))
    assert pruned.get_submodule("layers.1.self_attn").num_heads == 2
    assert pruned(x).shape == x.shape


def test_attention_to_another_sequence_stays() -> None:
    """Only the attention that is called with one sequence is rebuilt."""
    torch.manual_seed(0)
    model, x = Both().eval(), torch.randn(2, 5, 8)
    rebuilt = unpacked(model, (x,))
    assert isinstance(rebuilt.inner, SelfAttention)
    assert isinstance(rebuilt.outer, nn.MultiheadAttention)
    torch.testing.assert_close(rebuilt(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="one sequence"):
        rebuilt.inner(x, x + 1, x)


@pytest.mark.parametrize("model", [Weights(), nn.Sequential(nn.Linear(8, 8))])
def test_other_networks_stay_themselves(model: nn.Module) -> None:
    """One that reads the attention's weights, and one without attention, are handed back."""
    assert unpacked(model, (torch.randn(2, 5, 8),)) is model
