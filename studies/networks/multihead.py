"""Replaces PyTorch's attention by one built of layers that can be compressed.

`torch.nn.MultiheadAttention` multiplies by its weights itself, so that no technique finds a layer there to prune or
quantize, and it needs as many channels inside as outside. Linear layers with the same weights compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .copied import copied

Network = TypeVar("Network", bound=nn.Module)


class SelfAttention(nn.Module):
    """Attention of a sequence to itself (Vaswani et al., NeurIPS 2017, section 3.2), called like PyTorch's own.

    Args:
        attention: gives the weights.

    """

    in_proj_bias = None  # tells PyTorch's encoder layers not to compute without this module
    _qkv_same_embed_dim = True

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        width = attention.embed_dim
        self.num_heads, self.head_dim, self.dropout = attention.num_heads, attention.head_dim, attention.dropout
        self.batch_first = attention.batch_first
        self.qkv = nn.Linear(width, 3 * width, bias=attention.in_proj_bias is not None)
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = nn.Linear(width, width, bias=attention.out_proj.bias is not None)
        self.out_proj.weight, self.out_proj.bias = attention.out_proj.weight, attention.out_proj.bias
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Return the attended sequence, in the shape of the query, without the weights.

        Raises:
            ValueError: key or value are not the query.

        """
        if key is not query or value is not query:
            raise ValueError("self-attention must be called with one sequence as query, key and value")
        x = query if self.batch_first else query.transpose(0, 1)
        batch, tokens, _ = x.shape
        heads = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mask = self._mask(attn_mask, key_padding_mask, x)
        found = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], mask, dropout)
        output = self.out_proj(found.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))
        return output if self.batch_first else output.transpose(0, 1), None

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Return both masks as one additive mask, of shape (batch or 1, heads or 1, tokens or 1, tokens)."""
        added = []
        if attn_mask is not None:
            shape = (1, 1) if attn_mask.dim() == 2 else (-1, self.num_heads)
            added.append(_added(attn_mask, like).reshape(*shape, *attn_mask.shape[-2:]))
        if padding is not None:
            added.append(_added(padding, like)[:, None, None])
        return sum(added[1:], added[0]) if added else None


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers to add; True means that a position is ignored."""
    if mask.is_floating_point():
        return mask.to(like.dtype)
    return like.new_zeros(mask.shape).masked_fill(mask, float("-inf"))


def unpacked(model: Network, examples: Sequence[Tensor]) -> Network:
    """Return a copy whose self-attentions are built of layers, or the network itself if it has none.

    Attentions to another sequence, or with weights and biases in other forms, are not changed. Neither is a network
    whose outputs would differ, such as one that reads the attention's weights.

    Args:
        model: the network.
        examples: inputs, batch first.

    """
    if not any(_plain(module) for module in model.modules()):
        return model
    try:
        tried = copied(model).eval()
        names = _self_attentions(tried, examples)
        with torch.no_grad():
            before = tried(*examples)
            _replace(tried, names)
            same = torch.allclose(before, tried(*examples), rtol=1e-3, atol=1e-4 * float(before.abs().max()))
    except Exception:  # a user's forward may fail in any way, and is told of it elsewhere
        return model
    if not names or not same:
        return model
    model = copied(model)
    _replace(model, names)
    return model


def _self_attentions(model: nn.Module, examples: Sequence[Tensor]) -> list[str]:
    """Return the names of the attentions of a sequence to itself."""
    alone: dict[nn.Module, bool] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> None:
        sequences = [*inputs[:3], *(named[name] for name in ("query", "key", "value") if name in named)]
        alone[module] = alone.get(module, True) and all(x is sequences[0] for x in sequences)

    found = {module: name for name, module in model.named_modules() if _plain(module)}
    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in found]
    with torch.no_grad():
        model(*examples)
    for hook in hooks:
        hook.remove()
    return [name for module, name in found.items() if alone.get(module)]


def _replace(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        attention = model.get_submodule(name)
        assert isinstance(attention, nn.MultiheadAttention)
        model.set_submodule(name, SelfAttention(attention))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _plain(module: nn.Module) -> bool:
    return (
        type(module) is nn.MultiheadAttention
        and bool(module._qkv_same_embed_dim)
        and module.bias_k is None
        and not module.add_zero_attn
    )
