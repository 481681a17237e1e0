# The gradients of this many iterations make one step of the optimizer: the memory of a small batch,
# the step of a large one. Iterations are still counted one by one: to take as many steps as before,
# multiply max_iters and the ends of the param_scheduler.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/accumulate.py']
#     accumulate = 8
#
# A switch of tools/train.py (StrictRunner), see amp_bf16.py.
accumulate = 4
