"""segformer-plusplus models: trained SegFormers that a command takes by their name."""

from __future__ import annotations

from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from ..inference.configs import configs_of
from ..inference.pretrained import HUB_MODELS, openmmlab_models
from .options import command


@command
def main() -> None:
    """List trained models that commands take by their name, in the place of CONFIG CHECKPOINT.

    Any other SegFormer that Transformers has saved works, too, as OWNER/NAME of the Hugging Face
    Hub, with @REVISION where wanted, or as a folder. Weights are downloaded once.
    """
    console = Console()
    table = Table(title='Hugging Face Hub', title_justify='left')
    table.add_column('name', no_wrap=True)
    table.add_column('shorter side of images')
    for name, side in HUB_MODELS.items():
        table.add_row(name, str(side))
    table.caption = "NVIDIA's licence: not for commercial use"
    console.print(table)
    found = openmmlab_models(configs_of('mmseg')) if find_spec('mmseg') else {}
    if not found:
        console.print("mmsegmentation's own: install the extra mmseg to see them")
        return
    table = Table(title="mmsegmentation's own, and the mIoU it says", title_justify='left')
    table.add_column('name', no_wrap=True)
    table.add_column('mIoU')
    for name, about in found.items():
        table.add_row(name, f'{about.miou or "-"} on {about.dataset}')
    console.print(table)
