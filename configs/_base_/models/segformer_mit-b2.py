# A name of version 0.1, for configs that inherit it.
_base_ = ['../mit.py', './segformer.py']

model = dict(backbone=_base_.mit_b2, decode_head=dict(in_channels=[64, 128, 320, 512]))
