"""A study of a text classifier of Hugging Face.

Name your fine-tuned checkpoint and your texts, then compress it::

    export CHECKPOINT=my_checkpoint TEXTS=my_texts.csv
    autocompress text_classifier.py --target-latency 4ms

The checkpoint is a folder that `save_pretrained()` wrote for the model and its tokenizer, or a name on the hub.
The file has a column `text` and a column `label`, which counts from 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import pandas
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from autocompress import Task

CHECKPOINT = os.environ.get("CHECKPOINT", "my_checkpoint")
TEXTS = os.environ.get("TEXTS", "my_texts.csv")
LENGTH = 64


def batches(texts: Sequence[str], labels: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return the texts as batches of 16, all padded to one length, each with its labels."""
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    encoded = tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    tensors = {name: encoded[name] for name in ("input_ids", "attention_mask")} | {"labels": torch.tensor(labels)}
    return [{name: tensor[at : at + 16] for name, tensor in tensors.items()} for at in range(0, len(texts), 16)]


def task() -> Task:
    """Return what autocompress needs; 60 % of the texts are for training, 20 % each for validation and test."""
    data = pandas.read_csv(TEXTS).sample(frac=1, random_state=0)
    everything = batches(data["text"].tolist(), data["label"].tolist())
    first, second = round(0.6 * len(everything)), round(0.8 * len(everything))
    train, validation, test = everything[:first], everything[first:second], everything[second:]
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT).eval()
    example = {name: tensor[:1] for name, tensor in train[0].items() if name != "labels"}
    return Task(model, example, train, validation, test=test)
