"""segformer-plusplus merge-map MODEL IMAGE --out FILE: what is merged, what changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import SegformerPlusPlusError, memory_errors
from ..inference import Segmenter
from ..inference.drawing import draw
from ..inference.exported import refuse_exported
from ..inference.merge_maps import ROLES, MergeMaps, merge_map, turned
from ..patching import apply_token_merging
from ..token_merging import TokenMerging
from .given import read_model
from .options import CfgOptions, command


@command
def main(
    config: str,
    files: list[str],
    /,
    *,
    out: Path,
    token_merging: str | None = None,
    block: int = -1,
    device: str | None = None,
    cfg_options: CfgOptions = None,
) -> None:
    """Draw what is merged in one image.

    One picture shows the image, the merged groups of tokens of every stage in the mean colour of
    their pixels, the predictions with and without merging, and where they differ. The image is
    taken at its own size.

    Args:
        config: name of a model, see segformer-plusplus models; or config file of a segmentor.
        files: image file; after a config file, first its weights, of any library that the package
            reads.
        out: file that ends in .png.
        token_merging: preset in place of the config's (default: what the config merges, or hq if it
            merges nothing).
        block: number of the block of every stage, from 1; -1 is the last one.
        device: where to run (default: cuda if there is one).
    """
    if out.suffix.lower() != '.png':
        raise SegformerPlusPlusError(f'--out {out}: give a name that ends in .png')
    for each in (config, files[0]):
        refuse_exported(each, 'what it merges cannot be seen')
    cfg, checkpoint, images = read_model(config, files, cfg_options, token_merging)
    if len(images) != 1:
        raise SegformerPlusPlusError(f'expected one IMAGE, got {len(images)}: {" ".join(images)}')
    image = Path(images[0])
    if not image.is_file():
        raise SegformerPlusPlusError(f'image not found: {image}')
    segmenter = Segmenter(cfg, checkpoint, token_merging=token_merging, device=device)
    pixels = np.ascontiguousarray(turned(segmenter.reader.file(image)))
    merging = getattr(segmenter.model.backbone, 'token_merging', None)
    if token_merging is None and not _merges(merging):
        token_merging = 'hq'
        apply_token_merging(segmenter.model, token_merging)
    try:
        with memory_errors('the model', 'try a smaller one'):
            maps = merge_map(segmenter.model, pixels)
    except SegformerPlusPlusError as error:
        raise SegformerPlusPlusError(f'image {image} cannot be predicted: {error}') from error
    title = f'{image.name}: {token_merging or Path(config).stem}'
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(maps, out, block=block, palette=segmenter.palette.tolist(), title=title)
    Console().print(_table(maps, block, title))


def _merges(merging: TokenMerging | None) -> bool:
    if merging is None:  # mmseg's own backbone
        return False
    return merging.downsampling is not None or any(s.q or s.kv for s in merging.stages)


def _table(maps: MergeMaps, block: int, title: str) -> Table:
    table = Table(title=escape(title), title_justify='left')
    for column in ('stage', 'merged', 'tokens', 'left', 'share merged'):
        table.add_column(column)
    for stage in range(1, maps.num_stages + 1):
        for each in maps.of_stage(stage, block):
            table.add_row(
                str(stage),
                ROLES[each.role] if each.share_merged else 'nothing',
                str(each.num_tokens),
                str(each.num_merged),
                f'{each.share_merged:.1%}',
            )
    if maps.share_changed is not None:
        table.caption = f'{maps.share_changed:.2%} of the pixels change their label'
    return table
