"""SegFormer with token merging, for mmsegmentation, mmpose, and models that are built already.

Importing this package imports nothing else: what has a name here is loaded when it is first asked
for, and what OpenMMLab's registries should know is registered as soon as somebody imports mmengine,
so that ``custom_imports = dict(imports=['segformer_plusplus'])`` in a config is all it takes.
"""

from . import compat as _compat

_compat.install()

__getattr__, __all__ = _compat.lazily(__name__, __file__)
