_base_ = './segformer_mit-b0_none_1xb2-demo_synthetic-cityscapes.py'

model = dict(backbone=dict(token_merging='downsampling-bilinear'))
