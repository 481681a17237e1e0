# Scales the learning rate with the images per step: batch size x processes x accumulate. The rate
# of a config is meant for one process with the file's own batch size (the 1xb4 in its name), which
# tools/train.py takes for the base; or say it yourself:
#
#     _base_ = ['./your_config.py', '../_base_/runtime/auto_scale_lr.py']
#     auto_scale_lr = dict(base_batch_size=4)
#
# The same as tools/train.py --auto-scale-lr.
auto_scale_lr = dict(enable=True)
