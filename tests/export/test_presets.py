"""Every preset in every format equals the model in PyTorch, on images drawn anew."""

import json

import onnx
import pytest
import torch
from export_models import (
    RUNTIMES,
    build_segmentor,
    check_close,
    plain_onnx,
    plain_openvino,
    plain_torch,
)

from segformer_plusplus.export import FORMATS, check_export, export_model, read_metadata
from segformer_plusplus.export.formats import openvino_core

PRESETS = ['none', 'hq', 'fast', '2x2', 'weighted-fast', 'downsampling']
SHAPE = (64, 96)


@pytest.fixture(scope='module', params=PRESETS)
def exported(request, tmp_path_factory):
    """A preset, its model, and its ONNX file for any number of images."""
    model = build_segmentor(token_merging=request.param)
    path = tmp_path_factory.mktemp('export') / f'{request.param}.onnx'
    return request.param, model, export_model(model, path, shape=SHAPE, dynamic_batch=True)


def test_onnx(exported):
    _, model, export = exported
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, *SHAPE)
        check_close(plain_onnx(export.path, images), model, images)
    check_close(plain_openvino(export.path, images), model, images)
    assert [check.runtime for check in export.checks] == RUNTIMES
    for check in export.checks:
        assert check.relative_error < 1e-4 and check.equal_labels >= 0.999
        assert {shape[0] for shape in check.shapes} == {1, 3}


def test_onnx_is_fit_for_runtimes(exported):
    """No sums that ONNX Runtime gets wrong in threads, no operator that TensorRT refuses."""
    _, _, export = exported
    for node in onnx.load(export.path).graph.node:
        settings = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == 'ScatterND':
            assert settings.get('reduction', b'none') == b'none'
        if node.op_type == 'TopK':
            assert settings['sorted'] == 1


def test_openvino_files(exported, tmp_path):
    preset, model, export = exported
    target = tmp_path / f'{preset}.xml'
    graph = openvino_core().read_model(export.path)
    FORMATS['openvino'].write(graph, target, dict(export.metadata, format='openvino'))
    images = torch.randn(2, 3, *SHAPE)
    check_close(plain_openvino(target, images), model, images)
    (check,) = check_export(target, model)
    assert check.runtime == 'openvino' and check.relative_error < 1e-4


@pytest.mark.parametrize('preset', ['hq', 'weighted-fast'])
def test_torch_export(preset, tmp_path):
    """The other presets are traced on the way to ONNX."""
    model, target = build_segmentor(token_merging=preset), tmp_path / f'{preset}.pt2'
    export = export_model(model, target, format='torch-export', shape=SHAPE, dynamic_batch=True)
    images = torch.randn(3, 3, *SHAPE)
    check_close(plain_torch(target, images), model, images)
    assert [check.runtime for check in export.checks] == ['torch']
    assert torch.export.load(target).example_inputs is None  # no image of the trace


def test_metadata(exported):
    preset, _, export = exported
    model = onnx.load(export.path)
    (entry,) = (each.value for each in model.metadata_props if each.key == 'segformer_plusplus')
    metadata = json.loads(entry)
    assert metadata == export.metadata == read_metadata(export.path)
    assert metadata['token_merging']['preset'] == preset
    assert metadata['shape'] == list(SHAPE) and metadata['opset'] == 18
    assert [each.version for each in model.opset_import if not each.domain] == [18]
    assert metadata['versions']['torch'] == torch.__version__.partition('+')[0]
    (images,) = model.graph.input
    assert images.type.tensor_type.shape.dim[0].dim_param == 'batch'


def test_size_alone_in_proportion(tmp_path):
    matching = dict(type='BipartiteSoftMatching1d', ratio=0.3)
    model = build_segmentor(token_merging=[dict(kv=matching, proportional_attention=True)] * 4)
    export = export_model(model, tmp_path / 'sizes.onnx', shape=SHAPE, dynamic_batch=True)
    assert all(check.relative_error < 1e-4 for check in export.checks)
    assert export.metadata['token_merging']['stages'][0]['proportional_attention'] is True
