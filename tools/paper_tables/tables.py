"""The paper's five tables as data: which config, data, weights and figures make up a row."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables.paper import PAPER_TABLES, PaperRow

BASELINE = 'none'
"""The row that speed-ups are relative to, and whose weights the inference table tests."""

_ZOO = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer'


@dataclass(frozen=True)
class Metric:
    """An accuracy in percent.

    Attributes:
        key: in ``PAPER_TABLES`` and in our JSON.
        label: in a table.
        source: its name in what ``tools/test.py --metrics-json`` writes.
        factor: makes it a percentage.
    """

    key: str
    label: str
    source: str
    factor: float = 1.0


MIOU = Metric('miou', 'mIoU', 'mIoU')
PCK = (
    Metric('pck_0.1', 'PCK@0.1', 'PCK@0.1', 100.0),
    Metric('pck_0.05', 'PCK@0.05', 'PCK@0.05', 100.0),
)
AP = Metric('ap', 'AP', 'coco/AP', 100.0)


@dataclass(frozen=True)
class Table:
    """One table of the paper, every row of which is MiT-B5 under one strategy.

    Attributes:
        name: on the command line and in file names.
        title: of the report.
        paper: a key of ``PAPER_TABLES``; its rows are ours.
        data: a key of ``DATA_SETS``.
        config: path from the root of the repository, with {} for the strategy.
        shape: height and width of the images that are timed.
        batch_size: of what is timed, on a GPU.
        metrics: accuracies; one that the paper's table lacks stands alone.
        timed: 'inference' or 'training': what the speed-up is that of.
        shares_weights: every row tests the weights of ``BASELINE``.
        published: addresses of weights that others have trained for a row.
    """

    name: str
    title: str
    paper: str
    data: str
    config: str
    shape: tuple[int, int]
    batch_size: int
    metrics: tuple[Metric, ...]
    timed: str
    shares_weights: bool = False
    published: dict[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, PaperRow]:
        """What the paper reports, by row."""
        return PAPER_TABLES[self.paper]

    @property
    def rows(self) -> tuple[str, ...]:
        """The strategies, in the paper's order."""
        return tuple(self.figures)

    @property
    def reports_memory(self) -> bool:
        """Whether the paper's table has the memory of training."""
        return 'memory_gb' in self.figures[BASELINE]

    def config_of(self, row: str) -> str:
        """The config of a row, from the root of the repository."""
        return self.config.format(row)

    def weights_row(self, row: str) -> str:
        """The row whose training makes the weights that this one tests."""
        return BASELINE if self.shares_weights else row


_CITYSCAPES = 'configs/cityscapes/segformer_mit-b5_{}_1xb4-160k_cityscapes-1024x1024.py'
_CITYSCAPES_WEIGHTS = {
    'none': f'{_ZOO}/segformer_mit-b5_8x1_1024x1024_160k_cityscapes/'
    'segformer_mit-b5_8x1_1024x1024_160k_cityscapes_20211206_072934-87a052ec.pth'
}

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            name='cityscapes-inference',
            title='Cityscapes, inference: one set of weights under every strategy',
            paper='cityscapes_inference',
            data='cityscapes',
            config=_CITYSCAPES,
            shape=(1024, 1024),
            batch_size=8,
            metrics=(MIOU,),
            timed='inference',
            shares_weights=True,
            published=_CITYSCAPES_WEIGHTS,
        ),
        Table(
            name='cityscapes-training',
            title='Cityscapes, training: every row trained',
            paper='cityscapes_training',
            data='cityscapes',
            config=_CITYSCAPES,
            shape=(1024, 1024),
            batch_size=4,
            metrics=(MIOU,),
            timed='training',
            published=_CITYSCAPES_WEIGHTS,
        ),
        Table(
            name='ade20k',
            title='ADE20K, training: every row trained',
            paper='ade20k_training',
            data='ade20k',
            config='configs/ade20k/segformer_mit-b5_{}_1xb8-160k_ade20k-640x640.py',
            shape=(640, 640),
            batch_size=8,
            metrics=(MIOU,),
            timed='training',
            published={
                'none': f'{_ZOO}/segformer_mit-b5_640x640_160k_ade20k/'
                'segformer_mit-b5_640x640_160k_ade20k_20210801_121243-41d2845b.pth'
            },
        ),
        Table(
            name='jbd',
            title='Jump-Broadcast, training: every row trained',
            paper='jbd_training',
            data='jbd',
            config='configs/jbd/td-hm_mit-b5_{}_1xb16-210e_jbd-640x480.py',
            shape=(640, 480),
            batch_size=16,
            metrics=PCK,
            timed='training',
        ),
        Table(
            name='coco',
            title='COCO keypoints, training: every row trained',
            paper='coco_training',
            data='coco',
            config='configs/coco/td-hm_mit-b5_{}_1xb16-210e_coco-384x288.py',
            shape=(384, 288),
            batch_size=16,
            metrics=(*PCK, AP),
            timed='training',
        ),
    )
}
"""By name, in the order in which ``all`` takes them."""


def find_tables(names: Sequence[str]) -> list[Table]:
    """Tables by name; 'all' is every one.

    Raises:
        SegformerPlusPlusError: an unknown name.
    """
    for name in names:
        if name != 'all' and name not in TABLES:
            raise SegformerPlusPlusError(_unknown('table', name, [*TABLES, 'all']))
    return [table for table in TABLES.values() if table.name in names or 'all' in names]


def find_rows(tables: Sequence[Table], names: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The rows that are asked for, by table, in the paper's order.

    Args:
        tables: those that are asked for.
        names: of rows; None for all. A table without a row of this name does without it.

    Raises:
        SegformerPlusPlusError: no table has a row of this name, or a table has none of the rows.
    """
    if names is None:
        return {table.name: table.rows for table in tables}
    known = list(dict.fromkeys(row for table in tables for row in table.rows))
    if not names:
        raise SegformerPlusPlusError(f'--rows names no row; choose from {", ".join(known)}')
    for name in names:
        if name not in known:
            raise SegformerPlusPlusError(_unknown('row', name, known))
    rows = {table.name: tuple(r for r in table.rows if r in names) for table in tables}
    for table in tables:
        if not rows[table.name]:
            raise SegformerPlusPlusError(
                f'{table.name} has no row {", ".join(names)}; it has {", ".join(table.rows)}'
            )
    return rows


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f'did you mean {close[0]!r}? ' if close else ''
    return f'unknown {what} {name!r}; {hint}choose from {", ".join(known)}'
