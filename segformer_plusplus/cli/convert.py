"""Converts weights between mmseg, NVlabs' original, Transformers and, only from, SMP."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..checkpoints import (
    Conversion,
    convert,
    describe,
    plain_state_dict,
    read_checkpoint,
    write_checkpoint,
    write_transformers_folder,
)
from ..checkpoints.conversion import TARGETS, backbone_of, convert_to
from ..checkpoints.settings import check_complete
from ..checkpoints.writing import SUFFIXES
from ..errors import CheckpointError
from .guard import add_traceback_argument, main_guard


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Convert SegFormer's weights between mmseg, NVlabs' original, Transformers "
        'and (only from) segmentation_models.pytorch; the source is recognised by its keys.',
    )
    parser.add_argument('source', metavar='SRC', help='file, folder of Transformers, or address')
    parser.add_argument(
        'target',
        metavar='DST',
        type=Path,
        help=f'file that ends in {", ".join(SUFFIXES)}; for Transformers also a folder, '
        'which gets config.json and model.safetensors',
    )
    parser.add_argument('--to', choices=['mmseg', *TARGETS], default='mmseg', help='names to write')
    parser.add_argument('--backbone-only', action='store_true', help='leave the head out')
    parser.add_argument(
        '--unsafe',
        action='store_true',
        help='run the code that a pickle may hold: only for a file whose origin you trust',
    )
    add_traceback_argument(parser)
    return parser


def run_conversion(state: dict[str, Tensor], to: str, backbone_only: bool) -> Conversion:
    """The weights under the names of ``to``, checked to be complete."""
    if to in TARGETS:
        return convert_to(state, TARGETS[to], backbone_only=backbone_only)
    result = convert(state)
    check_complete(result.state, describe(result.state))
    return backbone_of(result) if backbone_only else result


def write(path: Path, to: str, state: dict[str, Tensor]) -> None:
    """A folder for Transformers unless ``path`` is named like a file, a file otherwise."""
    if to == 'transformers' and (path.is_dir() or not path.suffix):
        write_transformers_folder(path, state)
    elif to == 'mmseg' and path.suffix in ('.pth', '.pt'):
        write_checkpoint(path, dict(state_dict=state))  # mmengine's hooks look for this key
    else:
        write_checkpoint(path, state)


def make_table(args: argparse.Namespace, about: Mapping[str, Any], result: Conversion) -> Table:
    """What was recognised and what became of it."""
    table = Table(title=f'{args.source} -> {args.target}', title_justify='left', show_header=False)
    table.add_column(style='bold')
    table.add_column(overflow='fold')
    sizes = f'stages {about["in_channels"]}, blocks {about["num_layers"]}'
    left_out = sorted({key.rpartition('.')[0] or key for key in result.left_out})
    rows = {
        'recognised': result.source,
        'backbone': f'MiT-{about["arch"].upper()}' if about['arch'] else sizes,
        'head': about['head'] or 'none',
        'decoder channels': about['decoder_channels'],
        'classes' if about['head'] != 'heatmap' else 'keypoints': about['num_classes'],
        'numbers': about['dtype'],
        'keys converted': result.converted,
        'keys left out': f'{len(result.left_out)} {", ".join(left_out)}'.rstrip(),
        'keys written': f'{len(result.state)} with the names of {args.to}',
    }
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, str(value))
    return table


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the tool and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    state = plain_state_dict(read_checkpoint(args.source, unsafe=args.unsafe), args.source)
    try:
        result = run_conversion(state, args.to, args.backbone_only)
        about = describe(convert(result.state).state)
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {args.source}: {error}') from error
    write(args.target, args.to, result.state)
    Console().print(make_table(args, about, result))
    return 0
