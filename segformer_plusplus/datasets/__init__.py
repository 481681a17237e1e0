"""Data drawn on the spot, so that everything here trains and is tested without a download."""

from .layouts import write_ade20k, write_cityscapes
from .scene_canvas import CLASSES, IGNORE
from .scenes import Scene, draw_scene

__all__ = ['CLASSES', 'IGNORE', 'Scene', 'draw_scene', 'write_ade20k', 'write_cityscapes']
