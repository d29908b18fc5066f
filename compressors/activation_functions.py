"""Finds which modules of a network are activation functions with a cheaper form, and which functions it calls bare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ..studies.networks.copied import copied
from .modules import LAYERS, Inputs, run

SIGMOID = "sigmoid"
"""The function of a gate: a sigmoid counts only where another tensor is multiplied by what it makes."""

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu (tanh)": partial(functional.gelu, approximate="tanh"),
    "gelu (sigmoid)": lambda x: x * torch.sigmoid(1.702 * x),
    "hardswish": functional.hardswish,
    "mish": functional.mish,
    SIGMOID: torch.sigmoid,
}
"""Functions that have a cheaper form."""

GRID = torch.linspace(-8, 8, 65).reshape(1, -1, 1, 1)
"""Numbers at which a module's values are compared with a function's."""

ALIKE = 1e-4
"""The largest difference on the grid between two forms of one function; any two of the functions differ by more."""

RECURRENT = (nn.RNNBase, nn.RNNCellBase)
"""Modules whose own gates are no functions that a forward calls."""


@dataclass(frozen=True, kw_only=True)
class Functions:
    """The activation functions of a network, all by the names of modules and in order of execution.

    Attributes:
        modules: what each module computes.
        layers: the layer that ran before each module; empty for none.
        bare: the function that a module calls without another module for it.

    """

    modules: Mapping[str, str]
    layers: Mapping[str, str]
    bare: Mapping[str, str]


def functions_of(model: nn.Module, examples: Inputs) -> Functions:
    """Return the activation functions of a network that run on some inputs; the network is not changed.

    A module is known by its values on a grid, so that it may come from any library.
    """
    known = {module: function for module in model.modules() if (function := function_of(module))}
    watch = _Watch(known)
    try:
        with watch.over(model):
            run(model, examples)
    except Exception:  # what a network's own code does where all its operators are looked at
        return Functions(modules={}, layers={}, bare={})
    names = {module: name for name, module in model.named_modules()}
    used = [module for module in watch.before if known[module] != SIGMOID or module in watch.gates]
    return Functions(
        modules={names[module]: known[module] for module in used},
        layers={names[module]: names.get(watch.before[module] or model, "") for module in used},
        bare={names[owner]: kind for owner, kind in watch.called.items() if kind != SIGMOID or owner in watch.gates},
    )


def function_of(module: nn.Module) -> str | None:
    """Return the function that a module computes for each number alone, or None.

    >>> function_of(nn.SiLU(inplace=True)), function_of(nn.GELU("tanh")), function_of(nn.ReLU())
    ('silu', 'gelu (tanh)', None)
    """
    if any(True for part in (module.children(), module.parameters(), module.buffers()) for _ in part):
        return None
    try:
        with torch.no_grad():
            values = copied(module).eval()(GRID.clone())
    except Exception:  # it may want anything but one tensor
        return None
    if not isinstance(values, Tensor) or values.shape != GRID.shape:
        return None
    alike = (name for name, function in FUNCTIONS.items() if torch.allclose(values, function(GRID), rtol=0, atol=ALIKE))
    return next(alike, None)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Sees which known modules run, after which layer, what they gate, and which functions other modules call."""

    def __init__(self, known: Mapping[nn.Module, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known
        self.before: dict[nn.Module, nn.Module | None] = {}
        self.called: dict[nn.Module, str] = {}
        self.gates: set[nn.Module] = set()
        self._open: list[nn.Module] = []
        self._layer: nn.Module | None = None
        self._made: dict[int, tuple[nn.Module, Tensor]] = {}  # sigmoids' outputs by their storage, which views share

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Watch a network inside the context."""
        hooks = [module.register_forward_pre_hook(self._enter) for module in model.modules()]
        hooks += [module.register_forward_hook(self._leave) for module in model.modules()]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._open.append(module)

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        self._open.pop()
        if isinstance(module, LAYERS):
            self._layer = module
        if module in self.known:
            self.before.setdefault(module, self._layer)
            if self.known[module] == SIGMOID and isinstance(output, Tensor):
                self._made[_storage(output)] = module, output

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        kind, owner = func.overloadpacket.__name__.rstrip("_"), self._open[-1] if self._open else None
        if kind == "mul":
            made = (self._made.get(_storage(x)) for x in args if isinstance(x, Tensor))
            self.gates.update(each[0] for each in made if each is not None)
        elif kind in FUNCTIONS and owner is not None and owner not in self.known and not isinstance(owner, RECURRENT):
            self.called.setdefault(owner, kind)
            if kind == SIGMOID:
                self._made[_storage(output)] = owner, output
        return output


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
