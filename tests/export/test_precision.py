"""What a file of each precision holds, computes in, is checked for, and what is refused."""

import copy
import sys
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
from export_models import build_segmentor, plain_onnx, plain_openvino, plain_torch

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.errors import MissingDependencyError
from segformer_plusplus.export import check_export, export_model, formats, read_metadata
from segformer_plusplus.export.formats import FORMATS, OpenVinoFile, openvino_core
from segformer_plusplus.export.precision import LIMITS
from segformer_plusplus.export.quantising import split_images

onnx = pytest.importorskip('onnx')
pytest.importorskip('openvino')
pytest.importorskip('onnxscript')

SHAPE = (64, 96)
PLAIN = {'onnx': plain_onnx, 'openvino': plain_openvino, 'torch-export': plain_torch}
WEIGHTS = 4 * 5 + 4 + 3 + 9
"""Products with weights: five a block, patch embeddings, spatial reductions, and the head's."""

MERGING = {'bf16': '2x2'}
"""Which of so few tokens match is decided by rounding to bfloat16; others merge as the model."""

needs_nncf = pytest.mark.skipif(find_spec('nncf') is None, reason='nncf is not installed')


def draw(count, scale=1.0):
    return [scale * torch.randn(1, 3, *SHAPE) for _ in range(count)]


@pytest.fixture(scope='module')
def model():
    """Merges by matching, and is less torn between two labels than random weights are."""
    model = build_segmentor(token_merging='hq')
    with torch.no_grad():
        logits = model.decode_head(model.extract_feat(torch.cat(draw(4))))
        model.decode_head.conv_seg.bias[1:3] += torch.tensor([5.0, 8.0]) * logits.std()
    return model


@pytest.fixture(scope='module')
def export(model, tmp_path_factory):
    """Returns what exports the model, once in each format and precision."""
    done = {}

    def call(format, precision):
        if (format, precision) not in done:
            path = tmp_path_factory.mktemp(precision) / f'a{FORMATS[format].suffix}'
            images = draw(6) if precision == 'int8' else None
            options = dict(format=format, shape=SHAPE, calibration=images)
            options['token_merging'] = MERGING.get(precision)
            done[format, precision] = export_model(model, path, precision=precision, **options)
        return done[format, precision]

    return call


@pytest.mark.parametrize(
    ('format', 'precision'),
    [
        ('openvino', 'fp16'),
        ('openvino', 'bf16'),
        pytest.param('openvino', 'int8', marks=needs_nncf),
        ('onnx', 'fp16'),
        ('onnx', 'int8'),
        ('torch-export', 'fp16'),
        ('torch-export', 'bf16'),
    ],
)
def test_files_of_a_precision(model, export, format, precision):
    """float32 in and out, near PyTorch but not as near as float32, and it says what was seen."""
    if (format, precision) == ('openvino', 'bf16') and not formats.computes_bfloat16():
        pytest.skip('this processor has no bfloat16')
    made = export(format, precision)
    images = draw(1)[0]
    reference = copy.deepcopy(model)
    if precision in MERGING:
        reference.backbone.set_token_merging(MERGING[precision])
    with torch.inference_mode():
        expected = reference.decode_head(reference.extract_feat(images)).numpy()
    result = PLAIN[format](made.path, images)
    assert result.dtype == expected.dtype == 'float32'
    limits = LIMITS[precision]
    error = abs(result - expected).max() / abs(expected).max()
    assert 1e-5 < error < limits.relative_error
    assert (result.argmax(1) == expected.argmax(1)).mean() > limits.equal_labels
    metadata = read_metadata(made.path)
    assert metadata == made.metadata and metadata['precision'] == precision
    check, seen = metadata['check'], metadata['check']['seen']
    assert check['limits'] == dict(relative_error=limits[0], equal_labels=limits[1])
    assert [each['relative_error'] for each in seen] == [c.relative_error for c in made.checks]
    if precision == 'int8':
        assert check['images'] == 'kept back of the calibration'
        assert (metadata['calibration']['images'], metadata['calibration']['kept_back']) == (5, 1)
    else:
        assert check['images'] == 'random' and metadata['calibration'] is None


@needs_nncf
def test_int8_of_openvino_is_every_product_with_weights_and_nothing_else(export):
    graph = openvino_core().read_model(export('openvino', 'int8').path)
    kinds = [
        each.get_element_type().get_type_name()
        for each in graph.get_ops()
        if each.get_type_name() == 'Constant' and len(each.get_output_shape(0)) > 1
    ]
    assert kinds.count('i8') == WEIGHTS
    fed = [
        target.get_node().get_type_name()
        for each in graph.get_ops()
        if each.get_type_name() == 'FakeQuantize'
        for target in each.output(0).get_target_inputs()
    ]
    assert fed.count('MatMul') == 4 * 5 and fed.count('Convolution') == WEIGHTS - 4 * 5
    assert 'TopK' not in fed and 'GroupConvolution' not in fed and 'Softmax' not in fed


def test_int8_of_onnx_is_every_product_with_weights_and_nothing_else(export):
    model = onnx.load(export('onnx', 'int8').path)
    assert [(each.domain, each.version) for each in model.opset_import] == [('', 18)]
    graph = model.graph
    scaled = {each.output[0]: each for each in graph.node if each.op_type == 'DequantizeLinear'}
    products = [
        each.op_type
        for each in graph.node
        if each.op_type in ('MatMul', 'Gemm', 'Conv') and each.input[1] in scaled
    ]
    assert len(products) == WEIGHTS
    depthwise = [
        each for each in graph.node if any(a.name == 'group' and a.i > 1 for a in each.attribute)
    ]
    assert len(depthwise) == 4 and not any(each.input[1] in scaled for each in depthwise)


def test_half_precision_halves_the_weights(export):
    whole, half = (export('openvino', each).path.with_suffix('.bin') for each in ('fp32', 'fp16'))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    program = torch.export.load(export('torch-export', 'bf16').path)
    of_model = [v for k, v in program.state_dict.items() if 'data_preprocessor' not in k]
    assert {each.dtype for each in of_model if each.is_floating_point()} == {torch.bfloat16}
    kinds = [each.data_type for each in onnx.load(export('onnx', 'fp16').path).graph.initializer]
    assert kinds.count(onnx.TensorProto.FLOAT16) > WEIGHTS


class _Core:
    """Stands in for OpenVINO on some processor, and notes what a file is compiled with."""

    def __init__(self, capabilities):
        self.capabilities, self.settings = capabilities, None

    def get_property(self, device, name):
        assert (device, name) == ('CPU', 'OPTIMIZATION_CAPABILITIES')
        return self.capabilities

    def read_model(self, file):
        return file

    def compile_model(self, model, device, settings):
        self.settings = settings
        return self

    def create_infer_request(self):
        return None


@pytest.mark.parametrize(
    ('metadata', 'on_bf16', 'elsewhere'),
    [
        (None, 'f32', 'f32'),
        ('{}', 'f32', 'f32'),
        ('{"precision": "fp32"}', 'f32', 'f32'),
        ('{"precision": "fp16"}', 'f32', 'f32'),
        ('{"precision": "bf16"}', 'bf16', 'f32'),
        ('{"precision": "int8"}', 'bf16', 'f32'),
    ],
)
def test_a_file_runs_in_its_precision(monkeypatch, tmp_path, metadata, on_bf16, elsewhere):
    """One without metadata, or that is older than precisions, in float32."""
    for capabilities, hint in ((['FP32', 'BF16'], on_bf16), (['FP32', 'INT8'], elsewhere)):
        core = _Core(capabilities)
        monkeypatch.setattr(formats, 'openvino_core', lambda core=core: core)
        formats._openvino_runners(tmp_path / 'a.xml', lambda _: metadata, 1)
        assert core.settings['INFERENCE_PRECISION_HINT'] == hint


def test_a_bf16_file_that_runs_in_float32_is_said(monkeypatch, tmp_path):
    for capabilities in (['FP32', 'BF16'], ['FP32']):
        monkeypatch.setattr(formats, 'openvino_core', lambda c=capabilities: _Core(c))
        with patch.object(formats, 'print_log') as said:
            formats._openvino_runners(tmp_path / 'a.xml', lambda _: '{"precision": "bf16"}', 1)
        assert [each.args[0][:38] for each in said.call_args_list] == (
            [] if 'BF16' in capabilities else ['the file is bf16, which this processor']
        )


def test_bf16_is_refused_where_it_could_not_be_checked(tmp_path, model, monkeypatch):
    monkeypatch.setattr(formats, 'openvino_core', lambda: _Core(['FP32', 'INT8']))
    with pytest.raises(SegformerPlusPlusError, match='computes no bfloat16.*take fp16 or int8'):
        export_model(model, tmp_path / 'a.xml', format='openvino', shape=SHAPE, precision='bf16')
    assert not list(tmp_path.iterdir())


BAD = {
    'unknown': (dict(precision='fp8'), "'fp8' is unknown, use one of .'fp32'"),
    'onnx in bf16': (dict(format='onnx', precision='bf16'), "no bfloat16 .*fp16 or int8.*'openv"),
    'torch in int8': (
        dict(format='torch-export', precision='int8', calibration=draw(3)), "take .*'openvino' or"
    ),
    'no images': (dict(format='onnx', precision='int8'), 'give 10 to 50 of them'),
    'images for nothing': (dict(format='onnx', calibration=draw(3)), "'fp32' is not calibrated"),
    'half of them': (
        dict(format='onnx', precision='bf16', calibration=draw(3)), "'bf16' is not calibrated"
    ),
    'one': (dict(format='onnx', precision='int8', calibration=draw(1)), '1 image to calibrate'),
    'none': (dict(format='onnx', precision='int8', calibration=[]), '0 image to calibrate'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_precisions_write_nothing(tmp_path, model, case):
    settings, message = BAD[case]
    settings = dict(format='torch-export') | settings
    path = tmp_path / f'a{FORMATS[settings["format"]].suffix}'
    with pytest.raises(SegformerPlusPlusError, match=message):
        export_model(model, path, shape=SHAPE, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_model_in_float16_is_refused(tmp_path, precision):
    model = build_segmentor().half()
    with pytest.raises(SegformerPlusPlusError, match=r'float16.*float32 \(model.float\(\)\)'):
        options = dict(format='torch-export', shape=SHAPE, precision=precision)
        export_model(model, tmp_path / 'a.pt2', **options)


def test_int8_without_nncf_names_the_extra(tmp_path, model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nncf', None)
    options = dict(format='openvino', shape=SHAPE, precision='int8', calibration=draw(2))
    with pytest.raises(MissingDependencyError, match=r'nncf.*segformer-plusplus\[int8\]'):
        export_model(model, tmp_path / 'a.xml', **options)


@needs_nncf
def test_nncf_sends_nothing():
    from nncf.telemetry.wrapper import NNCFTelemetryStub, telemetry

    assert OpenVinoFile().check_precision('int8') is None
    assert isinstance(telemetry, NNCFTelemetryStub)


def test_an_int8_file_beyond_its_limits_is_refused(tmp_path, model):
    """Of images that are dark but for the one that is kept back, the ranges are far too narrow."""
    path = tmp_path / 'a.onnx'
    path.write_bytes(b'old')
    images = [*draw(4, scale=1e-3), *draw(1, scale=10.0)]
    with pytest.raises(SegformerPlusPlusError, match='differs from the model .*the images given'):
        export_model(model, path, shape=SHAPE, precision='int8', calibration=images)
    assert path.read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 1


def test_int8_is_checked_on_images_of_its_kind(model, export):
    path = export('onnx', 'int8').path
    with pytest.raises(SegformerPlusPlusError, match='a.onnx is int8, .*give images of the kind'):
        check_export(path, model)
    for check in check_export(path, model, images=draw(2)):
        assert check.seed is None and 1e-4 < check.relative_error < LIMITS['int8'].relative_error


@pytest.mark.parametrize(
    ('count', 'kept'), [(2, [1]), (3, [2]), (4, [3]), (5, [4]), (9, [4]), (13, [4, 9])]
)
def test_every_fifth_image_is_kept_back(count, kept):
    images = [torch.full((1, 3, 4, 6), float(number)) for number in range(count)]
    split = split_images(iter(images), torch.zeros(1, 3, 4, 6))
    assert [int(each[0, 0, 0, 0]) for each in split.kept] == kept
    used = [int(each[0, 0, 0, 0]) for each in split.used]
    assert used == [number for number in range(count) if number not in kept]


def test_batches_are_filled_with_the_last_image():
    images = [torch.full((1, 4, 6, 3), number, dtype=torch.uint8) for number in range(6)]
    split = split_images(images, torch.zeros(3, 4, 6, 3, dtype=torch.uint8))
    assert [each[:, 0, 0, 0].tolist() for each in split.used] == [[0, 1, 2], [3, 5, 5]]
    assert [each[:, 0, 0, 0].tolist() for each in split.kept] == [[4, 4, 4]]


@pytest.mark.parametrize(
    ('image', 'words'),
    [
        (torch.zeros(1, 3, 4, 5), r'float32 \(1, 3, 4, 5\)'),
        (torch.zeros(3, 4, 6), r'float32 \(3, 4, 6\)'),
        (torch.zeros(1, 3, 4, 6, dtype=torch.uint8), 'uint8'),
        (torch.full((1, 3, 4, 6), float('nan')), 'finite numbers'),
        ([[0.0]], 'is list'),
    ],
)
def test_an_image_that_does_not_fit_is_named(image, words):
    with pytest.raises(SegformerPlusPlusError, match=f'calibration image 1 .*{words}'):
        split_images([torch.zeros(1, 3, 4, 6), image], torch.zeros(1, 3, 4, 6))
