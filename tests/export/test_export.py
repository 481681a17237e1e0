"""What goes in and comes out of a file, what it is checked for, and what is refused."""

import json
import os
import sys

import numpy as np
import pytest
import torch
from export_models import (
    build_pose,
    build_segmentor,
    check_close,
    plain_onnx,
    plain_openvino,
    plain_torch,
    randomise,
    segmentor_config,
)
from inference.tiny import build_model
from torch.torch_version import TorchVersion

from segformer_plusplus import TOKEN_MERGERS, SegformerPlusPlusError, TokenMerger
from segformer_plusplus.errors import MissingDependencyError
from segformer_plusplus.export import check_export, checking, export_model, read_metadata
from segformer_plusplus.export.formats import OnnxFile, TorchExportFile
from segformer_plusplus.export.graph import ExportGraph, trace
from segformer_plusplus.export.options import ExportOptions
from segformer_plusplus.mit.cpu import is_chunked
from segformer_plusplus.token_merging.plans import SlotPlan

SHAPE = (64, 80)
TORCH = dict(format='torch-export', shape=SHAPE)


@pytest.fixture(scope='module')
def model():
    return build_segmentor()


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('bgr_to_rgb', [True, False])
def test_labels_from_raw_images(tmp_path, bgr_to_rgb):
    """uint8 RGB to labels, against mmseg's own way from a BGR image to its prediction."""
    model = build_segmentor(bgr_to_rgb=bgr_to_rgb)
    path = tmp_path / 'labels.onnx'
    options = dict(shape=SHAPE, output='labels', with_preprocessing=True, opset=20)
    export = export_model(model, path, **options)
    rgb = np.random.default_rng().integers(0, 256, (1, *SHAPE, 3), dtype=np.uint8)
    bgr = torch.from_numpy(rgb[0, ..., ::-1].transpose(2, 0, 1).copy())
    expected = model.test_step({'inputs': [bgr]})[0].pred_sem_seg.data.numpy()
    labels = plain_onnx(path, torch.from_numpy(rgb))
    assert labels.shape == (1, *SHAPE)
    assert (labels == expected).mean() >= 0.999
    assert export.metadata['opset'] == 20 and export.checks[0].relative_error is None
    normalisation = export.metadata['input']['normalisation']
    assert normalisation['mean'] == [123.675, 116.28, 103.53] and normalisation['inside']
    assert normalisation['channel_order'] == ('RGB' if bgr_to_rgb else 'BGR')


@pytest.mark.parametrize('preset', ['2x2', 'downsampling'])
def test_dynamic_size(tmp_path, preset):
    model, step = build_segmentor(token_merging=preset), 64
    path = tmp_path / 'dynamic.pt2'
    export = export_model(
        model, path, format='torch-export', shape=(2 * step, 3 * step), dynamic_batch=True,
        dynamic_size=True,
    )  # fmt: skip
    assert export.metadata['size_step'] == step
    height, width = (step * int(np.random.default_rng().integers(2, 6)) for _ in range(2))
    images = torch.randn(2, 3, height, width)
    check_close(plain_torch(path, images), model, images)


def test_dynamic_size_in_onnx(tmp_path, model):
    path = tmp_path / 'dynamic.onnx'
    export = export_model(model, path, shape=(64, 96), dynamic_size=True)
    assert export.metadata['size_step'] == 32
    for size in ((96, 64), (64, 160)):
        images = torch.randn(1, 3, *size)
        for run in (plain_onnx, plain_openvino):
            check_close(run(path, images), model, images)


def test_pose(tmp_path):
    pytest.importorskip('xtcocotools')
    model = build_pose(token_merging='2x2')
    path = tmp_path / 'pose.pt2'
    names = [f'joint {index}' for index in range(7)]
    export = export_model(model, path, format='torch-export', dynamic_batch=True, class_names=names)
    assert export.metadata['output'] == {'name': 'heatmaps', 'channels': 7}
    assert export.metadata['shape'] == [64, 48] and export.metadata['class_names'] == names
    images = torch.randn(3, 3, 64, 48)
    check_close(plain_torch(path, images), model, images)
    with pytest.raises(SegformerPlusPlusError, match="codec's input_size is 64x48"):
        export_model(model, path, format='torch-export', shape=(64, 64))
    with pytest.raises(SegformerPlusPlusError, match="has 'heatmaps'"):
        export_model(model, path, format='torch-export', output='labels')


def test_pose_from_raw_images(tmp_path):
    """uint8 RGB to heatmaps, against mmpose's own preprocessing of BGR."""
    pytest.importorskip('xtcocotools')
    from mmpose.structures import PoseDataSample

    model, path = build_pose(), tmp_path / 'pose.pt2'
    export_model(model, path, format='torch-export', with_preprocessing=True)
    rgb = torch.randint(256, (1, 64, 48, 3), dtype=torch.uint8)
    read = {'inputs': [rgb[0].flip(-1).permute(2, 0, 1)], 'data_samples': [PoseDataSample()]}
    normalised = model.data_preprocessor(read, training=False)['inputs']
    with torch.inference_mode():
        expected = model.head(model.extract_feat(normalised)).numpy()
    error = np.abs(plain_torch(path, rgb) - expected).max()
    assert error <= 1e-4 * np.abs(expected).max()


def test_an_exported_head_multiplies_at_the_resolution_of_each_level(model):
    """A convolution of all levels, resized and put together, would be three times the work."""
    options = ExportOptions(format='torch-export', shape=SHAPE)
    nodes = trace(ExportGraph(model, options).eval()).graph.nodes
    convs = [node for node in nodes if node.target == torch.ops.aten.conv2d.default]
    width = model.decode_head.channels
    shapes = [tuple(node.meta['val'].shape[1:]) for node in convs]
    assert not any(node.target == torch.ops.aten.cat.default for node in nodes)
    for level in (4, 8, 16, 32):  # its own convolution, and its part of the fusion
        assert shapes.count((width, *(-(-side // level) for side in SHAPE))) >= 2


def test_the_model_is_left_as_it_is(tmp_path, model):
    model.train()
    try:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        export_model(model, tmp_path / 'a.pt2', token_merging='2x2', **TORCH)
        assert model.training and is_chunked()
        assert model.backbone.token_merging.stages[0].q is None
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    finally:
        model.eval()


@pytest.mark.parametrize(
    'interrupted, error, words',
    [
        (False, SegformerPlusPlusError, 'a.pt2 differs from the model .* of seed'),
        (True, KeyboardInterrupt, ''),
    ],
)
def test_a_wrong_or_half_file_never_takes_the_name(
    tmp_path, model, monkeypatch, interrupted, error, words
):
    path = tmp_path / 'a.pt2'
    path.write_bytes(b'old')
    write = TorchExportFile.write

    def damage(self, program, path, metadata):
        program.state_dict['model.decode_head.conv_seg.bias'].data += 0.5
        write(self, program, path, metadata)
        if interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(TorchExportFile, 'write', damage)
    with pytest.raises(error, match=words):
        export_model(model, path, **TORCH)
    assert path.read_bytes() == b'old' and leftovers(tmp_path) == ['a.pt2']


def test_check_of_other_weights_and_other_strategies(tmp_path, model):
    path = tmp_path / 'a.pt2'
    export_model(model, path, **TORCH)
    assert [check.undecided for check in check_export(path, model, seed=3)] == [0]
    other = build_model(segmentor_config())
    with pytest.raises(SegformerPlusPlusError, match='differs from the model in PyTorch'):
        check_export(path, other)
    with pytest.raises(SegformerPlusPlusError, match="was exported with token_merging .*'none'"):
        check_export(path, build_segmentor(token_merging='2x2'))


class _Tied:
    """A model whose output a change of the input by rounding decides."""

    def __init__(self, gap):
        self.gap = gap

    def __call__(self, images):
        high = images.mean(dim=(1, 2, 3), keepdim=True) > self.gap
        return torch.where(high, 1.0, 2.0).expand(-1, 2, 4, 4)


@pytest.mark.parametrize(('gap', 'undecided'), [(1.0, True), (0.99, False)])
def test_only_what_rounding_decides_is_left_out(gap, undecided):
    """A step exactly at the input is decided by rounding; one a hundredth away is not."""
    reference = checking._Reference.__new__(checking._Reference)
    reference.metadata = {'output': {'name': 'logits'}}
    reference._predict = _Tied(gap)
    images = torch.ones(1, 3, 8, 8)
    assert reference.is_undecided(images, reference(images)) is undecided


@TOKEN_MERGERS.register_module()
class _DataDependent(TokenMerger):
    """As many merged tokens as the tokens say: nothing that a graph could hold."""

    def plan(self, tokens, grid):
        number = int((tokens.sum(dim=-1) > 0).sum()) % 4 + 1
        slot = torch.arange(tokens.shape[1]).remainder(number).expand(len(tokens), -1)
        return SlotPlan(slot, number)


def test_a_strategy_that_cannot_be_traced_is_named(tmp_path, model):
    stages = [{}, dict(kv=dict(type='_DataDependent')), {}, {}]
    with pytest.raises(
        SegformerPlusPlusError, match=r'strategy _DataDependent\(\) \(stage 2, kv\) cannot be'
    ):
        export_model(model, tmp_path / 'a.pt2', token_merging=stages, **TORCH)
    assert not leftovers(tmp_path)


class _Adding(SlotPlan):
    def merge(self, tokens):
        total = tokens.new_zeros(self.sizes().numel(), tokens.shape[2])
        total = total.index_put((self.index,), tokens.flatten(0, 1), accumulate=True)
        return total.unflatten(0, self.sizes().shape)


@TOKEN_MERGERS.register_module()
class _Adder(TokenMerger):
    def plan(self, tokens, grid):
        return _Adding(torch.arange(tokens.shape[1]).expand(len(tokens), -1) // 2, 3)


def test_sums_that_onnx_runtime_gets_wrong_are_refused(tmp_path, model):
    stages = [{}, dict(kv=dict(type='_Adder')), {}, {}]
    with pytest.raises(SegformerPlusPlusError, match='adds with index_put_, .* write it with'):
        export_model(model, tmp_path / 'a.onnx', token_merging=stages, shape=(64, 96))
    assert not leftovers(tmp_path)


class _Sums(torch.nn.Module):
    """Sums as strategies write them: that of SlotPlan, and own ones along another axis."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, images):
        tokens = images.flatten(2).mT
        means = SlotPlan(self.index.expand(len(tokens), -1), 2000).merge(tokens)
        own = tokens.new_zeros(len(tokens), 2000, tokens.shape[2])
        own.index_add_(1, self.index, tokens)
        return torch.cat([means, own.mT.index_add(-1, self.index, tokens.mT, alpha=-0.5).mT])


@pytest.mark.parametrize('opset', [18, 21])
def test_onnx_runtime_adds_all_in_threads(tmp_path, monkeypatch, opset):
    """As often as it runs, and as PyTorch adds: of ScatterND it lost some of so many tokens."""
    sums = _Sums(torch.randperm(16384).remainder(2000))
    images = torch.randn(2, 32, 128, 128)
    program = torch.export.export(sums, (images,))
    metadata = dict(opset=opset, precision='fp32', input=dict(name='x'), output=dict(name='y'))
    kind, path = OnnxFile(), tmp_path / 'a.onnx'
    kind.write(kind.convert(program, metadata), path, metadata)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 4)
    run = kind.runners(path)['onnxruntime']
    for _ in range(20):
        torch.testing.assert_close(run(images), sums(images), rtol=0, atol=1e-4)


BAD = {
    'format': (dict(format='tflite'), "format='tflite' is unknown, use one of .'onnx'"),
    'suffix': (dict(path='a.onnx'), 'end in .pt2'),
    'folder': (dict(path='taken.pt2'), 'is a folder'),
    'file as folder': (dict(path='file/a.pt2'), 'cannot write to the folder'),
    'small': (dict(shape=(8, 8)), '8x8 is too small'),
    'no shape': (dict(shape=None), 'give one with shape'),
    'zero': (dict(shape=(0, 8)), 'height=0 is no whole number'),
    'size': (dict(dynamic_size=True, shape=(64, 80)), 'multiples of 32 from 64 on'),
    'matching': (dict(dynamic_size=True, token_merging='hq'), 'multiples of 32 from 256 on'),
    'opset': (dict(opset=18), 'not made of ONNX operators'),
    'old opset': (dict(opset=11, format='onnx', path='a.onnx'), 'use one of 18 to'),
    'output': (dict(output='boxes'), "output='boxes' is unknown"),
    'heatmaps': (dict(output='heatmaps'), "has 'logits' and 'labels'"),
    'names': (dict(class_names=['one']), '1 class_names given, the model has 5'),
    'preset': (dict(token_merging='hd'), "'hd' is unknown, use one of"),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_writes_nothing(tmp_path, model, case):
    settings, message = BAD[case]
    (tmp_path / 'taken.pt2').mkdir()
    (tmp_path / 'file').touch()
    settings = dict(TORCH, path='a.pt2') | settings
    path = tmp_path / settings.pop('path')
    with pytest.raises(SegformerPlusPlusError, match=message):
        export_model(model, path, **settings)
    assert leftovers(tmp_path) == ['file', 'taken.pt2']


def test_other_models_are_refused(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='this one is a Linear with NoneType'):
        export_model(torch.nn.Linear(1, 1), tmp_path / 'a.pt2', **TORCH)
    with pytest.raises(SegformerPlusPlusError, match='float16.*is float32'):
        export_model(torch.nn.Linear(1, 1).half(), tmp_path / 'a.pt2', **TORCH)


def test_labels_of_sliding_windows_are_refused(tmp_path):
    model = build_segmentor(test_cfg=dict(mode='slide', crop_size=(64, 64), stride=(32, 32)))
    with pytest.raises(SegformerPlusPlusError, match="test_cfg.mode is 'slide'"):
        export_model(model, tmp_path / 'a.pt2', output='labels', **TORCH)


@pytest.mark.parametrize(('name', 'library'), [('onnx', 'onnxscript'), ('openvino', 'openvino')])
def test_a_missing_library_names_the_extra(tmp_path, model, monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=rf'{library}.*segformer-plusplus\[export\]'):
        export_model(model, tmp_path / 'a.onnx', format=name, shape=SHAPE)


@pytest.mark.parametrize(('name', 'suffix'), [('onnx', '.onnx'), ('openvino', '.xml')])
def test_a_torch_whose_exporter_is_too_old_is_said_at_once(
    model, tmp_path, monkeypatch, name, suffix
):
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.8.1+cu128'))
    with pytest.raises(SegformerPlusPlusError, match=r'from 2\.9 on, this is 2\.8\.1.*\[export\]'):
        export_model(model, tmp_path / f'a{suffix}', format=name, shape=SHAPE)
    export_model(model, tmp_path / 'a.pt2', **TORCH)


@pytest.mark.parametrize('name', ['a.onnx', 'a.pt2', 'a.xml', 'a.txt', 'missing.onnx'])
def test_a_damaged_file_is_named(tmp_path, name):
    path = tmp_path / name
    if 'missing' not in name:
        path.write_bytes(os.urandom(64))
    with pytest.raises(SegformerPlusPlusError, match=path.stem):
        read_metadata(path)


def test_metadata_is_json(tmp_path, model):
    path = tmp_path / 'deep' / 'a.pt2'
    export = export_model(model, path, token_merging='fast', **TORCH)
    assert json.loads(json.dumps(export.metadata)) == read_metadata(path)
    assert read_metadata(path)['token_merging']['preset'] == 'fast'
    assert leftovers(path.parent) == ['a.pt2']


BCE = dict(type='CrossEntropyLoss', use_sigmoid=True)


@pytest.mark.parametrize(
    ('head', 'channels'),
    [
        (dict(num_classes=2, out_channels=1, threshold=0.3, loss_decode=BCE), 1),
        (dict(num_classes=1, threshold=0.7, loss_decode=BCE, align_corners=True), 3),
        (dict(num_classes=3, align_corners=True), 4),
    ],
    ids=['one logit, grey', 'one class', 'corners, four channels'],
)
def test_labels_are_mmsegs(tmp_path, head, channels):
    """Of one logit, with aligned corners, of grey and of four-channel images."""
    settings = segmentor_config()
    settings['decode_head'].update(head)
    settings['backbone']['in_channels'] = channels
    scale = dict(mean=[120.0] * channels, std=[60.0] * channels) if channels < 4 else {}
    settings['data_preprocessor'] = dict(type='SegDataPreProcessor', bgr_to_rgb=True, **scale)
    model = randomise(build_model(settings))
    images = torch.randint(256, (1, *SHAPE, channels), dtype=torch.uint8)
    read = images[0].flip(-1) if channels == 3 else images[0]
    data = {'inputs': [read.permute(2, 0, 1)]}
    threshold = head.get('threshold')
    with torch.inference_mode():
        normalised = model.data_preprocessor(dict(data, data_samples=None), False)['inputs']
        logits = model(normalised, None, mode='tensor')
        middle = torch.tensor(((threshold or 0.5) + 0.5) / 2).logit()
        model.decode_head.conv_seg.bias -= logits.flatten(2).median(2).values[0] - middle
    model.labels_only = False  # mmseg's own prediction
    expected = model.test_step(data)[0].pred_sem_seg.data.numpy()
    assert len(np.unique(expected)) > 1
    options = dict(shape=SHAPE, with_preprocessing=True)
    export = export_model(model, tmp_path / 'a.onnx', output='labels', **options)
    labels = plain_onnx(tmp_path / 'a.onnx', images)
    assert labels.shape == expected.shape and np.issubdtype(labels.dtype, np.integer)
    assert (labels == expected).mean() >= 0.999
    assert export.metadata['output'].get('threshold') == threshold
    assert export.metadata['input']['channels'] == channels
    assert export.metadata['input']['channel_order'] == ('RGB' if channels == 3 else None)


def test_the_threshold_is_recorded_and_checked(tmp_path):
    settings = segmentor_config()
    settings['decode_head'].update(num_classes=1, threshold=0.3, loss_decode=BCE)
    model = randomise(build_model(settings))
    export = export_model(model, tmp_path / 'a.pt2', class_names=['bg', 'fg'], **TORCH)
    assert export.metadata['output'] == {'name': 'logits', 'channels': 1, 'threshold': 0.3}
    logits = torch.tensor([-2.0, -0.9, -0.7, 2.0]).view(1, 1, 2, 2)  # 0.3 is at -0.85
    moved = torch.tensor([-2.0, -0.8, -0.7, 2.0]).view(1, 1, 2, 2)
    assert checking._compare(moved, logits, export.metadata).equal_labels == 0.75
    with pytest.raises(SegformerPlusPlusError, match='3 class_names given, the model has 1'):
        export_model(model, tmp_path / 'b.pt2', class_names=['a', 'b', 'c'], **TORCH)
