"""Holds the paper's five tables and three of ours as data: configs, data, weights and measures."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.token_merging import BASELINE, PRESETS
from tools.paper_tables.paper import PAPER_TABLES, PaperRow

METRICS = {
    'mIoU': ('mIoU', 1.0),
    'PCK@0.1': ('PCK@0.1', 100.0),
    'PCK@0.05': ('PCK@0.05', 100.0),
    'AP': ('coco/AP', 100.0),
}
"""Measures: their name in the JSON of tools/test.py, and the factor that makes them percentages."""

PCK = 'PCK@0.1', 'PCK@0.05'

_ZOO = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/segformer'


@dataclass(frozen=True)
class DrawnImages:
    """Says which images a generator draws.

    Attributes:
        kind: 'scenes' or 'jumpers': part of the name of the generator and of its record.
        layout: of the files, an option of the generator.
        train: how many training images.
        val: how many validation images.
        size: height and width; None for the generator's own.
        folder: below the data root; empty for one in the output folder, named after the content.
    """

    kind: str
    layout: str
    train: int
    val: int
    size: tuple[int, int] | None = None
    folder: str = ''

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options of the generator that decide what it draws."""
        amounts = ('--train', str(self.train), '--val', str(self.val))
        size = ('--size', f'{self.size[0]}x{self.size[1]}') if self.size else ()
        return ('--layout', self.layout, *amounts, *size)


@dataclass(frozen=True)
class Table:
    """Describes a table of the paper, or one of ours; every row is a model under one strategy.

    Attributes:
        name: on the command line and in file names.
        title: of the report.
        data: a key of ``DATA_SETS``.
        config: path from the root of the repository, with {} for the strategy.
        shape: height and width of the images that are timed.
        batch_size: of the timed batches on a GPU.
        metrics: keys of ``METRICS``; one that the paper's table lacks stands alone.
        timed: whether the speed-up is that of 'inference' or 'training'.
        shares_weights: whether every row tests the weights of ``BASELINE``.
        published: addresses of weights that others have trained, by row.
        paper: a key of ``PAPER_TABLES``, whose rows this table has; empty for one that the paper
            lacks, which has all presets.
        images: that a demo draws; None for all other tables.
        picture: name of the picture of a demo: 'comparison' or 'skeletons'.
        caption: what a demo measures, with fields that ``Report`` fills in.
    """

    name: str
    title: str
    data: str
    config: str
    shape: tuple[int, int]
    batch_size: int
    metrics: tuple[str, ...]
    timed: str
    shares_weights: bool = False
    published: dict[str, str] = field(default_factory=dict)
    paper: str = ''
    images: DrawnImages | None = None
    picture: str = ''
    caption: str = ''

    @property
    def figures(self) -> dict[str, PaperRow]:
        """What the paper reports, by row; nothing for the rows of a table that it lacks."""
        return PAPER_TABLES[self.paper] if self.paper else {row: {} for row in PRESETS}

    @property
    def rows(self) -> tuple[str, ...]:
        """The strategies, in order."""
        return tuple(self.figures)

    @property
    def reports_memory(self) -> bool:
        """Whether the memory of training is measured beside the paper's."""
        return self.timed == 'training' and 'memory_gb' in self.figures[BASELINE]

    def config_of(self, row: str) -> str:
        """Returns the config of a row, from the root of the repository."""
        return self.config.format(row)

    def weights_row(self, row: str) -> str:
        """Returns the row whose training makes the weights that this one tests."""
        return BASELINE if self.shares_weights else row


_CITYSCAPES_INFERENCE = Table(
    name='cityscapes-inference',
    title='Cityscapes, inference: one set of weights under every strategy',
    paper='cityscapes_inference',
    data='cityscapes',
    config='configs/cityscapes/segformer_mit-b5_{}_1xb4-160k_cityscapes-1024x1024.py',
    shape=(1024, 1024),
    batch_size=8,
    metrics=('mIoU',),
    timed='inference',
    shares_weights=True,
    published={
        'none': f'{_ZOO}/segformer_mit-b5_8x1_1024x1024_160k_cityscapes/'
        'segformer_mit-b5_8x1_1024x1024_160k_cityscapes_20211206_072934-87a052ec.pth'
    },
)
_JBD = Table(
    name='jbd',
    title='Jump-Broadcast, training: every row trained',
    paper='jbd_training',
    data='jbd',
    config='configs/jbd/td-hm_mit-b5_{}_1xb16-210e_jbd-640x480.py',
    shape=(640, 480),
    batch_size=16,
    metrics=PCK,
    timed='training',
)

_TABLES = (
    _CITYSCAPES_INFERENCE,
    replace(
        _CITYSCAPES_INFERENCE,
        name='cityscapes-training',
        title='Cityscapes, training: every row trained',
        paper='cityscapes_training',
        batch_size=4,
        timed='training',
        shares_weights=False,
    ),
    Table(
        name='ade20k',
        title='ADE20K, training: every row trained',
        paper='ade20k_training',
        data='ade20k',
        config='configs/ade20k/segformer_mit-b5_{}_1xb8-160k_ade20k-640x640.py',
        shape=(640, 640),
        batch_size=8,
        metrics=('mIoU',),
        timed='training',
        published={
            'none': f'{_ZOO}/segformer_mit-b5_640x640_160k_ade20k/'
            'segformer_mit-b5_640x640_160k_ade20k_20210801_121243-41d2845b.pth'
        },
    ),
    _JBD,
    replace(
        _JBD,
        name='coco',
        title='COCO keypoints, training: every row trained',
        paper='coco_training',
        data='coco',
        config='configs/coco/td-hm_mit-b5_{}_1xb16-210e_coco-384x288.py',
        shape=(384, 288),
        metrics=(*PCK, 'AP'),
    ),
    Table(
        name='camvid',
        title='CamVid, inference: one set of weights under every strategy',
        data='camvid',
        config='configs/camvid/segformer_mit-b0_{}_1xb4-3k_camvid-960x720.py',
        shape=(720, 960),
        batch_size=8,
        metrics=('mIoU',),
        timed='inference',
        shares_weights=True,
    ),
    replace(
        _CITYSCAPES_INFERENCE,
        name='demo-seg',
        title='Street scenes that are drawn: one set of weights under every strategy',
        config='configs/synthetic/segformer_mit-b0_{}_1xb2-demo_synthetic-cityscapes.py',
        shape=(1024, 2048),
        images=DrawnImages('scenes', 'cityscapes', 80, 8, (1024, 2048), 'demo_cityscapes'),
        picture='comparison',
        caption='Left: MiT-B0, trained once without merging on {train} synthetic street scenes '
        'of {size}, tested under the strategies of the paper on {val}; batch {batch_size}, '
        '{dtype}, whole image to label map, median of {rounds} rounds in turn on {device}, '
        '{torch}. Right: the paper, MiT-B5 on Cityscapes.',
    ),
    replace(
        _JBD,
        name='demo-pose',
        title='Jumpers that are drawn: one set of weights under every strategy',
        config='configs/synthetic/td-hm_mit-b0_{}_1xb2-demo_synthetic-jbd-640x480.py',
        timed='inference',
        shares_weights=True,
        images=DrawnImages('jumpers', 'jbd', 1200, 60, folder='demo_jumpers'),
        picture='skeletons',
        caption='Left: MiT-B0, trained once without merging on {train} synthetic jumpers, '
        'input {size}, tested under the strategies of the paper on {val} with flip test and '
        'heatmaps of sigma 6 (the paper: 3), which are learnt sooner; speed: batch {batch_size}, '
        '{dtype}, cut-out person to heatmaps, median of {rounds} rounds in turn on {device}, '
        '{torch}. Right: the paper, MiT-B5 on the Jump-Broadcast dataset, every row trained.',
    ),
)

TABLES = {table.name: table for table in _TABLES}
"""Tables by name, in the order in which several of them are measured."""

PAPER = tuple(name for name, table in TABLES.items() if table.paper and table.images is None)
"""The tables of the paper, which 'all' stands for."""


def find_tables(names: Sequence[str]) -> list[Table]:
    """Returns tables by name; 'all' is every table of the paper.

    Raises:
        SegformerPlusPlusError: no table has this name.
    """
    for name in names:
        if name != 'all' and name not in TABLES:
            raise SegformerPlusPlusError(_unknown('table', name, [*TABLES, 'all']))
    asked = {*names, *(PAPER if 'all' in names else ())}
    return [table for table in TABLES.values() if table.name in asked]


def find_rows(tables: Sequence[Table], names: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Returns the rows of each table, in the table's order.

    Args:
        tables: the ones that are asked for.
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
