"""Copies a network with all its attributes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...errors import StudyError

Network = TypeVar("Network", bound=nn.Module)


def copied(network: Network, memo: dict[int, Any] | None = None) -> Network:
    """Return a copy that shares nothing with a network.

    Tensors with a gradient history, which `copy.deepcopy` refuses, are copied without it: a forward may have left them
    in an attribute.

    Args:
        network: it is not changed.
        memo: replacements of objects in the copy, by their `id`; see `copy.deepcopy`.

    Raises:
        StudyError: something in the network cannot be copied.

    """
    try:
        with _Detaching():
            return copy.deepcopy(network, memo)
    except MemoryError:
        raise
    except Exception as error:  # objects refuse to be copied in any way
        known = {id(module): module for module in network.modules()}

        def attempt(value: object) -> None:
            with _Detaching():
                copy.deepcopy(value, dict(known))

        raise StudyError(
            f"a network must be copyable; {culprit(network, attempt)} cannot be copied: {type(error).__name__}: "
            f"{error}. Take it out of the network, or make it where it is used"
        ) from error


def culprit(network: nn.Module, attempt: Callable[[object], object]) -> str:
    """Return the attribute of a network for which an attempt fails, with its type.

    Args:
        network: its modules are searched, outermost first.
        attempt: raises for the value of a bad attribute.

    """
    for name, module in network.named_modules():
        for attribute, value in _values(module):
            try:
                attempt(value)
            except Exception:  # objects refuse in any way
                place = f"{name}.{attribute}" if name else attribute
                return f"`{place}`, of type {type(value).__name__},"
    return f"a {type(network).__name__}"


def _values(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield a module's own attributes, including its parameters and buffers."""
    held: Iterable[Mapping[str, object]] = (module._parameters, module._buffers)
    for tensors in held:
        yield from tensors.items()
    for name, value in vars(module).items():
        if name not in ("_parameters", "_buffers", "_modules"):
            yield name, value


class _Detaching(TorchFunctionMode):
    """Lets `copy.deepcopy` copy computed tensors, without their gradient history."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and (not args[0].is_leaf or args[0].is_inference()):
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
