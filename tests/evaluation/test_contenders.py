"""Contenders: the parts make the whole, in every library."""

import ctypes
import gc
import sys

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from inference.tiny import build_model
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel, stage_calls
from segformer_plusplus.evaluation.benchmark.openvino_peer import OpenVinoModel
from segformer_plusplus.evaluation.benchmark.peers import TransformersModel, mmseg_peer
from segformer_plusplus.inference.labels import resize_and_argmax

IMAGES = torch.randn(2, 3, 64, 96)


def contender(tiny, library):
    config, build = tiny
    if library == 'mmseg':
        return OpenMMLabModel(build_model(mmseg_peer(config('SegformerHeadPlusPlus'))))
    if library == 'transformers':
        pytest.importorskip('transformers')
        return TransformersModel(config(), build())
    if library == 'openvino':
        pytest.importorskip('openvino')
        return OpenVinoModel(build(), 'a test')
    return OpenMMLabModel(build(token_merging='hq'))


@pytest.mark.parametrize('library', ['ours', 'mmseg', 'transformers', 'openvino'])
def test_stages_end_where_the_whole_ends(tiny, library):
    model = contender(tiny, library)
    stages = stage_calls(model, IMAGES)
    assert list(stages) == ['backbone', 'head', 'labels']
    assert stages['head']().shape == (2, 5, 16, 24)
    with torch.inference_mode():
        whole = model.predict(IMAGES).clone()
        logits = model.logits(IMAGES)
        assert whole.shape == (2, 64, 96) and whole.dtype == torch.int64
        assert torch.equal(whole, stages['labels']())
        # our labels take a short cut: where two classes have equal logits, either is right
        assert (whole == resize_and_argmax(logits, (64, 96))).float().mean() > 0.999


def test_openvino_follows_another_shape_and_other_threads(tiny):
    model = contender(tiny, 'openvino')
    threads = torch.get_num_threads()
    sizes = [(1, 3, 64, 64), (2, 3, 96, 64)]
    try:
        for size in sizes:
            torch.set_num_threads(size[0])
            assert model.predict(torch.randn(size)).shape == (size[0], *size[2:])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.skipif(sys.platform != 'linux', reason='reads the memory map of Linux')
def test_openvino_leaves_no_stack_for_signals_that_is_gone(tiny):
    class Stack(ctypes.Structure):
        _fields_ = [('start', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]

    for shape in ((1, 3, 64, 64), (1, 3, 64, 96)):
        contender(tiny, 'openvino').predict(torch.randn(shape))
    gc.collect()
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    maps = [line.split()[0].split('-') for line in open('/proc/self/maps')]
    mapped = any(int(low, 16) <= (stack.start or 0) < int(high, 16) for low, high in maps)
    assert not stack.start or mapped


def test_what_has_no_head_is_refused():
    with pytest.raises(SegformerPlusPlusError, match='Sequential has not both'):
        OpenMMLabModel(nn.Sequential())
