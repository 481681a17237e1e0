"""segformer-plusplus benchmark on a tiny model: what it measures, writes and refuses."""

import json
import threading
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from export.export_models import randomise
from inference.tiny import build_model
from PIL import Image

from segformer_plusplus.cli.benchmark import Conditions, main, read_variants
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark import comparison
from segformer_plusplus.evaluation.benchmark.comparison import Comparison, Options, Setting
from segformer_plusplus.evaluation.benchmark.contenders import OpenMMLabModel
from segformer_plusplus.evaluation.benchmark.costs import GraphedModel
from segformer_plusplus.evaluation.timing import Load
from segformer_plusplus.export import export_model
from segformer_plusplus.inference import open_model
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.patching import graphs

CONFIG = """
custom_imports = dict(imports=['segformer_plusplus'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoderPlusPlus',
    data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(
        type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
        num_layers=(1, 1, 1, 1), token_merging='hq', drop_path_rate=0.1,
        init_cfg=dict(type='Pretrained', checkpoint='nowhere.pth')),
    decode_head=dict(
        type='SegformerHeadPlusPlus', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
        channels=16, num_classes=19, norm_cfg=dict(type='SyncBN'), align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
"""
STAGES = ['backbone', 'head', 'labels', 'noisy labels']
LINEAR = ['--cfg-options', 'model.decode_head.type=SegformerLinearHead']


@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / 'tiny.py').write_text(CONFIG)
    return tmp_path / 'tiny.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """Config and weights, and in their folder the model under HQ as files: hq.onnx and more."""
    pytest.importorskip('onnxscript')
    pytest.importorskip('openvino')
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'tiny.py').write_text(CONFIG)
    model = randomise(build_model(load_config(folder / 'tiny.py').model))
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    files = {
        'hq.onnx': dict(format='onnx'),
        'raw.pt2': dict(format='torch-export', output='labels', with_preprocessing=True),
        'two.pt2': dict(format='torch-export', batch_size=2),
        'any.pt2': dict(
            format='torch-export', token_merging='2x2', dynamic_batch=True, dynamic_size=True
        ),
    }
    for name, options in files.items():
        shape = (128, 192) if name == 'any.pt2' else (64, 96)
        export_model(model, folder / name, shape=shape, **options)
    return folder / 'tiny.py', folder / 'weights.pth'


@pytest.fixture
def no_child(monkeypatch):
    """The memory of a file, which takes a process of its own, has a test of its own."""
    monkeypatch.setattr(comparison, 'file_memory', lambda *_: 37 * 2**20)


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def measured(config: Path, *argv: object, code: int = 0) -> dict:
    """The JSON file of a run of the tool."""
    result = config.parent / 'result.json'
    argv = [config, *argv, '--json', result, '--warmup', 1]
    argv += [] if '--rounds' in argv else ['--rounds', 2]
    assert main([str(argument) for argument in argv]) == code
    return json.loads(result.read_text())


def checked(run: dict) -> dict[str, tuple]:
    """Of every file, what it was compared with, and the share of equal labels."""
    return {
        name: (about.get('compared_with'), about.get('equal_labels'))
        for name, about in run['files'].items()
    }


def refused(capfd, *argv: object) -> str:
    """The one line of an error that the tool must end with."""
    capfd.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in captured.err, captured.err
    return lines[0]


def names(run: dict) -> list[str]:
    return [record['name'] for record in run['results']]


def test_presets_with_a_checkpoint(config, tmp_path):
    model = build_model(load_config(config).model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    argv = ['--token-merging', 'none', '2x2', '--shape', '64x96', '--rounds', 3]
    content = measured(config, *argv, '--checkpoint', tmp_path / 'weights.pth', '--threads', 1)
    (run,) = content['runs']
    assert content['results'] == run['results']  # of one run, where they stood before sweeps
    none, merged = run['results']
    assert names(run) == ['none', '2x2']
    assert none['speed_up'] == 1 and merged['speed_up'] > 0
    assert none['parameters'] == merged['parameters']
    assert merged['gflops'] < none['gflops']
    assert len(none['seconds']) == 3 and none['peak_memory_bytes'] > 0
    assert none['quartiles_seconds'][0] <= none['median_seconds'] <= none['quartiles_seconds'][1]
    assert run['shape'] == [64, 96] and run['complete']
    assert {'torch', 'mmseg', 'tomesd'} <= set(content['environment']['versions'])


def test_configs_in_half_precision(config, tmp_path, capfd):
    wider = CONFIG.replace('embed_dims=8', 'embed_dims=16').replace(
        '[8, 16, 40, 64]', '[16, 32, 80, 128]'
    )
    (tmp_path / 'wide.py').write_text(wider)
    argv = [tmp_path / 'wide.py', '--shape', '32x64', '--dtype', 'bfloat16', '--backbone-only']
    content = measured(config, *argv)
    assert names(content['runs'][0]) == ['tiny', 'wide']
    table = capfd.readouterr().out
    assert 'tiny' in table and 'wide' in table and 'random weights' in table


def test_images_of_four_channels(config, tmp_path, capfd):
    pytest.importorskip('transformers')
    four = ['model.backbone.in_channels=4', 'model.decode_head.align_corners=True']
    argv = ['--token-merging', 'none', '--shape', '64x64', '--rounds', 1, '--against', 'mmseg']
    content = measured(config, *argv, '--cfg-options', *four)
    assert names(content['runs'][0]) == ['mmseg', 'none']
    (tmp_path / 'four.py').write_text(CONFIG.replace("'hq',", "'hq', in_channels=4,"))
    assert 'models of [3, 4] channels' in refused(capfd, config, tmp_path / 'four.py')


def test_every_peer_in_stages(config, tmp_path, capfd):
    pytest.importorskip('transformers')
    pytest.importorskip('openvino')
    argv = ['--token-merging', 'none', 'hq', '2x2', '--shape', '64x96', '--stages', '--peak']
    argv += ['--against', 'openvino,mmseg', 'transformers', 'openvino-mmseg', 'tomesd']
    argv += ['--plot', tmp_path / 'a.png']
    content = measured(config, *argv, *LINEAR)
    (run,) = content['runs']
    peers = ['openvino', 'mmseg', 'transformers', 'openvino-mmseg']
    order = [*peers, 'none', 'hq', 'hq (tomesd)', '2x2']
    assert names(run) == order
    errors = run['relative_error_of_logits']
    assert set(errors) == {*peers, 'hq (tomesd)'}
    assert all(0 <= error < 1e-5 for error in errors.values())
    best = max(run['matrix_products_gflops_per_second'].values())
    for record in run['results']:
        assert list(record['stages']) == STAGES
        assert all(seconds > 0 for seconds in record['stages'].values())
        rate = record['gflops'] / record['median_seconds']
        assert record['gflops_per_second'] == pytest.approx(rate)
        assert record['share_of_matrix_products'] == pytest.approx(rate / best)
        assert ('peak_memory_bytes' in record) == (not record['name'].startswith('openvino'))
    records = {record['name']: record for record in run['results']}
    assert records['mmseg']['gflops'] > records['none']['gflops']
    # on a CPU ours repeats the rows at the borders of what it works on at a time
    assert records['openvino']['gflops'] == pytest.approx(records['none']['gflops'], rel=0.1)
    assert set(run['details']) == {'openvino', 'openvino-mmseg', 'transformers'}
    assert content['environment']['versions']['openvino'].startswith('openvino 20')
    assert 'transformers: logits equal to ours' in capfd.readouterr().out
    assert Image.open(tmp_path / 'a.png').width > 500


def test_threads_are_swept_as_well():
    settings = Conditions([(64, 32), (8, 8)], [3], [1, 2]).settings({})
    shapes = [(64, 32), (8, 8)] * 2
    assert settings == [Setting(*each) for each in zip(shapes, [3] * 4, [1, 1, 2, 2], strict=True)]


def test_every_combination_of_settings(config, tmp_path, capfd):
    argv = ['--token-merging', 'none', 'hq', '--shape', '64x64', '64x96', '--batch-size', 1, 2]
    content = measured(config, *argv, '--threads', 1, '--plot', tmp_path / 'a.svg')
    settings = [(run['shape'], run['batch_size']) for run in content['runs']]
    assert settings == [([64, 64], 1), ([64, 96], 1), ([64, 64], 2), ([64, 96], 2)]
    assert 'results' not in content
    for run in content['runs']:
        assert run['complete'] and names(run) == ['none', 'hq']
        record = run['results'][0]
        per_image = record['images_per_second'] * record['median_seconds']
        assert per_image == pytest.approx(run['batch_size'])
    out = capfd.readouterr().out
    assert out.count('hq is faster than none') == 2
    assert 'inference, 2 x 3 x 64 x 96, 1 thread, float32 on cpu' in out
    assert (tmp_path / 'a.svg').is_file()


def test_compiled_beside_eager(config):
    argv = ['--token-merging', 'none', 'hq', '--against', 'mmseg', 'tomesd', '--shape', '192x256']
    argv += ['--compile', '--compile-backend', 'eager', '--stages']
    (run,) = measured(config, *argv)['runs']
    eager = ['mmseg', 'none', 'hq', 'hq (tomesd)']
    assert names(run) == [name + suffix for name in eager for suffix in ('', ', compiled')]
    assert set(run['compiled']) == set(eager)
    for record in run['compiled'].values():
        assert record['equal_labels'] >= 0.999 and record['seconds'] > 0
    records = {record['name']: record for record in run['results']}
    assert records['none, compiled']['gflops'] == records['none']['gflops']
    assert list(records['none, compiled']['stages']) == STAGES


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_training_steps(config, capfd, dtype):
    pytest.importorskip('transformers')
    argv = ['--token-merging', 'none', 'hq', '--against', 'mmseg', 'transformers', 'tomesd']
    argv += ['--training', '--stages', '--shape', '64x64', '--batch-size', 2]
    content = measured(config, *argv, '--dtype', dtype, *LINEAR)
    for run in content['runs']:
        assert names(run) == ['mmseg', 'transformers', 'none', 'hq', 'hq (tomesd)']
        errors = run['relative_error_of_training_step']
        assert set(errors) == {'mmseg', 'transformers', 'hq (tomesd)'}
        assert all(error['loss'] < 1e-2 for error in errors.values())
        for record in run['results']:
            assert list(record['stages']) == ['forward', 'backward', 'step']
            weights = 4 * record['parameters']
            assert record['peak_memory_bytes'] > weights  # at least the gradients
    assert 'training step, 2 x 3 x 64 x 64' in capfd.readouterr().out


def test_blocks_compiled_beside_eager(config, capfd):
    argv = ['--token-merging', 'none', 'hq', '--against', 'mmseg', '--shape', '64x96']
    argv += ['--compile-blocks', '--compile-backend', 'eager']
    (run,) = measured(config, *argv)['runs']
    order = ['mmseg', 'none', 'none, blocks compiled', 'hq', 'hq, blocks compiled']
    assert names(run) == order
    assert set(run['blocks_compiled']) == {'none', 'hq'}
    assert all(each['equal_labels'] > 0.999 for each in run['blocks_compiled'].values())
    assert 'hq, blocks compiled: in' in capfd.readouterr().out


@pytest.fixture
def as_on_gpu(monkeypatch):
    """Times on the CPU what is for a GPU; a graph is a call of what it recorded."""

    def record(run, tensors, memory):
        inputs = [each.clone() for each in tensors]
        outputs = run(inputs)

        def replay():
            for output, each in zip(outputs, run(inputs), strict=True):
                output.copy_(each)

        return graphs.Recording(replay, inputs, outputs, [])

    monkeypatch.setattr(graphs, 'record', record)
    monkeypatch.setattr(Options, '__post_init__', lambda self: None)
    monkeypatch.setattr(comparison, 'count_kernels', lambda call: call() is None)


def test_graphs_beside_eager_and_compiled(config, as_on_gpu):
    more = dict(compile=True, compile_backend='eager', against=('mmseg',), stages=True)
    options = Options(graph=True, rounds=2, **more)
    variants = read_variants([str(config)], ['none', 'hq'], None)
    run = {}
    Comparison(variants, options).run(Setting((64, 96), 1, 1), run)
    order = [f'{n}{s}' for n in ('mmseg', 'none', 'hq') for s in ('', ', graph', ', compiled')]
    assert names(run) == order
    for record in run['results']:
        graph = record['name'].endswith('graph')
        assert ('stages' in record, 'peak_memory_bytes' in record) == (not graph, not graph)
    gflops = {record['name']: record['gflops'] for record in run['results']}
    assert gflops['hq, graph'] == gflops['hq'] < gflops['none, graph']


def test_a_graph_gives_what_the_model_gives(config, as_on_gpu):
    module = build_model(load_config(str(config)).model)
    images = [torch.randn(1, 3, 64, 96) for _ in range(2)]
    eager = OpenMMLabModel(module)
    graph = GraphedModel(eager, images[0], False, 'hq')
    with torch.inference_mode():
        assert all(torch.equal(graph.predict(each), eager.predict(each)) for each in images)


def test_a_row_that_cannot_be_recorded_is_left_out(config, as_on_gpu, monkeypatch, capfd):
    def record(run, tensors, memory):
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(graphs, 'record', record)
    run = {}
    variants = read_variants([str(config)], ['none'], None)
    Comparison(variants, Options(graph=True, rounds=1)).run(Setting((64, 96), 1, 1), run)
    assert names(run) == ['none'] and run['complete']
    assert 'none: no CUDA graph: operation not permitted' in run['without_graph']['none']


def test_models_of_others_are_not_patched(tmp_path):
    """Two configs of mmseg that have the same model stand for what they say."""
    text = CONFIG.replace("token_merging='hq', ", '')
    for ours, theirs in (
        ('MixVisionTransformerPlusPlus', 'mmseg.MixVisionTransformer'),
        ('EncoderDecoderPlusPlus', 'EncoderDecoder'),
    ):
        text = text.replace(ours, theirs)
    for name in ('a.py', 'b.py'):
        (tmp_path / name).write_text(text)
    variants = read_variants([str(tmp_path / 'a.py'), str(tmp_path / 'b.py')], None, None)
    first, second = Comparison(variants, Options())._modules.values()
    kinds = [{type(each) for each in model.modules()} for model in (first, second)]
    assert kinds[0] == kinds[1] and first is not second


def test_what_cannot_be_recorded_is_one_line(config, monkeypatch):
    def record(run, tensors, memory):
        raise RuntimeError('operation not permitted when stream is capturing\nlong story')

    monkeypatch.setattr(graphs, 'record', record)
    eager = OpenMMLabModel(build_model(load_config(str(config)).model))
    with pytest.raises(SegformerPlusPlusError, match='hq: no CUDA graph: operation') as caught:
        GraphedModel(eager, torch.randn(1, 3, 64, 96), False, 'hq')
    assert 'long story' not in str(caught.value)


def test_presets_of_one_config_share_their_weights(config):
    variants = read_variants([str(config)], ['none', 'hq', 'downsampling'], None)
    built = Comparison(variants, Options(against=('mmseg',)))
    none, hq, small = built._modules.values()
    assert all(one is other for one, other in zip(none.parameters(), hq.parameters(), strict=True))
    assert small.backbone.token_merging.downsampling and not hq.backbone.token_merging.downsampling
    assert hq.backbone.token_merging.stages[0].kv and not none.backbone.token_merging.stages[0].kv
    assert built._unmerged.backbone.token_merging == none.backbone.token_merging


@pytest.mark.parametrize('error', [KeyboardInterrupt(), torch.OutOfMemoryError('CUDA')])
def test_an_interruption_or_too_little_memory_loses_no_run(config, monkeypatch, capfd, error):
    counted = []

    def count(call):
        counted.append(call)
        if len(counted) > 2:
            raise error
        return 1

    monkeypatch.setattr(comparison, 'count_flops', count)
    argv = ['--token-merging', 'none', '2x2', '--shape', '64x64', '64x96', '96x96']
    interrupted = isinstance(error, KeyboardInterrupt)
    first, second = measured(config, *argv, code=130 if interrupted else 2)['runs']
    assert first['complete'] and 'gflops' in first['results'][1]
    assert 'complete' not in second and names(second) == ['none', '2x2']
    assert len(second['results'][0]['seconds']) == 2 and 'gflops' not in second['results'][0]
    said = capfd.readouterr()
    assert 'interrupted' in said.out if interrupted else 'error: none: out of memory' in said.err


def test_presets_of_a_file(config, tmp_path):
    (tmp_path / 'mine.py').write_text(
        "presets = {'a': [{}] * 4, 'b': [dict(q='NeighborMerging2d')] * 4}"
    )
    variants = read_variants([str(config)], ['none', str(tmp_path / 'mine.py')], None)
    assert list(variants) == ['none', 'a', 'b']
    assert variants['b'].model.backbone.token_merging[0]['q'] == 'NeighborMerging2d'


def test_an_interruption_between_rounds_keeps_those_before(config, monkeypatch):
    predict, calls = OpenMMLabModel.predict, []

    def interrupted(self, images):
        calls.append(self)
        if len(calls) == 6:  # a warmup round and one round of two models, and one more
            raise KeyboardInterrupt
        return predict(self, images)

    monkeypatch.setattr(OpenMMLabModel, 'predict', interrupted)
    argv = ['--token-merging', 'none', '2x2', '--shape', '64x64']
    (run,) = measured(config, *argv, code=130)['runs']
    assert [len(record['seconds']) for record in run['results']] == [2, 1]


def test_a_peer_that_cannot_be_compared(config, tmp_path, capfd):
    pytest.importorskip('transformers')
    message = refused(capfd, config, '--against', 'transformers')
    assert "decode_head.type='SegformerHeadPlusPlus'" in message and LINEAR[1] in message
    message = refused(capfd, config, '--against', 'tomesd', '--token-merging', 'none', '2x2')
    assert 'none of none, 2x2 merges' in message
    (tmp_path / 'mmseg.py').write_text(
        CONFIG.replace("'EncoderDecoderPlusPlus'", "'EncoderDecoder'")
    )
    message = refused(capfd, tmp_path / 'mmseg.py', '--against', 'mmseg')
    assert '--against needs a model of EncoderDecoderPlusPlus' in message


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--training', '--compile'], '--training and --compile exclude each other'),
        (['--training', '--backbone-only'], '--training and --backbone-only exclude'),
        (['--training', '--against', 'openvino'], 'openvino: it does not train'),
        (['--training', '--dtype', 'float16'], 'float16 needs a scaled loss'),
        (['--against', 'openvino', '--dtype', 'bfloat16'], 'openvino works with --device cpu'),
        (['--training', '--compile-blocks'], '--training and --compile-blocks exclude'),
        (['--graph'], '--graph: CUDA graphs need --device cuda'),
        (['--training', '--graph'], '--training and --graph exclude each other'),
        (['--plot', 'a.doc'], "a.doc: a plot cannot be written as 'doc'"),
        (['--token-merging', 'nope'], "'nope'"),
        (['--checkpoint', 'absent.pth'], 'absent.pth'),
        (['--shape', '8x8'], 'image of 8x8 is too small'),
        (['--shape', '12'], '12'),
        (['--shape', '0x4'], '0x4'),
        (['--rounds', '0'], '--rounds is 0'),
        (['--threads', '0'], '0'),
        (['--threads', '1', '99999'], '--threads 99999: give at most 1024'),
        (['--compile', '--compile-backend', 'nope'], "Invalid backend: 'nope'"),
        (['--json', '/dev/null/x.json'], '/dev/null/x.json cannot be written: /dev/null is no'),
        (['--against', 'mmseg,timm'], "'timm' is no peer"),
    ],
)
def test_refuses(config, capfd, argv, message):
    assert message in refused(capfd, config, *argv)


@pytest.mark.parametrize('argv', [(), ('--token-merging', 'hq')])
def test_refuses_a_config_without_a_backbone(tmp_path, capfd, argv):
    (tmp_path / 'plain.py').write_text('a = 1')
    assert 'plain.py has no model.backbone' in refused(capfd, tmp_path / 'plain.py', *argv)


def test_refuses_names_that_clash(config, capfd):
    assert 'several' in refused(capfd, config, config, '--token-merging', 'hq')
    assert 'twice' in refused(capfd, config, config)


def test_files_beside_presets(trained, no_child, capfd, tmp_path):
    config, weights = trained
    files = [config.with_name('hq.onnx'), config.with_name('raw.pt2')]
    argv = [*files, '--token-merging', 'none', 'hq', '--checkpoint', weights, '--stages']
    argv += ['--plot', tmp_path / 'a.png', '--threads', 2]
    (run,) = measured(config, *argv)['runs']
    rows = ['hq.onnx, onnxruntime', 'hq.onnx, openvino', 'raw.pt2']
    assert names(run) == ['none', 'hq', *rows] and run['shape'] == [64, 96]
    assert set(run['files']) == set(rows)
    for name in rows[:2]:
        other, share = checked(run)[name]
        assert other == 'hq' and share >= 0.999
    assert checked(run)['raw.pt2'] == (None, None)
    for record in run['results']:
        is_file = record['name'] in rows
        assert ('gflops' in record, 'peak_memory_bytes' in record) == (not is_file, not is_file)
        assert ('stages' in record) != is_file
        if is_file:
            assert record['process_bytes'] == 37 * 2**20
    size = files[0].stat().st_size / 1e6
    assert run['results'][2]['megabytes'] == run['results'][3]['megabytes'] == size
    said = ' '.join(capfd.readouterr().out.split())
    assert 'hq.onnx, openvino: fp32 in openvino; ' in said and '% of the labels as hq' in said
    assert 'raw.pt2: fp32 in torch; labels not compared: no row has' in said


def test_files_of_other_weights_are_not_compared(trained, no_child):
    """A model with random weights says nothing of a file; with those of another, it says so."""
    config, _ = trained
    argv = [config, config.with_name('hq.onnx')]
    assert set(checked(*measured(*argv)['runs']).values()) == {(None, None)}
    model = randomise(build_model(load_config(config).model), seed=2)
    torch.save(dict(state_dict=model.state_dict()), config.with_name('other.pth'))
    (run,) = measured(*argv, '--checkpoint', config.with_name('other.pth'))['runs']
    assert all(name == 'tiny' and share < 0.9 for name, share in checked(run).values())


@pytest.mark.parametrize(
    ('file', 'setting'),
    [('two.pt2', ([64, 96], 2)), ('any.pt2', ([128, 192], 1))],
)
def test_images_are_those_of_the_file(trained, no_child, capfd, file, setting):
    path = trained[0].with_name(file)
    (run,) = measured(path)['runs']
    assert names(run) == [file] and (run['shape'], run['batch_size']) == setting
    assert f'weights from {path}'[:30] in capfd.readouterr().out.replace('\n', '')


def test_a_dynamic_file_takes_several_sizes(trained, no_child):
    argv = ['--shape', '128x128', '192x256', '--batch-size', 1, 3]
    assert len(measured(trained[0].with_name('any.pt2'), *argv)['runs']) == 4


def test_several_requests_in_flight(trained, no_child, monkeypatch):
    """Every row, on as many threads in all; nothing is lost, and labels stay those of the row."""
    config, weights = trained
    alone, under_load, threads = {}, {}, set()
    work = Load._one

    def spy(self, index):
        work(self, index)
        threads.add(torch.get_num_threads())

    predict = OpenMMLabModel.predict

    def seen(self, images):
        labels = predict(self, images)
        main = threading.current_thread() is threading.main_thread()
        (alone if main else under_load).setdefault(id(self), []).append(labels)
        return labels

    monkeypatch.setattr(Load, '_one', spy)
    monkeypatch.setattr(OpenMMLabModel, 'predict', seen)
    argv = ['--token-merging', 'none', 'weighted', config.with_name('hq.onnx'), '--threads', 2]
    argv += ['--checkpoint', weights, '--requests', 4, '--rounds', 2]
    (run,) = measured(config, *argv)['runs']
    assert names(run) == ['none', 'weighted', 'hq.onnx, onnxruntime', 'hq.onnx, openvino']
    for record in run['results']:
        load = record['load']
        assert load['requests'] == 4 and len(load['seconds']) == 2 * 4 * Load.calls
        assert min(load['seconds']) <= load['p50_seconds'] <= load['p99_seconds']
        assert load['p99_seconds'] <= max(load['seconds'])
        assert load['images_per_second'] > 0
    assert threads == {1} and torch.get_num_threads() == 2
    assert set(alone) == set(under_load)
    for row, several in under_load.items():
        assert all(torch.equal(each, alone[row][0]) for each in several)


FILES = [
    (['hq.onnx', '--shape', '64x64'], '--shape 64x64: hq.onnx takes 64x96'),
    (['hq.onnx', '--batch-size', '2'], '--batch-size 2: hq.onnx takes 1'),
    (['two.pt2', '--batch-size', '2', '1'], '--batch-size 1: two.pt2 takes 2'),
    (['any.pt2', '--shape', '128x100'], 'takes multiples of 64 from 128 on'),
    (['tiny.py', 'hq.onnx', '--shape', '64x96', '32x32'], '--shape 32x32: hq.onnx takes 64x96'),
    (['hq.onnx', 'two.pt2'], '--batch-size 1: two.pt2 takes 2'),
    (['hq.onnx', 'hq.onnx'], "'hq.onnx' is given twice"),
    (['hq.onnx', '--token-merging', 'hq'], 'nor with files alone'),
    (['hq.onnx', '--checkpoint', 'weights.pth'], '--checkpoint: hq.onnx: a file runs as a whole'),
    (['hq.onnx', '--against', 'mmseg'], '--against: hq.onnx: a file runs as a whole'),
    (['hq.onnx', '--stages'], '--stages: hq.onnx: a file runs as a whole'),
    (['tiny.py', 'hq.onnx', '--training'], '--training: hq.onnx: a file runs as a whole'),
    (['tiny.py', 'hq.onnx', '--backbone-only'], '--backbone-only: hq.onnx: a file runs'),
    (['gone.onnx'], 'exported model not found: gone.onnx'),
    (['tiny.py', '--requests', '0'], '--requests 0: give at least 1'),
    (['tiny.py', '--requests', '2', '--training'], '--requests and --training exclude'),
    (['tiny.py', '--requests', '2', '--compile'], '--requests and --compile exclude'),
    (['tiny.py', '--requests', '2', '--against', 'openvino'], '--requests works with'),
]


@pytest.mark.parametrize(('argv', 'message'), FILES)
def test_refuses_of_files(trained, capfd, monkeypatch, argv, message):
    monkeypatch.chdir(trained[0].parent)
    assert message in refused(capfd, *argv)


def test_poses_in_a_file(pose, no_child, tmp_path):
    path = tmp_path / 'pose.pt2'
    export_model(open_model(*pose, device='cpu'), path, format='torch-export')
    (run,) = measured(path, '--rounds', 1)['runs']
    assert names(run) == ['pose.pt2'] and run['shape'] == [64, 48]
