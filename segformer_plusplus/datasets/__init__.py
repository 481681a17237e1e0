"""Data drawn on the spot, so that everything here trains and is tested without a download."""

from .jumper_layouts import write_coco, write_jbd, write_jbd_raw
from .jumpers import JumperFrame, Person, draw_jumpers
from .keypoints import COCO, JBD
from .layouts import write_ade20k, write_cityscapes
from .scene_canvas import CLASSES, IGNORE
from .scenes import Scene, draw_scene

__all__ = [
    'CLASSES',
    'COCO',
    'IGNORE',
    'JBD',
    'JumperFrame',
    'Person',
    'Scene',
    'draw_jumpers',
    'draw_scene',
    'write_ade20k',
    'write_cityscapes',
    'write_coco',
    'write_jbd',
    'write_jbd_raw',
]
