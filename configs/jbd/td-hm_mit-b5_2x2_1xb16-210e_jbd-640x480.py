_base_ = './td-hm_mit-b5_none_1xb16-210e_jbd-640x480.py'

model = dict(backbone=dict(token_merging='2x2'))
