# Adapts trained weights to a strategy: so many iterations from load_from, in the place of the
# schedule, from a tenth of the learning rate down to 0.
#
#     _base_ = ['./your_config_of_fast.py', '../_base_/runtime/adapt.py']
#     load_from = 'weights_of_none.pth'
#
# or, without a config: train your_config_of_fast.py --load-from weights_of_none.pth --cfg-options
# adapt=200. A switch of tools/train.py (StrictRunner), see amp_bf16.py.
adapt = 200
