"""Attention transfer: maps of convolutions, matrices of transformers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.distillation.attention import (
    attention_matrix,
    matrix_attention_loss,
    paired,
    recorded,
    spatial_attention_loss,
)


def encoder(layers: int = 2) -> nn.Module:
    """Return PyTorch's own transformer encoder in evaluation mode, where it has a fast path."""
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False).eval()


@given(st.floats(1e-2, 1e2), st.integers(1, 5), st.integers(1, 5))
def test_maps_do_not_depend_on_scale_or_width(factor: float, ours: int, theirs: int) -> None:
    """Only where the energy is counts; the loss is that of the paper, and between 0 and 2."""
    student, teacher = torch.randn(3, ours, 4, 5), torch.randn(3, theirs, 4, 5)
    maps = [functional.normalize(x.square().sum(1).flatten(1), dim=1) for x in (student, teacher)]
    expected = (maps[0] - maps[1]).norm(dim=1).square().mean()
    found = spatial_attention_loss(student, teacher)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(spatial_attention_loss(factor * student, teacher), expected, rtol=1e-3, atol=1e-5)
    assert 0 <= found <= 2
    assert spatial_attention_loss(student.repeat(1, 3, 1, 1), student) < 1e-10


def test_finer_maps_are_averaged() -> None:
    """A student of half the resolution can have the attention of its teacher."""
    student = torch.rand(2, 1, 3, 3)
    teacher = student.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert spatial_attention_loss(student, teacher) < 1e-10


@given(st.integers(1, 4), st.integers(2, 6))
def test_divergence_of_attention(batch: int, keys: int) -> None:
    """It is that of PyTorch, averaged over queries; 0 for equals, finite where the student does not look at all."""
    ours, theirs = (torch.randn(batch, 3, keys).softmax(-1) for _ in range(2))
    expected = functional.kl_div(ours.log(), theirs, reduction="sum") / (3 * batch)
    torch.testing.assert_close(matrix_attention_loss(ours, theirs), expected)
    assert matrix_attention_loss(theirs, theirs) == 0
    assert matrix_attention_loss(functional.one_hot(ours.argmin(-1), keys), theirs).isfinite()


@pytest.mark.parametrize("kind", ["none", "boolean", "added", "is_causal"])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_matrices_are_those_that_pytorch_computes_with(kind: str, scale: float | None) -> None:
    """With one head, matrix times values is what scaled_dot_product_attention gives, whatever the mask."""
    q, k, v = torch.randn(2, 1, 5, 8), torch.randn(2, 1, 6, 8), torch.randn(2, 1, 6, 3)
    visible = torch.rand(2, 1, 5, 6) > 0.3
    visible[..., 0] = True
    mask = {"boolean": visible, "added": torch.randn(5, 6)}.get(kind)
    causal = kind == "is_causal"
    found = attention_matrix(q, k, mask, causal=causal, scale=scale)
    expected = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
    torch.testing.assert_close(found @ v[:, 0], expected[:, 0])


def test_heads_are_averaged_and_keys_may_be_shared() -> None:
    """Rows sum to 1; with fewer heads of keys, each serves a group of the query's."""
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    found = attention_matrix(q, k)
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 5))
    each = [attention_matrix(q[:, i], k[:, i // 2]) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


def test_an_encoder_is_seen_and_computes_the_same() -> None:
    """Each layer's matrix is recorded though there is a fast path, and outputs stay."""
    model, tokens = encoder(), torch.randn(3, 7, 16)
    with torch.no_grad():
        before = model(tokens)
        with recorded() as found:
            after = model(tokens)
        model(tokens)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert [tuple(matrix.shape) for matrix in found] == [(3, 7, 7)] * 2


def test_other_threads_notice_nothing() -> None:
    """What they compute meanwhile is not recorded, and PyTorch is as it was for them."""
    genuine, q = functional.scaled_dot_product_attention, torch.randn(1, 2, 3, 4)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()

    def compute() -> object:
        attention(torch.randn(1, 5, 16), *[torch.randn(1, 5, 16)] * 2)
        genuine(q, q, q)
        return functional.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()

    with recorded() as found, ThreadPoolExecutor(1) as threads:
        assert threads.submit(compute).result() == (genuine, True)
        assert not found
        genuine(q, q, q)
        assert len(found) == 1


def test_dropout_drops_nothing_of_a_matrix() -> None:
    """A student's matrices are what it would look at, in training too: rows sum to 1, and nothing is 0."""
    attention, tokens = nn.MultiheadAttention(16, 4, dropout=0.5, batch_first=True), torch.randn(3, 7, 16)
    for need_weights in (False, True):
        with recorded() as found:
            attention(tokens, tokens, tokens, need_weights=need_weights)
        torch.testing.assert_close(found[0].sum(-1), torch.ones(3, 7))
        assert found[0].min() > 0


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_gives_gradients_to_queries_and_keys(need_weights: bool) -> None:
    """Both ways of computing it are seen, with the same matrix, and a loss on it reaches the projections."""
    attention, tokens = nn.MultiheadAttention(16, 4, batch_first=True), torch.randn(3, 7, 16)
    with recorded() as found:
        _, weights = attention(tokens, tokens, tokens, need_weights=True)
        attention(tokens, tokens, tokens, need_weights=need_weights, average_attn_weights=False)
    torch.testing.assert_close(found[0], weights)
    torch.testing.assert_close(found[1], weights)
    matrix_attention_loss(found[1], torch.rand(3, 7, 7).softmax(-1)).backward()
    query, key, value = attention.in_proj_weight.grad.chunk(3)
    assert query.abs().max() > 0
    assert key.abs().max() > 0
    assert value.abs().max() == 0


def test_timm_and_hugging_face_are_seen() -> None:
    """Networks of both libraries give one matrix a block."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    vit = VisionTransformer(img_size=16, patch_size=8, in_chans=1, num_classes=4, **sizes)
    with recorded() as found:
        vit(torch.randn(2, 1, 16, 16))
    assert [tuple(matrix.shape) for matrix in found] == [(2, 5, 5)] * 3
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    bert = transformers.BertModel(config)
    with recorded() as found:
        bert(torch.arange(6)[None])
    assert [tuple(matrix.shape) for matrix in found] == [(1, 6, 6)] * 2


def test_pytorch_is_put_back_after_an_error() -> None:
    """Whatever happens in the context."""
    genuine = functional.scaled_dot_product_attention
    with pytest.raises(ZeroDivisionError), recorded():
        raise ZeroDivisionError
    assert functional.scaled_dot_product_attention is genuine


def test_matrices_are_paired_by_depth() -> None:
    """Each of up to four of the teacher's, the last among them, has one of the student's; other shapes are left out."""

    def matrices(count: int, size: int = 3) -> list[Tensor]:
        return [torch.full((1, size, size), float(i)) for i in range(count)]

    pairs = [(int(a[0, 0, 0]), int(b[0, 0, 0])) for a, b in paired(matrices(3), matrices(6))]
    assert pairs == [(0, 1), (1, 2), (2, 4), (2, 5)]
    assert not paired([], matrices(3))
    assert not paired(matrices(3), [])
    assert not paired(matrices(3), matrices(3, size=4))
