"""Holds the paper's results: Segformer++ (Kienzle et al., MIPR 2024, arXiv 2405.14467), MiT-B5.

Accuracies are in percent; ``speed_up`` is relative to 'none' of the same table; ``memory_gb`` is
the GPU memory of training in GB. The paper calls the row 'none' "Segformer (Original)".
"""

from __future__ import annotations

PaperRow = dict[str, float]


def _table(columns: tuple[str, ...], **rows: tuple[float, ...]) -> dict[str, PaperRow]:
    return {
        name.removeprefix('_'): dict(zip(columns, values, strict=True))
        for name, values in rows.items()
    }


_SEGMENTATION = ('mIoU', 'speed_up', 'memory_gb')
_POSE = ('PCK@0.1', 'PCK@0.05', 'speed_up', 'memory_gb')

PAPER_TABLES: dict[str, dict[str, PaperRow]] = {
    # one set of weights, trained without merging, tested under each strategy
    'cityscapes_inference': _table(
        ('mIoU', 'speed_up'),
        none=(82.39, 1.0),
        hq=(82.31, 1.61),
        fast=(82.04, 1.94),
        _2x2=(81.96, 1.90),
        downsampling=(77.31, 6.51),
    ),
    'cityscapes_training': _table(
        _SEGMENTATION,
        none=(82.39, 1.0, 48.3),
        hq=(82.19, 1.40, 34.0),
        fast=(81.77, 1.55, 30.5),
        _2x2=(82.38, 1.63, 31.1),
        downsampling=(79.24, 2.95, 10.0),
    ),
    'ade20k_training': _table(
        _SEGMENTATION,
        none=(49.72, 1.0, 33.7),
        hq=(49.77, 1.15, 29.2),
        fast=(49.10, 1.20, 28.0),
        _2x2=(49.35, 1.26, 27.2),
        downsampling=(46.71, 1.89, 12.4),
    ),
    'jbd_training': _table(
        _POSE,
        none=(95.20, 90.65, 1.0, 40.0),
        hq=(95.18, 90.51, 1.19, 36.0),
        fast=(94.58, 89.87, 1.25, 34.6),
        _2x2=(95.17, 90.16, 1.27, 33.4),
    ),
    'coco_training': _table(
        _POSE,
        none=(95.16, 87.61, 1.0, 13.5),
        hq=(94.97, 87.35, 0.97, 13.1),
        fast=(95.02, 87.37, 0.99, 12.9),
        _2x2=(94.98, 87.36, 1.24, 12.3),
    ),
}
