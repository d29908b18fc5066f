"""Trains the network of the study ``digits`` from nothing, and writes the weights that come with the package.

    python scripts/train_digits.py [--out studies/digits.safetensors]

It takes about a minute. One thread and a seed: the same machine and libraries give the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save

from autocompress.files import write_atomically
from autocompress.studies import digits
from autocompress.studies.task import top1
from autocompress.studies.training import Recipe, fit

RECIPE = Recipe(epochs=24, learning_rate=0.05)


def main() -> None:
    """Train, write, and print the accuracies of what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(digits.__file__).with_name("digits.safetensors"))
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="fewer, to try it")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(RECIPE.seed)
    (train, *held_out), model = digits.loaders(), digits.network()
    fit(model, train, Recipe(epochs=asked.epochs, learning_rate=RECIPE.learning_rate))
    halves = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    write_atomically(asked.out, save(halves))
    model.load_state_dict(halves)
    model.eval()
    for split, loader in zip(("validation", "test"), held_out, strict=True):
        print(f"{split}: {top1(model, loader):.2%}")


if __name__ == "__main__":
    main()
