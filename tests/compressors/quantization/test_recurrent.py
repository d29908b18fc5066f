"""Recurrent layers: what is found of them, how their weights are rounded, and what the pipeline makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from autocompress.compressors.modules import count
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.recurrent import WIDTH_STAYS, as_one_operation
from autocompress.compressors.quantization.quantize import Quantize
from autocompress.compressors.quantization.recurrent import QuantizedRecurrent
from autocompress.errors import InfeasibleError
from autocompress.evaluators.ladder.served import Served, parity, source_of
from autocompress.evaluators.runtimes import load
from autocompress.pareto.front import ParetoFront
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.task import Task, cross_entropy, top1

STEPS, WORDS, HIDDEN, CLASSES = 12, 20, 24, 3
FORMS = {
    "one": {"num_layers": 1},
    "both": {"num_layers": 1, "bidirectional": True},
    "deep": {"num_layers": 2, "bidirectional": True},
}


class Reader(nn.Module):
    """An embedding of words or a linear layer over features, a recurrent layer, and a head on its last step."""

    def __init__(self, kind: type[nn.RNNBase], *, words: bool = False, **form: object) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, 16) if words else nn.Linear(6, 16)
        self.layer = kind(16, HIDDEN, batch_first=True, **form)
        self.middle = nn.Linear(HIDDEN * (2 if form.get("bidirectional") else 1), 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences to logits."""
        out: Tensor = self.head(self.middle(self.layer(self.embed(x))[0][:, -1]).relu())
        return out


class Residual(nn.Module):
    """What a recurrent layer reads is added to what it makes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, HIDDEN)
        self.layer = nn.GRU(HIDDEN, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences to logits."""
        x = self.embed(x)
        out: Tensor = self.head((x + self.layer(x)[0])[:, -1])
        return out


def sentences(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of sequences of words; their class is the third of the words that the last one is from."""
    words = torch.randint(0, WORDS, (count, 16, STEPS), generator=torch.Generator().manual_seed(1))
    return list(zip(words, words[:, :, -1] * CLASSES // WORDS, strict=True))


def features(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of sequences of features with labels."""
    numbers = torch.randn(count, 16, STEPS, 6, generator=torch.Generator().manual_seed(2))
    return list(zip(numbers, numbers[:, :, -1, :CLASSES].argmax(2), strict=True))


def task(model: nn.Module, batches: Callable[[int], list[tuple[Tensor, Tensor]]] = features) -> Task:
    """Return a task that serves one sequence at a time."""
    made = batches(8)
    return Task(model=model.eval(), example_inputs=made[0][0][:1], train=made, validation=batches(2))


@pytest.fixture(params=[nn.LSTM, nn.GRU], ids=["lstm", "gru"])
def kind(request: pytest.FixtureRequest) -> type[nn.RNNBase]:
    """Return each type of recurrent layer in turn."""
    chosen: type[nn.RNNBase] = request.param
    return chosen


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_costs_are_those_of_all_steps(kind: type[nn.RNNBase], form: dict[str, object], batch_first: bool) -> None:
    """A sequence costs its steps times the weights of all gates, levels and directions, whatever the batch is."""
    layer = kind(16, HIDDEN, batch_first=batch_first, **form)
    model = nn.ModuleDict({"layer": layer})
    model.forward = lambda x: layer(x if batch_first else x.transpose(0, 1))[0]  # type: ignore[method-assign]
    weights = sum(p.numel() for name, p in layer.named_parameters() if name.startswith("weight"))
    for batch in (1, 3):
        cost = count(model, (torch.randn(batch, STEPS, 16),))["layer"]
        assert (cost.kind, cost.macs) == ("recurrent", STEPS * weights)
        assert cost.params == sum(p.numel() for p in layer.parameters())


class First(nn.Module):
    """The first of several things."""

    def forward(self, several: tuple[Tensor, ...]) -> Tensor:
        """Return it."""
        return several[0]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_layers_around_it_are_pruned(kind: type[nn.RNNBase], form: dict[str, object]) -> None:
    """What it reads and what reads it can be narrower; its own width stays, with the reason."""
    model = Reader(kind, **form).eval()
    network = inspect(model, (torch.randn(1, STEPS, 6),))
    assert [group.name for group in network.groups] == ["embed", "middle"]
    assert network.left_alone == (("layer", WIDTH_STAYS),)
    made = task(model)
    halves = {group.name: 0.5 for group in network.groups}
    pruned = apply_candidate(made, Candidate({"pruning_ratio": halves}), supplies_of(made), epochs=0).model
    assert pruned.layer.input_size == pruned.embed.out_features == 8  # type: ignore[union-attr]
    assert pruned.layer.hidden_size == HIDDEN  # type: ignore[union-attr]
    assert pruned(made.train[0][0]).shape == (16, CLASSES)  # type: ignore[index]


def test_pruned_columns_are_those_of_the_channels_that_went(kind: type[nn.RNNBase]) -> None:
    """A network computes what it did when the channels that go were 0 before."""
    model = Reader(kind, num_layers=2, bidirectional=True).eval()
    with torch.no_grad():
        model.embed.weight[::2] = 0
        model.embed.bias[::2] = 0
    made = task(model)
    pruned = apply_candidate(made, Candidate({"pruning_ratio": {"embed": 0.5}}), supplies_of(made), epochs=0).model
    x = made.train[0][0]  # type: ignore[index]
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-4, atol=1e-5)


def test_width_that_a_sum_shares_stays() -> None:
    """A layer whose channels are added to those of a recurrent layer keeps them, with the reason."""
    network = inspect(Residual().eval(), (torch.randn(1, STEPS, 6),))
    assert network.groups == ()
    assert dict(network.left_alone)["embed"] == "a recurrent layer, whose hidden width stays, shares its channels"


def test_tracing_leaves_a_layer_as_it_was(kind: type[nn.RNNBase]) -> None:
    """After its time as one operation of the right shapes, a layer computes what it did before."""
    layer, x = kind(6, 8, 2, bidirectional=True, batch_first=True), torch.randn(3, 5, 6)
    expected, states = layer(x)
    with as_one_operation(layer):
        output, after = layer(x)
        assert len({y.grad_fn for y in (output, *(after if isinstance(after, tuple) else (after,)))}) == 1
    shapes, wanted = ([y.shape for y in (y if isinstance(y, tuple) else (y,))] for y in (after, states))
    assert shapes == wanted
    assert output.shape == expected.shape
    torch.testing.assert_close(layer(x)[0], expected, rtol=0, atol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.floats(1e-4, 1e3), direction=st.booleans())
def test_weights_land_on_the_grids_of_their_rows(seed: int, size: float, direction: bool) -> None:
    """Every row of every gate takes whole multiples of its own step, at most half a step away; biases stay."""
    torch.manual_seed(seed)
    layer = nn.LSTM(5, 4, bidirectional=direction, batch_first=True)
    for parameter in layer.parameters():
        parameter.data.mul_(size * torch.rand(len(parameter)).reshape(-1, *[1] * (parameter.dim() - 1)))
    exact = nn.LSTM(5, 4, bidirectional=direction, batch_first=True)
    exact.load_state_dict(layer.state_dict())
    for parameter in exact.parameters():
        if parameter.dim() > 1:
            step = parameter.data.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
            rounded = (parameter.data / step).round().clamp(-127, 127) * step
            assert (rounded - parameter.data).abs().le(step / 2 * 1.001).all()
            parameter.data = rounded
    x = torch.randn(3, 6, 5)
    torch.testing.assert_close(QuantizedRecurrent(layer, 8)(x)[0], exact(x)[0], rtol=1e-4, atol=1e-4)


def test_gradients_pass_straight_through_to_every_weight(kind: type[nn.RNNBase]) -> None:
    """Rounding counts as the identity, so that all weights and biases can be trained."""
    layer = kind(5, 4, 2, bidirectional=True, batch_first=True)
    QuantizedRecurrent(layer, 8)(torch.randn(3, 6, 5))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())


def test_states_and_packed_sequences_are_taken(kind: type[nn.RNNBase]) -> None:
    """A rounded layer is called as the layer is."""
    layer = kind(5, 4, batch_first=True)
    rounded, x, state = QuantizedRecurrent(layer, 8), torch.randn(3, 6, 5), torch.randn(1, 3, 4)
    given_state = (state, state) if kind is nn.LSTM else state
    assert not torch.equal(rounded(x, given_state)[0], rounded(x)[0])
    torch.testing.assert_close(rounded(x, given_state)[0], layer(x, given_state)[0], rtol=0, atol=0.02)
    packed = rounded(pack_padded_sequence(x, torch.tensor([6, 4, 3]), batch_first=True))[0]
    padded, lengths = pad_packed_sequence(packed, batch_first=True)
    assert lengths.tolist() == [6, 4, 3]
    torch.testing.assert_close(padded[1, :4], rounded(x)[0][1, :4])


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_other_bits_are_infeasible(bits: int) -> None:
    """Only 8 bits are there for recurrent layers, and only they are offered."""
    with pytest.raises(InfeasibleError, match=f"take 8 bits; {bits}") as caught:
        QuantizedRecurrent(nn.GRU(2, 2), bits)
    assert caught.value.rung == "build"
    network = inspect(Reader(nn.GRU).eval(), (torch.randn(1, STEPS, 6),))
    offers = Quantize().choices(network, Capabilities(runtime="fake", bits=(32, bits, 8)))
    assert {choice.target: choice.levels for choice in offers}["layer"] == (32, 8)


@pytest.mark.parametrize("words", [True, False], ids=["words", "features"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_served_in_any_batch_as_simulated(kind: type[nn.RNNBase], form: dict[str, object], words: bool) -> None:
    """The runtime's own file gives what PyTorch gives, for the batches of calibration and for one sequence."""
    made = task(Reader(kind, words=words, **form), sentences if words else features)
    supplies, runtime = supplies_of(made), load("onnxruntime")
    for candidate, share in ((Candidate(), 1e-5), (Candidate({"bits": {"layer": 8, "head": 8}}), 0.03)):
        built = apply_candidate(made, candidate, supplies, epochs=0)
        with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
            for batches in (supplies.calibration[:2], [supplies.examples] * 2):
                expected = [built.model(*inputs).detach() for inputs in batches]
                actual = [Served(engine)(*inputs) for inputs in batches]
                far = max(float((e - a).abs().max()) for e, a in zip(expected, actual, strict=True))
                assert far < share * float(expected[0].max() - expected[0].min()) + 1e-6
            found = parity(
                built.model, Served(engine), supplies.calibration, tolerance=0.1 if candidate["bits"] else 0.01
            )
        assert found.agreement is not None
        assert found.agreement > 0.9


def test_an_lstm_computes_in_integers_and_a_gru_is_only_stored_in_them(kind: type[nn.RNNBase]) -> None:
    """The kernels of the built model say so, with the multiply-accumulates that the network counts."""
    made = task(Reader(kind, num_layers=2, bidirectional=True))
    supplies, runtime = supplies_of(made), load("onnxruntime")
    built = apply_candidate(made, Candidate({"bits": {"layer": 8}}), supplies, epochs=0)
    macs = count(built.plain, supplies.examples)["layer"].macs
    kernels = runtime.kernels(runtime.convert(source_of(built, supplies)), [x.numpy() for x in supplies.examples])
    found = [kernel for kernel in kernels if kernel.kind in {"LSTM", "GRU", "DynamicQuantizeLSTM"}]
    assert len(found) == 2
    assert sum(kernel.macs for kernel in found) == macs
    assert "DequantizeLinear" not in {kernel.kind for kernel in kernels}
    assert built.quantized == {"layer"}
    assert {(kernel.kind, kernel.bits) for kernel in found} == (
        {("DynamicQuantizeLSTM", 8)} if kind is nn.LSTM else {("GRU", 32)}
    )
    assert built.low_precision == pytest.approx(macs / built.macs if kind is nn.LSTM else 0.0)


def test_training_adapts_rounded_weights(kind: type[nn.RNNBase]) -> None:
    """A rounded network learns the classes, and what it learned is what is served."""
    made = task(Reader(kind, words=True), sentences)

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
        for batch in made.train * int(epochs):  # type: ignore[operator]
            optimizer.zero_grad()
            cross_entropy(student, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    supplies, candidate = supplies_of(made), Candidate({"bits": {"layer": 8, "middle": 8}})
    trained = apply_candidate(replace(made, fit=fit), candidate, supplies, epochs=12)
    assert top1(made.model, made.validation) < 0.7
    assert top1(trained.model, made.validation) > 0.9
    runtime = load("onnxruntime")
    with runtime.build(runtime.convert(source_of(trained, supplies)), threads=1) as engine:
        assert top1(Served(engine), made.validation) > 0.9


def test_a_search_finds_the_smaller_file(tmp_path: object) -> None:
    """A network with an LSTM goes all the way: profile, trials, training, front."""
    from autocompress import compress as search

    made = task(Reader(nn.LSTM, words=True), sentences)
    space = space_of(inspect(made.model, made.examples), Capabilities(runtime="fake"))
    assert {choice.target for choice in space.choices if choice.axis == "bits"} == {"layer", "middle", "head"}
    front = search(made, "50ms", runtimes=("fake",), workers=0, trials=3, out=tmp_path, final_epochs=1)
    assert isinstance(front, ParetoFront)
    assert front.meets_target
    rounded = [model for model in (*front.models, *front.references) if model.candidate["bits"].get("layer") == 8]
    assert rounded
    assert all(np.isfinite(model.measurement.accuracy) for model in rounded)
