"""Least-squares refit: layers of a smaller network give again what they gave before, as nearly as they can.

What channels that are gone have said is in part in those that are left. Each layer gets the weights with which its
outputs, on what the smaller network really gives it, are nearest to those of the network before (He et al., ICCV 2017,
section 3.2); layers are refitted in the order in which they run. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from ..studies.task import have_a_batch
from .batch_norm import estimate_batch_norm, estimating_batch_norm
from .modules import TRANSPOSED, Inputs, multiplies, out_channels, run
from .patches import patches, rows_for, width_of
from .tied import shared_with

RIDGE = 1e-3
"""How much a weight is drawn to what it was, relative to the mean square of the layer's inputs."""

WIDEST = 4608
"""Most inputs of one output, those of a 3×3 kernel on 512 channels: the work grows with their third power."""

ROWS = 8192
"""Most positions of a layer, unless that is too few for its inputs."""

FEWEST = 2
"""Positions for each input of an output that there are at least, or the layer is left alone."""

LEFT_OUT = 8
"""One of so many positions is left out, and tells whether the refit is better there, too."""

EXAMPLES, VALUES = 512, 2**27
"""Most examples, and most numbers of the largest tensor that a network makes of them."""

VARIED = 256
"""Examples at once that are enough for the statistics of batch norms; otherwise all batches tell them afterwards."""

REMEMBERED = 2**28
"""Most bytes of outputs that are kept for other refits to the same network."""

MISSING = 1e-6
"""Share of the power of a layer's outputs below which what is missing of them is nothing."""

Kept = Mapping[str, Sequence[int]]
"""Which of its outputs each layer has kept, by its name; a layer that is not there has kept all."""


def refit(model: nn.Module, before: LayerOutputs, kept: Kept) -> None:
    """Refit convolutions and linear layers of a network in place, so that it answers as the one before.

    The statistics of its batch norms are estimated again, if there are enough examples on the way, so that a layer is
    fitted to what the norm before it gives in the end.

    A layer that runs more than once, shares its weight, computes in groups or has too few examples is left as it is,
    and so is one that a refit makes no better on positions that it has not seen.

    Args:
        model: a network from which branches or channels were removed, or whose layers were factorised.
        before: what the layers of the network before gave; they have the same names.
        kept: the outputs that its layers have kept.
    """
    if not before.batches:
        return
    shared, modules = shared_with(model), dict(model.named_modules())
    names = [name for name in before.names if name not in shared and name in modules and _may_be(modules[name])]
    known = before.of(names)

    def enter(name: str, module: nn.Module, given: Inputs) -> None:
        target = known.pop(name, None)
        if target is not None:
            with suppress(LinAlgError):
                _refit(module, given[0], target.only(kept[name]) if name in kept else target)

    hooks = [modules[name].register_forward_pre_hook(partial(enter, name)) for name in known]
    varied = len(before.inputs[0]) >= VARIED
    try:
        with estimating_batch_norm(model) if varied else nullcontext():
            run(model, before.inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not varied:
        estimate_batch_norm(model, before.batches)


@dataclass(frozen=True, eq=False)
class _Target:
    """What a layer gave at some of its positions: their numbers, of shape (positions,), and (positions, outputs)."""

    positions: Tensor
    outputs: Tensor

    def only(self, kept: Sequence[int]) -> _Target:
        """Return the same of some outputs."""
        return _Target(self.positions, self.outputs[:, list(kept)])


class LayerOutputs:
    """What the layers of a network give at some positions, which those of a smaller one are refitted to.

    It is found when it is first asked for, and kept if it is not too large. It is pickled without that.

    Args:
        model: the network; nobody may change it from now on.
        batches: inputs, of real data.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Inputs]) -> None:
        self.model, self.batches = model, batches
        self._found: dict[str, _Target] | None = None

    def __reduce__(self) -> tuple[type[LayerOutputs], tuple[nn.Module, Sequence[Inputs]]]:
        return LayerOutputs, (self.model, self.batches)

    @cached_property
    def inputs(self) -> Inputs:
        """As many inputs as fit into memory, in one batch; the first batch, if they do not go together."""
        return _whole(self.model, self.batches)

    @property
    def names(self) -> list[str]:
        """The layers; where some of the network is trained, those that are."""
        some = any(parameter.requires_grad for parameter in self.model.parameters())  # otherwise it is only served
        named = self.model.named_modules()
        return [name for name, m in named if multiplies(m) and (m.weight.requires_grad or not some)]

    def of(self, names: Sequence[str]) -> dict[str, _Target]:
        """Return what some of the layers give."""
        if self._found is None:
            found = _targets(self.model, self.names, self.inputs)
            size = sum(target.outputs.numel() * target.outputs.element_size() for target in found.values())
            self._found = found if size <= REMEMBERED else None
        else:
            found = self._found
        return {name: found[name] for name in names if name in found}


def _may_be(module: nn.Module) -> bool:
    """Return whether a module is a layer, or the factors of one, whose outputs each depend on all inputs."""
    last = module[-1] if isinstance(module, nn.Sequential) else module
    return multiplies(last) and not isinstance(last, TRANSPOSED) and getattr(last, "groups", 1) == 1


def _whole(model: nn.Module, batches: Sequence[Inputs]) -> Inputs:
    """Return as many inputs as fit into memory, in one batch; the first batch, if they do not go together."""
    first = batches[0]
    if not all(map(have_a_batch, batches)) or len({tuple(x.shape[1:] for x in inputs) for inputs in batches}) > 1:
        return first
    try:
        each = max(_largest(model, tuple(x[:count] for x in first)) // count for count in (1, 2))
    except Exception:  # a forward that knows one size of batch
        return first
    most = max(1, min(EXAMPLES, VALUES // each))
    return tuple(torch.cat(some)[:most] for some in zip(*batches, strict=True))


def _largest(model: nn.Module, inputs: Inputs) -> int:
    """Return the numbers of the largest tensor that a module of a network gives."""
    sizes = [1]
    with _after(model.modules(), lambda module, given, output: sizes.append(_numbers(output))):
        run(model, inputs)
    return max(sizes)


def _numbers(output: object) -> int:
    return output.numel() if isinstance(output, Tensor) else 0


def _targets(before: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, _Target]:
    """Return what the layers of a network give at some positions; a layer that runs more than once is left out."""
    found: dict[str, _Target] = {}
    several: set[str] = set()
    known = {before.get_submodule(name): name for name in names}
    random = torch.Generator().manual_seed(0)

    def leave(module: nn.Module, given: Any, output: Tensor) -> None:
        name = known[module]
        if name in found:
            several.add(name)
            return
        rows = _rows(module, output)
        width = width_of(module)
        wanted = min(len(rows), rows_for(width, fewest=FEWEST, most=ROWS))
        if width <= WIDEST and len(rows) >= FEWEST * width:
            positions = torch.randint(len(rows), (wanted,), generator=random)
            found[name] = _Target(positions, rows[positions].float())

    with _after(known, leave):
        run(before, inputs)
    return {name: target for name, target in found.items() if name not in several}


@contextmanager
def _after(modules: Any, call: Callable[[nn.Module, Any, Any], object]) -> Iterator[None]:
    """Call a function after each run of some modules."""
    hooks = [module.register_forward_hook(lambda *run: (call(*run), None)[1]) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(layer: nn.Module, output: Tensor) -> Tensor:
    """Return a layer's outputs as rows (positions, outputs)."""
    return (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).reshape(-1, out_channels(layer))


def _refit(module: nn.Module, x: Tensor, target: _Target) -> None:
    """Set the weights of a layer, of two factors, or of the last of more, by what is read and the target."""
    factors = list(module) if isinstance(module, nn.Sequential) else [module]
    *earlier, layer = factors
    if len(factors) == 2:
        _refit_product(earlier[0], layer, x, target)
        return
    for factor in earlier:
        x = factor(x)
    seen, bias = _seen(layer, x, target.positions), cast("nn.Parameter | None", layer.bias)
    weight = cast(nn.Parameter, layer.weight)
    old = weight.detach().flatten(1).float()
    if bias is not None:
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        old = torch.cat([old, bias.detach().float()[:, None]], 1)
    new = _better(old, seen, target.outputs)
    _set(weight, new[:, : weight[0].numel()].reshape(weight.shape))
    if bias is not None:
        _set(bias, new[:, -1])


def _refit_product(first: nn.Module, second: nn.Module, x: Tensor, target: _Target) -> None:
    """Set two pointwise factors to the product of their rank that answers best, not to that of the nearest weight.

    The outputs of the layer without a limit to its rank lie in the principal directions that are kept (reduced-rank
    regression: Izenman, Journal of Multivariate Analysis 1975).
    """
    inner, outer = (cast(nn.Parameter, factor.weight) for factor in (first, second))
    bias = cast("nn.Parameter | None", second.bias)
    seen, wanted = _seen(first, x, target.positions), target.outputs
    middle, centre = seen.mean(0), wanted.mean(0)
    if bias is not None:
        seen, wanted = seen - middle, wanted - centre
    old = outer.detach().flatten(1).float() @ inner.detach().flatten(1).float()
    fitted, given = seen[len(seen) // LEFT_OUT :], wanted[len(seen) // LEFT_OUT :]
    full = old + _correction(fitted, given - fitted @ old.T).T
    _, directions = torch.linalg.eigh((full @ (fitted.T @ fitted) @ full.T).double())
    kept = directions[:, -inner.shape[0] :].to(full.dtype)
    product = kept @ kept.T @ full
    if _better(old, seen, wanted, product) is product:
        _set(outer, kept.reshape(outer.shape))
        _set(inner, (kept.T @ full).reshape(inner.shape))
        if bias is not None:
            _set(bias, centre - product @ middle)


def _set(parameter: Any, value: Tensor) -> None:
    parameter.data = value.to(parameter.dtype, memory_format=torch.contiguous_format, copy=True)


def _better(old: Tensor, seen: Tensor, wanted: Tensor, new: Tensor | None = None) -> Tensor:
    """Return the better of two weights (outputs, inputs) on rows that the new one, by default, is not fitted to."""
    first = len(seen) // LEFT_OUT
    if new is None:
        missing = wanted[first:] - seen[first:] @ old.T
        if missing.square().sum() <= MISSING * wanted[first:].square().sum():
            return old
        new = old + _correction(seen[first:], missing).T
    errors = [(wanted[:first] - seen[:first] @ each.T).square().sum() for each in (old, new)]
    return new if errors[1] < errors[0] else old


def _correction(seen: Tensor, missing: Tensor) -> Tensor:
    """Return the weights (inputs, outputs) that give what is missing (rows, outputs), drawn to zero a little."""
    gram = (seen.T @ seen).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    return torch.cholesky_solve((seen.T @ missing).double(), torch.linalg.cholesky(gram)).to(seen.dtype)


def _seen(layer: nn.Module, x: Tensor, positions: Tensor) -> Tensor:
    """Return what a layer reads for some of its output positions, (positions, inputs)."""
    found = patches(layer, x, positions)
    assert found is not None  # it is not transposed
    return found[0].float()
