"""segformer-plusplus merge-map CONFIG CHECKPOINT IMAGE --out FILE: what is merged, what changes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.table import Table

from ..errors import SegformerPlusPlusError, memory_errors
from ..inference import Segmenter
from ..inference.drawing import draw
from ..inference.merge_maps import MergeMaps, merge_map
from ..inference.sources import find_pictures
from .guard import main_guard
from .options import add_config_arguments


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='One picture: the image, the merged groups of tokens of every stage in the '
        'mean colour of their pixels, the predictions with and without merging, and where they '
        'differ. The image is taken at its own size.',
    )
    parser.add_argument('config', help='config file of a segmentor')
    parser.add_argument('checkpoint', help='weights; of any library that the package reads')
    parser.add_argument('image', type=Path, metavar='IMAGE')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='ends in .png')
    parser.add_argument(
        '--token-merging', default='hq', metavar='NAME', help='a preset (default: hq)'
    )
    parser.add_argument(
        '--block', type=int, default=-1, metavar='N',
        help='of every stage, from 1 (default: the last one)',
    )  # fmt: skip
    parser.add_argument('--device', help='(default: cuda if there is one)')
    add_config_arguments(parser)
    return parser


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    if args.out.suffix.lower() != '.png':
        raise SegformerPlusPlusError(f'--out {args.out}: give a name that ends in .png')
    (picture,) = find_pictures(args.image) if args.image.is_file() else [None]
    if picture is None:
        raise SegformerPlusPlusError(f'image not found: {args.image}')
    segmenter = Segmenter(
        args.config,
        args.checkpoint,
        token_merging=args.token_merging,
        device=args.device,
        cfg_options=args.cfg_options,
    )
    init_default_scope('mmseg')
    image = np.ascontiguousarray(picture.load()[..., ::-1])
    with memory_errors('the image', 'try a smaller one'):
        maps = merge_map(segmenter.model, image)
    title = f'{args.image.name}: {args.token_merging}'
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(maps, args.out, block=args.block, palette=segmenter.palette.tolist(), title=title)
    Console().print(_table(maps, args.block, title))
    return 0


def _table(maps: MergeMaps, block: int, title: str) -> Table:
    table = Table(title=title, title_justify='left')
    for column in ('stage', 'merged', 'tokens', 'left', 'share merged'):
        table.add_column(column)
    roles = {'q': 'queries', 'kv': 'keys and values'}
    for stage in range(1, maps.num_stages + 1):
        for each in maps.of_stage(stage, block):
            table.add_row(
                str(stage),
                roles[each.role] if each.share_merged else 'nothing',
                str(each.num_tokens),
                str(each.num_merged),
                f'{each.share_merged:.1%}',
            )
    if maps.share_changed is not None:
        table.caption = f'{maps.share_changed:.2%} of the pixels change their label'
    return table
