_base_ = './segformer_mit-b5_none_1xb4-3k_camvid-480x360.py'

model = dict(backbone=dict(token_merging='fast'))
