_base_ = './td-hm_mit-b0_none_1xb2-demo_synthetic-jbd-640x480.py'

model = dict(backbone=dict(token_merging='fast'))
