# Mixed precision in float16 with a loss scale that adapts itself: on any GPU, not on a CPU. The
# same as tools/train.py --amp.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/amp_fp16.py']
#
# A switch of tools/train.py (StrictRunner), see amp_bf16.py.
amp = 'float16'
