"""Counts operators, and the kernels that they would start on a GPU that need not be there."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segformer_plusplus.kernels import runtime

VIEWS = {
    'view', '_unsafe_view', 'permute', 'transpose', 't', 'expand', 'slice', 'select', 'unsqueeze',
    'squeeze', 'as_strided', 'detach', 'alias', 'unflatten', 'flatten', 'split', 'chunk', 'unbind',
    '_reshape_alias', 'split_with_sizes', 'empty', 'empty_like', 'new_empty', 'empty_strided',
    'new_empty_strided', 'unfold', 'diagonal', 'device',
}  # fmt: skip
"""Operators that start nothing."""

SEVERAL = {'convolution': 2, 'index_add': 2, '_to_copy': 1}
"""Those that start more than one kernel: a convolution may add its bias by itself."""


class Kernels(TorchDispatchMode):
    """Counts the kernels that a GPU would start, by the name of the operator.

    Attributes:
        names: how often each operator was called, on whatever device.
        started: how many kernels each started on a GPU.
        waited: operators that copy from one device to the other.
    """

    def __init__(self):
        super().__init__()
        self.names = Counter()
        self.started = Counter()
        self.waited = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        kinds = {each.device.type for each in leaves if isinstance(each, torch.Tensor)}
        namespace, name = function._schema.name.split('::')
        if name not in VIEWS:
            self.names[name] += 1
        if namespace == 'segformer_plusplus':
            self.started[name] += runtime.OPERATORS[name].launches
        elif len(kinds) > 1:  # a copy from one device to the other
            self.waited.append(name)
        elif name not in VIEWS and kinds != {'cpu'}:
            self.started[name] += SEVERAL.get(name, 1)
        return result

    @property
    def ours(self):
        """Counts the calls of our own operators."""
        return Counter({name: self.names[name] for name in runtime.OPERATORS if self.names[name]})

    @property
    def total(self):
        return sum(self.started.values())
