"""Street scenes and jumpers, drawn: data to try everything on without a download.
`synthetic_scenes.py` and `synthetic_jumpers.py` write them in the layouts of Cityscapes, ADE20K,
Jump-Broadcast and COCO; the other files draw."""
