_base_ = './segformer_mit-b5_none_1xb8-160k_ade20k-640x640.py'

model = dict(backbone=dict(token_merging='hq'))
