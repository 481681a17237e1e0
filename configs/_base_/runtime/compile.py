# torch.compile for the backbone in training; the first iterations take minutes. Every other size of
# image compiles again, hence dynamic=False with the fixed crops of these configs. Validation and
# test run uncompiled.
#
#     _base_ = ['./your_config.py', '../_base_/runtime/compile.py']
#
# mmengine's own key, but tools/train.py (StrictRunner) compiles the backbone instead of the whole
# step, which PyTorch would compile anew in every iteration. blocks=True compiles attention and
# Mix-FFN of every block by themselves, in a fraction of the time.
compile = dict(backend='inductor', dynamic=False)
