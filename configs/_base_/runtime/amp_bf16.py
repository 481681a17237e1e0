# Mixed precision in bfloat16: on GPUs since Ampere, and on CPUs. The loss needs no scaling.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/amp_bf16.py']
#
# A switch of tools/train.py (StrictRunner), at the top level: no two bases of a config may share a
# key, and `optim_wrapper` belongs to the schedule.
amp = 'bfloat16'
