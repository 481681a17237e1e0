_base_ = './segformer_mit-b5_none_1xb4-3k_camvid-960x720.py'

model = dict(backbone=dict(token_merging='downsampling'))
