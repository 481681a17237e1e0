"""Draws street scenes and jumpers: data to try everything on without a download.

`synthetic_scenes.py` and `synthetic_jumpers.py` are the tools. `layouts.py` names the files,
`writing.py` fills the folder, the other files draw.
"""
