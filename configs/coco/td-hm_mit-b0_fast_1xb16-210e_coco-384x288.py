_base_ = './td-hm_mit-b0_none_1xb16-210e_coco-384x288.py'

model = dict(backbone=dict(token_merging='fast'))
