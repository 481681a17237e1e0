_base_ = './td-hm_mit-b0_none_1xb4-3k_lsp-640x480.py'

model = dict(backbone=dict(token_merging='weighted-fast'))
