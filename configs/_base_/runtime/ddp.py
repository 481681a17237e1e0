# DistributedDataParallel, as every run with a --launcher has it, with what is worth setting:
# gradients are views of what is exchanged (saves their memory once over).
#
#     _base_ = ['./your_config.py', '../_base_/runtime/ddp.py']
model_wrapper_cfg = dict(
    type='MMDistributedDataParallel',
    broadcast_buffers=False,
    find_unused_parameters=False,
    gradient_as_bucket_view=True,
)
