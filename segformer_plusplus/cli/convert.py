"""segformer-plusplus convert SOURCE TARGET: weights under the names of another library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
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
from ..errors import CheckpointError
from .options import command


@command
def main(
    source: str,
    target: Path,
    /,
    *,
    to: Literal['mmseg', 'transformers', 'nvlabs'] = 'mmseg',
    backbone_only: bool = False,
    unsafe: bool = False,
) -> None:
    """Convert weights of SegFormer between libraries.

    Reads those of mmseg, NVlabs' original, Transformers and segmentation_models.pytorch, which are
    recognised by their keys; writes all but the last.

    Args:
        source: file, folder of Transformers, name of the Hub, or address.
        target: file that ends in .safetensors, .pth, .pt or .bin; for Transformers also a folder,
            which gets config.json and model.safetensors.
        to: names to write.
        backbone_only: leave the head out.
        unsafe: run the code that a pickle may hold: only for a file whose origin you trust.
    """
    content = read_checkpoint(source, unsafe=unsafe)
    state = plain_state_dict(content, source)
    try:
        result = run_conversion(state, to, backbone_only)
        about = describe(convert(result.state).state)
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {source}: {error}') from error
    meta = content.get('meta')
    known = meta.get('dataset_meta') if isinstance(meta, dict) else None
    write(target, to, result.state, (known or {}).get('classes'))
    table = Table(title=escape(f'{source} -> {target}'), title_justify='left', show_header=False)
    table.add_column(style='bold')
    table.add_column(overflow='fold')
    for name, value in rows_of(result, about, to).items():
        if value is not None:
            table.add_row(name, escape(str(value)))
    Console().print(table)


def run_conversion(state: dict[str, Tensor], to: str, backbone_only: bool) -> Conversion:
    """Renames weights to the names of ``to``, and checks that none is missing."""
    if to in TARGETS:
        return convert_to(state, TARGETS[to], backbone_only=backbone_only)
    result = convert(state)
    check_complete(result.state, describe(result.state))
    return backbone_of(result) if backbone_only else result


def write(
    path: Path, to: str, state: dict[str, Tensor], classes: Sequence[str] | None = None
) -> None:
    """Writes a file; for Transformers a folder, unless ``path`` is named like a file."""
    if to == 'transformers' and (path.is_dir() or not path.suffix):
        write_transformers_folder(path, state, classes)
    elif to == 'mmseg' and path.suffix in ('.pth', '.pt'):
        write_checkpoint(path, dict(state_dict=state))  # mmengine's hooks look for this key
    else:
        write_checkpoint(path, state)


def rows_of(result: Conversion, about: Mapping[str, Any], to: str) -> dict[str, Any]:
    """Says what was recognised and what became of it; None where there is nothing to say."""
    sizes = f'stages {about["in_channels"]}, blocks {about["num_layers"]}'
    left_out = sorted({key.rpartition('.')[0] or key for key in result.left_out})
    return {
        'recognised': result.source,
        'backbone': f'MiT-{about["arch"].upper()}' if about['arch'] else sizes,
        'head': about['head'] or 'none',
        'decoder channels': about['decoder_channels'],
        'classes' if about['head'] != 'heatmap' else 'keypoints': about['num_classes'],
        'numbers': about['dtype'],
        'keys converted': result.converted,
        'keys left out': f'{len(result.left_out)} {", ".join(left_out)}'.rstrip(),
        'keys written': f'{len(result.state)} with the names of {to}',
    }
