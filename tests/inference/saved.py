"""Tiny SegFormers as Transformers saves them, whose weights mean something."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints.models import from_transformers_library

NAMES = ('road', 'car', 'sky', 'tree', 'house')


def save_model(folder: Path, images: dict | None = None, names=NAMES, **changes):
    """The model that was saved into a folder, with the settings of its images."""
    transformers = pytest.importorskip('transformers')
    labels = dict(id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    seed = int(torch.randint(2**31, ()))
    model = from_transformers_library(seed=seed, num_labels=len(names), **labels, **changes)
    model.save_pretrained(folder)
    if images is not None:
        transformers.SegformerImageProcessor(**images).save_pretrained(folder)
    return model


def change(path: Path, **settings):
    """Changes settings in a JSON file; None takes them out."""
    content = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as a Hub takes them."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
