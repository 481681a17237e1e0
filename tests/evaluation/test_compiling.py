"""Compiled contenders: what is compiled, and what is refused."""

import pytest

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmseg)

# isort: split
import torch
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.compiling import compile_contender
from segformer_plusplus.evaluation.benchmark.contenders import Contender

IMAGES = torch.randn(1, 3, 16, 16)


class Tiny(Contender):
    """One convolution, whose class is the largest channel."""

    def __init__(self, one_graph=True):
        module = nn.Conv2d(3, 4, 1)
        super().__init__(module, module)
        self.one_graph = one_graph
        self.traced = []

    def features(self, images):
        return self.module(images)

    def head(self, features):
        self.traced.append(torch.compiler.is_compiling())
        return features.relu()

    def labels(self, logits, size):
        self.traced.append(torch.compiler.is_compiling())
        return super().labels(logits, size)


@pytest.mark.parametrize(('one_graph', 'labels_traced'), [(True, False), (False, True)])
def test_labels_are_compiled_where_one_graph_is_not_asked_for(one_graph, labels_traced):
    eager = Tiny(one_graph)
    compiled, record = compile_contender(eager, IMAGES, 'eager', False, 'tiny')
    # the last two are the eager run that it was compared with
    assert eager.traced[:-2] == [True, labels_traced]
    assert record['equal_labels'] == 1 and record['seconds'] > 0
    assert compiled.arithmetic is eager
    assert torch.equal(compiled.predict(IMAGES), eager.predict(IMAGES))


def test_features_alone():
    _, record = compile_contender(Tiny(), IMAGES, 'eager', True, 'tiny')
    assert record['relative_error'] == 0


class Breaks(Tiny):
    def head(self, features):
        torch._dynamo.graph_break()
        return features


def test_what_is_no_single_graph_is_named():
    with pytest.raises(SegformerPlusPlusError, match='breaks: torch.compile failed: .*break'):
        compile_contender(Breaks(), IMAGES, 'eager', False, 'breaks')
    compile_contender(Breaks(one_graph=False), IMAGES, 'eager', False, 'breaks')


class Differs(Tiny):
    """Computes something else once it is compiled."""

    segments = True

    def head(self, features):
        return -features if torch.compiler.is_compiling() else features


@pytest.mark.parametrize(
    ('segments', 'message'), [(True, 'of the pixels keep their label'), (False, 'differ by')]
)
def test_other_results_are_noticed(segments, message):
    eager = Differs()
    eager.segments = segments
    with pytest.raises(SegformerPlusPlusError, match=message):
        compile_contender(eager, IMAGES, 'eager', False, 'differs')
