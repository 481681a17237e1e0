_base_ = './td-hm_mit-b0_none_1xb8-3k_lsp-256x192.py'

model = dict(backbone=dict(token_merging='weighted-fast'))
