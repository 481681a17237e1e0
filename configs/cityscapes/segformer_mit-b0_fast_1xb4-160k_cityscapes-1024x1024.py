_base_ = './segformer_mit-b0_none_1xb4-160k_cityscapes-1024x1024.py'

model = dict(backbone=dict(token_merging='fast'))
