"""What takes the place of a residual branch that is gone: modules that compute nothing and are exported to nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn

from ...studies.networks.copied import copied
from ..tied import put
from .branches import ADDITIONS, FoundBranch

PLAIN = (bool, int, float, str, type(None))
"""Types of settings."""


class Nothing:
    """What a branch that is gone gives. Added to a tensor it leaves that as it is; any other function gives it back.

    >>> import torch
    >>> x = torch.ones(2)
    >>> (x + 3.0 * Nothing().transpose(1, 2).relu()).tolist(), torch.nn.functional.gelu(Nothing())
    ([1.0, 1.0], Nothing())
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Collection[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Return the other one of two that are added, and nothing for any other function."""
        if func.__name__ in ADDITIONS:
            return cls._added(args, in_place=func.__name__ in ("add_", "__iadd__"))
        return cls()

    @classmethod
    def _added(cls, args: Iterable[Any], *, in_place: bool) -> Any:
        for x in args:
            if isinstance(x, Tensor):
                return x if in_place else x.clone()  # what follows may change it in place
        return cls()

    def __add__(self, other: Any) -> Any:
        return self._added([other], in_place=False)

    __radd__ = __iadd__ = __add__

    def _nothing(self, *_: Any, **__: Any) -> Nothing:
        return Nothing()

    __mul__ = __rmul__ = __imul__ = __matmul__ = __truediv__ = __neg__ = __getitem__ = _nothing

    def __getattr__(self, name: str) -> Any:
        """Return a method of a tensor, which gives nothing."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self._nothing

    def __repr__(self) -> str:
        return "Nothing()"


class Gone(nn.Module):
    """Takes the place of a module of a branch that is gone.

    Args:
        before: the module; what its neighbours may read of its settings stays, and its parameters are None.
        results: how many tensors it returns side by side; None for one alone.

    """

    def __init__(self, before: nn.Module, results: int | None = None) -> None:
        super().__init__()
        own = [vars(kind) for kind in type(before).__mro__ if kind is not nn.Module and issubclass(kind, nn.Module)]
        for values in (*reversed(own), vars(before)):
            self.__dict__ |= {
                name: v for name, v in values.items() if isinstance(v, PLAIN) and not name.startswith("__")
            }
        for name in before._parameters:
            self.register_parameter(name, None)
        self._results = results

    def forward(self, *_: Any, **__: Any) -> Any:
        """Return nothing, whatever is given."""
        return Nothing() if self._results is None else (Nothing(),) * self._results


def without(model: nn.Module, branches: Iterable[FoundBranch]) -> nn.Module:
    """Return a copy of a network without some of its branches."""
    model = copied(model)
    results = {name: count for branch in branches for name, count in branch.modules.items()}
    for name, count in results.items():
        if not any(name.startswith(f"{other}.") for other in results):
            put(model, name, Gone(model.get_submodule(name), count))
    return model
