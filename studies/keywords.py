"""Networks that take keywords and return more than a tensor, as Hugging Face's do.

Everything else sees ``model(*tensors) -> Tensor``; a user's loss and metric may still call the model with a mapping.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

T = TypeVar("T")

Named = Mapping[str, Tensor]


class Keywords(nn.Module):
    """A network that takes keywords, called with tensors in a fixed order, or with a mapping.

    Args:
        network: is called as ``network(name=tensor, …)``.
        names: of its inputs, in order; what else a mapping holds, as labels, is not handed on.

    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)

    def forward(self, *inputs: Tensor | Named, **named: Tensor) -> Tensor:
        """Return the logits, or the first tensor that the network gives."""
        return first_tensor(self.network(**dict(zip(self.names, ordered(self.names, inputs, named), strict=True))))


class _Ordered(nn.Module):
    """A model that takes tensors in order, and also a mapping."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor | Named, **named: Tensor) -> Tensor:
        outputs: Tensor = self.model(*ordered(self.names, inputs, named))
        return outputs


@dataclass(frozen=True)
class KeywordMetric(Generic[T]):
    """A user's metric, or its function for single examples, whose model takes mappings in every runtime."""

    metric: Callable[[nn.Module, Any], T]
    names: Sequence[str]

    def __call__(self, model: nn.Module, loader: Any) -> T:
        """Return the metric of a model that takes tensors in order."""
        return self.metric(_Ordered(model, self.names).train(model.training), loader)


@dataclass(frozen=True)
class KeywordInputs:
    """The inputs of batches ``(mapping, labels)``, or of a mapping with or without labels."""

    names: Sequence[str]

    def __call__(self, batch: Any) -> tuple[Tensor, ...]:
        """Return a batch's inputs in order."""
        return ordered(self.names, (batch[0] if isinstance(batch, (tuple, list)) else batch,), {})


def ordered(names: Sequence[str], inputs: Sequence[Tensor | Named], named: Named) -> tuple[Tensor, ...]:
    """Return inputs in the order of their names.

    Raises:
        TypeError: one is missing.

    """
    given: dict[str, Tensor] = dict(named)
    if len(inputs) == 1 and isinstance(inputs[0], Mapping):
        given |= inputs[0]
    else:
        given |= {name: x for name, x in zip(names, inputs, strict=False) if isinstance(x, Tensor)}
    missing = [name for name in names if name not in given]
    if missing:
        raise TypeError(f"the inputs must be {', '.join(names)}; there is no {', '.join(missing)}")
    return tuple(given[name] for name in names)


def first_tensor(output: Any) -> Tensor:
    """Return the logits of a network's output, or its first tensor.

    Raises:
        TypeError: it holds none.

    """
    found = next(iter(tensors_in(output).values()), None)
    if found is None:
        raise TypeError(f"the model must return a tensor, or something that holds one; it returned {output!r:.80}")
    return found


def tensors_in(output: Any) -> dict[Any, Tensor]:
    """Return the tensors of a network's output by name or position, its logits first; a tensor alone has no name.

    >>> import torch
    >>> list(tensors_in({"aux": torch.zeros(1), "logits": torch.zeros(1), "loss": None}))
    ['logits', 'aux']
    """
    if isinstance(output, Tensor):
        return {None: output}
    values: dict[Any, Any]
    if isinstance(output, Mapping):
        values = dict(output)
    elif is_dataclass(output):
        values = {field.name: getattr(output, field.name) for field in fields(output)}
    else:
        values = dict(enumerate(output)) if isinstance(output, (tuple, list)) else {}
    found = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    first = [name for name in ("logits",) if name in found]
    return {name: found[name] for name in (*first, *(name for name in found if name not in first))}


def with_tensor(output: Any, name: Any, tensor: Tensor) -> Any:
    """Return a network's output with another tensor in the place that `tensors_in` calls by a name.

    >>> import torch
    >>> with_tensor((torch.zeros(1), "more"), 0, torch.ones(1))
    (tensor([1.]), 'more')
    """
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, (tuple, list)):
        values = [tensor if i == name else value for i, value in enumerate(output)]
        kind: Any = type(output)
        return kind(*values) if hasattr(kind, "_fields") else kind(values)
    changed: Any = copy.copy(output)
    if isinstance(output, Mapping):
        changed[name] = tensor
    else:
        object.__setattr__(changed, name, tensor)
    return changed
