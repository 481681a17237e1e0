"""What runs, what is gone on with, what runs again, what is reported, with tools that do no wor."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import segformer_plusplus
from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.token_merging import PRESETS
from tools.paper_tables import plan
from tools.paper_tables.plan import SOURCES, link_weights, read_config, weight_names
from tools.paper_tables.steps import read_json
from tools.paper_tables.tables import PAPER, TABLES

from .fakes import ROOT, Call, write_checkpoint

HQ = 'segformer_mit-b5_hq_1xb8-160k_ade20k-640x640'


@pytest.fixture(autouse=True)
def quick_plot(monkeypatch):
    """Drawing takes longer than all else here; the tool's test looks at real pictures."""
    monkeypatch.setattr(
        'tools.paper_tables.report.draw_panels',
        lambda path, panels, title: path.write_text(f'{title}, {len(panels)} panels'),
    )


@pytest.fixture
def call(tmp_path):
    return Call(tmp_path)


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A call on published data that are all there, with weights for every row."""
    monkeypatch.setattr(plan, 'find_fault', lambda *_: None)
    monkeypatch.setattr(plan, 'signature', lambda *_: 'same')
    call = Call(tmp_path, data='real', iters=None)
    for name in (*PAPER, 'camvid'):
        for row in TABLES[name].rows:
            write_checkpoint(call.checkpoints / weight_names(TABLES[name], row)[0], row)
    return call


@pytest.mark.parametrize('name', [name for name, table in TABLES.items() if table.paper])
def test_a_table_runs_once(call, name):
    table = TABLES[name]
    steps = ['benchmark', 'data']
    for row in table.rows:
        steps += [f'train {row}'] if row == table.weights_row(row) else []
        steps += [f'test {row}']
    assert call(name) == [*steps, *(['picture'] if table.picture else [])]
    panels = 2 * len({'AP', *table.metrics} - {'AP'})  # the paper's table has no AP
    plot = (call.out / f'{name}.png').read_text()
    assert plot.startswith(f'{table.title}\nnot comparable') and f' {panels} panels' in plot
    assert call(name) == []


def test_a_demo_is_the_inference_table_on_its_own_data(call):
    assert call('demo-seg', rows=['none'])[-1] == 'test none'  # no picture of some rows
    others = [f'test {row}' for row in ('hq', 'fast', '2x2', 'downsampling')]
    assert call('demo-seg') == [*others, 'picture']
    data = next(c for c in call.tools.commands if 'synthetic_scenes' in c[0])
    assert data[1:] == (
        str(call.settings.data_root / 'demo_cityscapes'), '--layout', 'cityscapes', '--train', '80',
        '--val', '8', '--size', '1024x2048', '--workers', '2',
    )  # fmt: skip
    picture, tests = call.tools.commands[-1], call.out / 'test'
    assert picture[1:3] == ('comparison', str(call.out / 'comparison.png'))
    assert f'hq={tests}/demo-seg-hq/predictions' in picture
    test = next(c for c in call.tools.commands if c[0] == 'tools/test.py')
    assert f'{tests}/demo-seg-none/predictions' in test
    text = call.markdown('demo-seg')
    assert '| preset | mIoU | change | speed-up | ms / image | paper mIoU | paper speed-up |' in (
        text
    )
    assert '| hq | 40.00 | +0.00 | 1.50 | 1000 | 82.31 | 1.61 |' in text
    assert 'on 80 synthetic street scenes of 1024x2048' in text and 'median of 3 rounds' in text


def test_tables_of_the_same_config_share_data_and_training(call):
    call('cityscapes-inference', rows=['none'])
    assert call('cityscapes-training', rows=['none']) == ['benchmark', 'test none']


def test_rows_of_earlier_calls_stay_in_the_report(call):
    call('ade20k', rows=['none'])
    assert call('ade20k', rows=['hq']) == ['train hq', 'test hq']
    assert [row['name'] for row in call.json('ade20k')['rows']] == ['none', 'hq']


@pytest.mark.parametrize('step', range(1, 8))
def test_killed_in_any_step_it_goes_on_there(call, step):
    tables, rows = ('cityscapes-inference', 'jbd'), ['none', 'hq']
    whole = [
        'benchmark', 'data', 'train none', 'test none', 'test hq',
        'benchmark', 'data', 'train none', 'test none', 'train hq', 'test hq',
    ]  # fmt: skip
    call.tools.killed_at = step
    with pytest.raises(KeyboardInterrupt):
        call(*tables, rows=rows)
    done = call.tools.ran[:-1]
    call.tools.killed_at = None
    assert done + call(*tables, rows=rows) == whole


def test_only_rows_whose_config_changed_run_again(call):
    call('ade20k', rows=['none', 'hq'])
    # no part of the model: the times stay
    call.change_config(HQ, "optim_wrapper = dict(type='OptimWrapper', clip_grad=dict(max_norm=1))")
    assert call('ade20k', rows=['none', 'hq']) == ['train hq', 'test hq']
    assert 'test-ade20k-hq: changed: config, training config' in call.said
    call.change_config(HQ, "model['backbone']['drop_path_rate'] = 0.0")
    assert call('ade20k', rows=['none', 'hq']) == ['benchmark', 'train hq', 'test hq']


@pytest.mark.parametrize(
    'option, steps',
    [
        (dict(iters=40), ['train none', 'test none']),
        (dict(rounds=9), ['benchmark']),
        (dict(batch_size=3), ['benchmark']),
        (dict(dtype='bfloat16'), ['benchmark']),
    ],
)
def test_other_options_measure_again_what_they_change(call, option, steps):
    call('jbd', rows=['none'])
    call.with_options(**option)
    assert call('jbd', rows=['none']) == steps


@pytest.mark.parametrize(
    'kind, steps',
    [
        ('benchmark', ['benchmark']),
        ('train', ['train none', 'test none']),
        ('test', ['test none']),
    ],
)
def test_other_code_measures_again_what_it_takes_part_in(call, monkeypatch, kind, steps):
    call('jbd', rows=['none'])
    before = plan.hash_sources
    monkeypatch.setattr(plan, 'hash_sources', lambda k: 'other' if k == kind else before(k))
    assert call('jbd', rows=['none']) == steps
    assert any('changed: ' in line and 'sources' in line for line in call.said)


PACKAGE = Path(segformer_plusplus.__file__).parent
NO_NUMBERS = (
    # errors, words and files; peers that are not asked for; what only reads a model that is built,
    # or opens one by its name
    'cli.guard cli.options compat errors export files inference.exported inference.labels '
    'inference.pretrained libraries moved patching '
    'evaluation.plots evaluation.results refusals safe_globals version'
).split()


@pytest.mark.parametrize('kind', list(SOURCES))
def test_fingerprints_cover_the_code_that_a_step_imports(kind):
    rooms = 'mit', 'segmentation', 'pose', 'token_merging'
    code = (
        f'import sys, segformer_plusplus.cli.{kind}\n'
        f'for room in {rooms}: __import__(f"segformer_plusplus.{{room}}")\n'
        'print(*(m for m in sys.modules if m.startswith("segformer_plusplus.")))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    loaded = [name.partition('.')[2] for name in done.stdout.split()]
    assert len(loaded) > 20, done.stderr
    covered = [place.removesuffix('.py').replace('/', '.') for place in SOURCES[kind]]
    assert all((PACKAGE / place).exists() for place in SOURCES[kind])
    packages = {name.rpartition('.')[0] for name in [*loaded, *covered]}
    left = [
        name
        for name in loaded
        if name not in packages and not f'{name}.'.startswith(tuple(f'{c}.' for c in covered))
    ]
    harmless = tuple(f'{each}.' for each in NO_NUMBERS)
    assert [name for name in left if not f'{name}.'.startswith(harmless)] == []
    for page in ('demo', 'cli/demo.py', 'evaluation/tuning', 'export', 'patching'):
        assert not page.startswith(SOURCES[kind])


def test_other_weights_are_tested_again(real):
    assert real('jbd') == ['benchmark', 'test none', 'test hq', 'test fast', 'test 2x2']
    assert real('jbd') == []
    write_checkpoint(real.checkpoints / 'td-hm_mit-b5_fast_1xb16-210e_jbd-640x480.pth', 'x')
    assert real('jbd') == ['test fast']


def test_a_damaged_record_is_measured_again(call):
    call('jbd', rows=['none'])
    (call.out / 'steps/test-jbd-none.json').write_text('{"status": "do')
    assert call('jbd', rows=['none']) == ['test none']


def test_weights_that_were_trained_and_lost_are_trained_again(call):
    call('jbd', rows=['none'])
    for path in call.out.glob('train/*/iter_*.pth'):
        path.unlink()
    assert call('jbd', rows=['none']) == []  # nothing has changed that it was measured with
    (call.out / 'steps/test-jbd-none.json').unlink()
    assert call('jbd', rows=['none']) == ['train none', 'test none']


@pytest.mark.parametrize(
    'names, length, chosen',
    [
        (['iter_20', 'iter_100'], 100, 'iter_100.pth'),
        (['epoch_9', 'best_PCK@0.1_epoch_7'], 9, 'best_PCK@0.1_epoch_7.pth'),
        (['iter_20'], 100, None),
        (['iter_100*'], 100, None),  # cut short
    ],
)
def test_which_weights_are_tested(tmp_path, names, length, chosen):
    for name in names:
        path = tmp_path / f'{name.rstrip("*")}.pth'
        write_checkpoint(path)
        if name.endswith('*'):
            path.write_bytes(path.read_bytes()[:40])
    if chosen is None:
        with pytest.raises(SegformerPlusPlusError, match='training ended before its end'):
            link_weights(length, tmp_path / 'weights.pth')
        assert not (tmp_path / 'weights.pth').exists()
    else:
        assert link_weights(length, tmp_path / 'weights.pth') == {'checkpoint': chosen}
        assert (tmp_path / 'weights.pth').resolve().name == chosen


def test_a_row_that_fails_does_not_stop_the_others(call):
    call.tools.fails = lambda step: 'loss is nan' if 'fast' in step.line.split()[2] else None
    (report,) = call.reports('jbd')
    assert not report.is_complete
    assert call.tools.ran[-2:] == ['train 2x2', 'test 2x2']
    fast = next(line for line in call.markdown('jbd').splitlines() if line.startswith('| fast'))
    assert fast.startswith('| fast | - | 94.58 | - | 89.87 | 2.00 | 1.25 | 7.0 | 34.6 |')
    assert 'fast PCK@0.1, fast PCK@0.05: train: loss is nan' in call.markdown('jbd')
    call.tools.fails = lambda step: None
    assert call('jbd') == ['train fast', 'test fast']
    assert call.reports('jbd')[0].is_complete


def test_a_training_that_stopped_early_is_not_tested(call):
    call.tools.length = '1'
    assert call('ade20k', rows=['none']) == ['benchmark', 'data', 'train none']
    assert 'none mIoU: train: training ended before its end' in call.markdown('ade20k')


def test_a_training_that_fails_is_not_repeated_for_every_row(call):
    call.tools.fails = lambda step: 'no' if step.kind == 'train' else None
    assert call('cityscapes-inference') == ['benchmark', 'data', 'train none']
    assert len(re.findall('train: no', call.markdown('cityscapes-inference'))) == 1


@pytest.mark.parametrize('interrupted', [False, True])
def test_a_benchmark_that_fails_leaves_the_accuracies(call, interrupted):
    call.tools.complete = not interrupted
    if not interrupted:
        call.tools.fails = lambda step: 'out of memory' if step.kind == 'benchmark' else None
    (report,) = call.reports('ade20k', rows=['none'])
    assert not report.is_complete
    assert report.measured('none') == {'mIoU': 40.0}
    assert f'interrupted), see {call.out}' in report.missing or not interrupted
    reason = 'none speed-up (training step), none memory GB: benchmark: '
    assert reason + ('' if interrupted else 'out of memory') in call.markdown('ade20k')


@pytest.mark.parametrize('metrics', [{}, {'PCK@0.1': None, 'PCK@0.05': 0.5}])
def test_a_metric_that_is_missing_or_not_finite(call, metrics):
    call.tools.metrics = metrics
    (report,) = call.reports('jbd', rows=['none'])
    assert 'PCK@0.1' not in report.measured('none')
    assert 'holds no result' in report.not_measured('none')['PCK@0.1']


def test_a_config_that_cannot_be_read_is_a_problem_of_its_row(call):
    call.change_config(HQ, 'a = 1 / 0')
    assert call('ade20k', rows=['none', 'hq']) == ['data', 'train none', 'test none']
    assert 'hq mIoU' in call.markdown('ade20k') and 'cannot read config' in call.markdown('ade20k')


# Published data ----------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_the_command(tmp_path):
    call = Call(tmp_path, data='real', iters=None)
    (report,) = call.reports('cityscapes-inference', rows=['hq'])
    assert call.tools.ran == ['benchmark']
    assert not report.is_complete
    text = call.markdown('cityscapes-inference')
    assert f'wget -P {tmp_path}/checkpoints https://' in text
    assert f'{tmp_path}/checkpoints/segformer_mit-b5_none_1xb4-160k_' in text
    assert '--rows hq --train' in text
    assert f'Cityscapes is not at {tmp_path}/data/cityscapes' in text


def test_published_weights_are_found_under_their_own_name(real):
    folder = real.checkpoints
    name = 'segformer_mit-b5_none_1xb4-160k_cityscapes-1024x1024.pth'
    address = TABLES['cityscapes-inference'].published['none']
    (folder / name).rename(folder / address.rpartition('/')[2])
    assert real('cityscapes-inference') == ['benchmark'] + [
        f'test {row}' for row in TABLES['cityscapes-inference'].rows
    ]


@pytest.mark.parametrize(
    'name, trained, length, interval',
    [
        ('ade20k', 'hq', 160000, 2000),
        ('jbd', 'hq', 210, 1),
        ('camvid', 'none', 3000, 500),  # as its config says; it starts from random weights
    ],
)
def test_training_on_published_data_saves_often_and_takes_local_weights(
    real, name, trained, length, interval
):
    for path in real.checkpoints.iterdir():
        path.unlink()
    write_checkpoint(real.checkpoints / 'mit_b5_20220624-658746d9.pth')
    real.tools.length = str(length)
    real.with_options(train=True)
    assert real(name, rows=['hq']) == ['benchmark', f'train {trained}', 'test hq']
    train = real.tools.commands[1]
    assert f'default_hooks.checkpoint.interval={interval}' in train and '--resume' in train
    pretrained = any(word.startswith('model.backbone.init_cfg.checkpoint=/') for word in train)
    assert pretrained == (name != 'camvid')
    assert not any('max_iters' in word for word in train)


def test_data_and_weights_that_are_gone_leave_what_was_measured(real, monkeypatch):
    real('jbd', rows=['none'])
    (path,) = real.checkpoints.glob('*none*jbd*')
    content = path.read_bytes()
    path.unlink()
    assert real('jbd', rows=['none']) == []
    path.write_bytes(content)
    monkeypatch.setattr(plan, 'signature', lambda *_: 'other')
    monkeypatch.setattr(plan, 'find_fault', lambda *_: 'gone')
    assert real('jbd', rows=['none']) == []
    monkeypatch.setattr(plan, 'find_fault', lambda *_: None)
    assert real('jbd', rows=['none']) == ['test none']
    assert 'test-jbd-none: changed: data' in real.said


def test_differences_to_the_paper(real):
    real.tools.metrics['mIoU'] = 82.384
    (report,) = real.reports('cityscapes-inference')
    assert report.difference('none') == {'mIoU': -0.01, 'speed_up': 0.0}
    assert report.difference('hq') == {'mIoU': 0.07, 'speed_up': -0.11}
    assert '| hq | 82.38 | 82.31 | +0.07 | 1.50 | 1.61 | -0.11 |' in (
        real.markdown('cityscapes-inference')
    )
    plot = (real.out / 'cityscapes-inference.png').read_text()
    assert plot.endswith('strategy, 1 panels')
    assert 'memory' not in real.markdown('cityscapes-inference')


def test_a_table_that_the_paper_lacks(real):
    (report,) = real.reports('camvid')
    assert real.tools.ran == ['benchmark', *(f'test {row}' for row in PRESETS)]
    assert report.is_complete
    text = real.markdown('camvid')
    assert '| preset | mIoU | change | speed-up | ms / image |\n' in text
    assert '| hq | 40.00 | +0.00 | 1.50 | 1000 |\n' in text
    assert '- data: CamVid\n- model: MiT-B0\n' in text and 'input 1 x 3 x 720 x 960' in text
    assert 'paper' not in text.lower() and real.json('camvid')['comparable'] is False
    plot = (real.out / 'camvid.png').read_text()
    assert plot == f'{TABLES["camvid"].title}, 1 panels'
    assert real('camvid') == []


def test_memory_of_a_cpu_has_no_difference_to_that_of_a_gpu(real):
    (report,) = real.reports('cityscapes-training', rows=['none', 'hq'])
    assert report.measured('hq')['memory_gb'] == 8.0
    assert 'memory_gb' not in report.difference('hq') and 'speed_up' in report.difference('hq')
    assert 'No difference of memory' in real.markdown('cityscapes-training')


def test_an_accuracy_that_the_papers_table_lacks_stands_alone(real):
    (report,) = real.reports('coco', rows=['none'])
    assert report.is_complete
    assert report.measured('none')['AP'] == 12.5
    assert set(report.difference('none')) == {'PCK@0.1', 'PCK@0.05', 'speed_up'}
    assert '| AP | speed-up' in real.markdown('coco')


def test_drawn_data_are_never_compared(call):
    call('ade20k')
    text = call.markdown('ade20k')
    assert 'Not comparable' in text and 'difference |' not in text
    assert text.count('| no |') == 5
    content = call.json('ade20k')
    assert content['comparable'] is False
    assert all(row['difference'] == {} for row in content['rows'])


def test_the_report_says_where_it_was_measured(call):
    call('ade20k', rows=['none'])
    text = call.markdown('ade20k')
    for word in ('- device: ', 'float32', 'torch ', '- commit: ', 'random input 1 x 3 x 128 x 256'):
        assert word in text
    record = read_json(call.out / 'steps/test-ade20k-none.json')
    assert record == call.json('ade20k')['records']['none']
    assert record['command'].startswith('python tools/test.py')
    assert set(record['fingerprint']) == {
        *('config', 'data', 'sources', 'versions'),
        *(f'training {part}' for part in ('config', 'data', 'sources', 'versions')),
    }


def test_options_are_read_as_the_tools_read_them(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text('a = dict(b=1, c=(1, 2))\nd = [dict(e=1)]')
    assert read_config(path, ['a.b=[32,64]', 'a.c=(96,128)', 'd.0.e=None']) == {
        'a': {'b': [32, 64], 'c': (96, 128)},
        'd': [{'e': None}],
    }
    with pytest.raises(SegformerPlusPlusError, match='cannot read config'):
        read_config(path, ['d.5.e=1'])


@pytest.mark.parametrize('content', ['a = (', 'a = 1 / 0', "_base_ = 'nowhere.py'", None])
def test_a_config_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / 'config.py').write_text(content)
    with pytest.raises(SegformerPlusPlusError, match='cannot read config'):
        read_config(tmp_path / 'config.py')
