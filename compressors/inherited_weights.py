"""A trained, smaller network whose weights another candidate starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..spaces.candidate import DEPTH, PRUNING_RATIO, RANK, SPARSITY, Candidate
from .depth.depth import Depth
from .pruning import prune
from .technique import Supplies


@dataclass(frozen=True, kw_only=True, eq=False)
class Ancestor:
    """The weights of a network with fewer branches or channels, batch norms in place.

    Attributes:
        candidate: says which of them went.
        state: its weights and statistics by name.

    """

    candidate: Candidate
    state: Mapping[str, Tensor]

    @classmethod
    def of(cls, candidate: Candidate, model: nn.Module) -> Ancestor | None:
        """Return a candidate's trained network; None if it has layers that the original lacks."""
        if candidate[RANK] or candidate[SPARSITY]:
            return None
        return cls(candidate=candidate, state={name: value.clone() for name, value in model.state_dict().items()})

    def to_bytes(self) -> bytes:
        """Return a safetensors file; `read` reads it back."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items()}
        return save(tensors, {"candidate": self.candidate.to_json()})

    @classmethod
    def read(cls, path: Path) -> Ancestor | None:
        """Return what `to_bytes` wrote; None if the file is missing or incomplete."""
        try:
            with safe_open(path, "pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
                return cls(candidate=Candidate.from_json(file.metadata()["candidate"]), state=state)
        except (OSError, SafetensorError):
            return None

    def network(self, original: nn.Module, supplies: Supplies) -> nn.Module:
        """Return a copy of the original network with the ancestor's branches, channels and weights.

        Raises:
            InfeasibleError: the original has not the branches that went, or the groups that were pruned.
            RuntimeError: what is left has other shapes than the ancestor's weights.

        """
        smaller = Candidate({axis: self.candidate[axis] for axis in (DEPTH, PRUNING_RATIO)})
        roughly = replace(supplies, rough=True)  # its weights come now
        model = prune.Prune().apply(Depth().apply(original, smaller, roughly), smaller, roughly)
        model.load_state_dict(dict(self.state))
        return model.eval()

    def beyond(self, candidate: Candidate, original: nn.Module) -> Candidate:
        """Return a candidate with only the branches and the pruning that remain after the ancestor's.

        Args:
            candidate: what to reach; the ancestor has all of its branches and channels.
            original: the network before anything is done to it.

        """
        left = {name: level for name, level in candidate[DEPTH].items() if name not in self.candidate[DEPTH]}
        return prune.beyond(Candidate({**candidate.axes, DEPTH: left}), self.candidate, original)
