"""Tasks of pretrained models of torchvision, timm and transformers, with the user's image folder."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from ..errors import StudyError
from .images import Decoded, Images, Sample
from .task import Task

_BATCH = 32
_CALIBRATION_IMAGES = 1_024
_TRIAL_IMAGES = 2_000  # a trial fine-tunes on at most so many images


@dataclass(frozen=True)
class _Source:
    """A library of models: its names, its models, and each model's preprocessing and license."""

    names: Callable[[], Sequence[str]]
    pretrained: Callable[[str], nn.Module]
    untrained: Callable[[str, int], nn.Module]
    transform: Callable[[str, nn.Module], Callable[[Any], Tensor]]
    license: Callable[[str, nn.Module], str] = lambda name, model: ""


def task(study: str, *, data: str | None, weights: Path | None = None) -> Task:
    """Return the task of a pretrained classifier on an image folder.

    The folder holds ``train/``, ``val/`` and, if wanted, ``test/``, each with a folder for each class; or it holds
    the classes' folders themselves, and is split 60/20/20.

    Args:
        study: ``torchvision:NAME``, ``timm:NAME`` or ``transformers:NAME``; the last may be a directory.
        data: ``imagefolder:DIR``.
        weights: a state dict (``.pth`` or ``.safetensors``) for the model with as many outputs as the folder has
            classes; by default the library's weights are downloaded.
    """
    library, _, name = study.partition(":")
    kind, _, folder = (data or "").partition(":")
    if kind != "imagefolder" or not folder:
        raise StudyError(f"A pretrained model needs --data imagefolder:DIR; {study} came with {data or 'no --data'}")
    source = _source(library)
    _check_name(name, library, source.names())
    folders = _image_folders(Path(folder).expanduser())
    classes = len(folders[0].classes)
    model = _download(study, source) if weights is None else _restore(study, source, classes, weights)
    transform = source.transform(name, model)
    example = transform(folders[0].loader(folders[0].samples[0][0])).unsqueeze(0)
    _check_outputs(model, example, classes, study, folder)
    train, validation, *test = [images.samples for images in folders] if len(folders) > 1 else _split(folders[0])
    images = partial(Images, load=folders[0].loader, decoded=Decoded(), prepare=transform)
    few = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()[:_CALIBRATION_IMAGES]
    generator = torch.Generator().manual_seed(0)
    share = min(1.0, _TRIAL_IMAGES / len(train))
    return Task(
        model=model,
        example_inputs=example,
        train=DataLoader(
            images(train, generator=generator),
            _BATCH,
            shuffle=True,
            drop_last=len(train) >= _BATCH,
            generator=generator,
        ),
        validation=_loader(images(validation)),
        test=_loader(images(test[0])) if test else None,
        calibration=_loader(images([train[i] for i in few])),
        epochs=share,
        final_epochs=4 * share,
        license=source.license(name, model),
        description=f"{study} on the images of {Path(folder).name}, {classes} classes.",
    )


def _source(library: str) -> _Source:
    """Return a library's models; torchvision is always installed, the others are extras."""
    if library == "transformers":
        from . import hugging_face  # noqa: PLC0415  # start-up time: torch is slow to import

        return _Source(
            names=tuple,
            pretrained=hugging_face.pretrained,
            untrained=hugging_face.untrained,
            transform=lambda name, _: hugging_face.Preprocessing.of(name),
            license=lambda name, _: hugging_face.license_of(name),
        )
    if library == "torchvision":
        return _Source(
            names=lambda: torchvision.models.list_models(module=torchvision.models),
            pretrained=lambda name: torchvision.models.get_model(name, weights="DEFAULT"),
            untrained=lambda name, classes: torchvision.models.get_model(name, weights=None, num_classes=classes),
            transform=lambda name, _: torchvision.models.get_model_weights(name).DEFAULT.transforms(),
        )
    try:
        import timm  # noqa: PLC0415  # optional dependency
    except ImportError as error:
        raise StudyError("timm:NAME needs timm, which is not installed: pip install 'autocompress[timm]'") from error
    return _Source(
        names=timm.list_models,
        pretrained=lambda name: timm.create_model(name, pretrained=True),
        untrained=lambda name, classes: timm.create_model(name, num_classes=classes),
        transform=lambda _, model: timm.data.create_transform(**timm.data.resolve_model_data_config(model)),
        license=lambda _, model: str(getattr(model, "pretrained_cfg", {}).get("license") or ""),
    )


def _check_name(name: str, library: str, known: Sequence[str]) -> None:
    """Check that a library has a model; timm's names may end in a tag of weights (``resnet18.a1_in1k``)."""
    if known and name.partition(".")[0] not in known:
        close = ", ".join(difflib.get_close_matches(name, known)) or f"see the documentation of {library}"
        raise StudyError(f"{library}:NAME must name a classifier of {library}; {name!r} is none. Close to it: {close}")


def _download(study: str, source: _Source) -> nn.Module:
    """Return the model with the library's weights."""
    try:
        return source.pretrained(study.partition(":")[2]).eval()
    except StudyError:
        raise
    except Exception as error:  # each library and its hub raise their own
        raise StudyError(
            f"The weights of {study} could not be downloaded ({type(error).__name__}: {error}). "
            "Fetch a state dict by other means and name it with --weights PATH"
        ) from error


def _restore(study: str, source: _Source, classes: int, weights: Path) -> nn.Module:
    """Return the model with as many outputs as there are classes and the weights of a file."""
    model = source.untrained(study.partition(":")[2], classes)
    try:
        safe = weights.suffix == ".safetensors"
        state = load_file(weights) if safe else torch.load(weights, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except Exception as error:  # an unreadable file, pickle or keys
        raise StudyError(
            f"--weights must be a state dict (.pth or .safetensors) of {study} with {classes} outputs, one for each "
            f"class of the image folder; {weights} gave {type(error).__name__}: {error}"
        ) from error
    return model.eval()


def _image_folders(folder: Path) -> list[ImageFolder]:
    """Return the folder's train, val and optional test parts, or the single folder to split."""
    parts = [folder]
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        parts = [part for name in ("train", "val", "test") if (part := folder / name).is_dir()]
    try:
        folders = [ImageFolder(str(part)) for part in parts]
    except OSError as error:
        raise StudyError(
            f"imagefolder:DIR needs a folder for each class, or train/ and val/ with such folders; {folder}: {error}"
        ) from error
    for part, images in zip(parts, folders, strict=True):
        if images.classes != folders[0].classes:
            raise StudyError(
                f"All parts of an image folder need the same classes; {part} has {len(images.classes)} that are "
                f"not those of {parts[0]} ({len(folders[0].classes)}). Give each class a folder in each part"
            )
    return folders


def _check_outputs(model: nn.Module, example: Tensor, classes: int, study: str, folder: str) -> None:
    """Check that the model has one output for each class."""
    with torch.no_grad():
        outputs = model(example).shape[1]
    if outputs != classes:
        raise StudyError(
            f"The image folder needs as many classes as the model has outputs; {study} has {outputs} outputs, {folder} "
            f"has {classes} classes. Train the model on these classes and give the state dict with --weights PATH"
        )


def _split(images: ImageFolder) -> list[list[Sample]]:
    """Split 60/20/20 at random, the same way each time."""
    count = len(images)
    if count < 5:
        raise StudyError(f"An image folder that is to be split needs at least 5 images; it has {count}. Add some")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    parts = order.tensor_split([count * 3 // 5, count * 4 // 5])
    return [[images.samples[i] for i in part.tolist()] for part in parts]


def _loader(images: Images) -> DataLoader[Any]:
    """Return a loader of images in order, in this process, with a random state of its own."""
    return DataLoader(images, _BATCH, generator=torch.Generator())
