# Jumpers drawn by tools/dataset_generators/synthetic_jumpers.py, laid out as Jump-Broadcast.
# Only the data root, the batch and the number of workers differ from Jump-Broadcast.
_base_ = './jbd_640x480.py'

data_root = 'data/synthetic_jbd'

train_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(data_root=data_root))
val_dataloader = dict(batch_size=8, num_workers=2, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
