# Computes the backbone's blocks again in the backward pass instead of keeping what they computed:
# less memory for about a third more time, and the same numbers.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/gradient_checkpointing.py']
#
# A switch of tools/train.py (StrictRunner), see amp_bf16.py. Sets model.backbone.with_cp.
gradient_checkpointing = True
