"""What runs, what is gone on with, what runs again: with tools that do no work."""

import json
import re
from pathlib import Path

import pytest

import segformer_plusplus
from tools.paper_tables import TABLES, exit_code, state, weights

from .fakes import Call, write_checkpoint

HQ = 'segformer_mit-b5_hq_1xb8-160k_ade20k-640x640'


@pytest.fixture(autouse=True)
def quick_plot(monkeypatch):
    """Drawing takes longer than all else here; the tool's test looks at real pictures."""
    name = 'tools.paper_tables.report.draw_points'
    monkeypatch.setattr(name, lambda stream, *_, **__: stream.write(b'a picture'))


@pytest.fixture
def call(tmp_path):
    return Call(tmp_path)


@pytest.fixture
def real(tmp_path, monkeypatch):
    """A call on published data that are all there, with weights for every row."""
    monkeypatch.setattr('tools.paper_tables.plan.find_fault', lambda *_, **__: None)
    monkeypatch.setattr('tools.paper_tables.plan.signature', lambda *_, **__: 'same')
    call = Call(tmp_path, synthetic=False)
    for table in TABLES.values():
        for row in table.rows:
            write_checkpoint(call.settings.checkpoints / weights.file_names(table, row)[0], row)
    return call


@pytest.mark.parametrize('name', list(TABLES))
def test_a_table_runs_once(call, name):
    rows = TABLES[name].rows
    trained = ('none',) if name == 'cityscapes-inference' else rows
    steps = ['benchmark', 'data']
    for row in rows:
        steps += [f'train {row}'] if row in trained else []
        steps += [f'test {row}']
    assert call(name) == steps
    assert call(name) == []
    assert (call.settings.out / f'{name}.png').read_bytes() == b'a picture'


def test_tables_of_the_same_config_share_data_and_training(call):
    call('cityscapes-inference', rows=['none'])
    assert call('cityscapes-training', rows=['none']) == ['benchmark', 'test none']


def test_rows_of_earlier_calls_stay_in_the_report(call):
    call('ade20k', rows=['none'])
    assert call('ade20k', rows=['hq']) == ['train hq', 'test hq']
    assert [row['strategy'] for row in call.json('ade20k')['rows']] == ['none', 'hq']


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
    call.change_config(HQ, "model['backbone']['drop_path_rate'] = 0.0")
    assert call('ade20k', rows=['none', 'hq']) == ['benchmark', 'train hq', 'test hq']


def test_more_iterations_train_again_but_are_not_timed_again(call):
    call('jbd', rows=['none'])
    call.with_options(iterations=40)
    assert call('jbd', rows=['none']) == ['train none', 'test none']


@pytest.mark.parametrize('option', [dict(rounds=9), dict(batch_size=3), dict(dtype='bfloat16')])
def test_other_conditions_are_timed_again(call, option):
    call('jbd', rows=['none'])
    call.with_options(**option)
    assert call('jbd', rows=['none']) == ['benchmark']


def test_other_code_measures_everything_again(call, monkeypatch):
    call('jbd', rows=['none'])
    monkeypatch.setattr(state, 'hash_sources', lambda: 'other')
    assert call('jbd', rows=['none']) == ['benchmark', 'train none', 'test none']


@pytest.mark.parametrize(
    ('name', 'counts'),
    [
        ('mit/attention.py', True),
        ('token_merging/plans.py', True),
        ('training/runner.py', True),
        ('cli/test.py', True),
        ('inference/opening.py', True),
        ('inference/labels.py', True),
        ('evaluation/timing.py', True),
        ('errors.py', True),
        ('demo/page.py', False),
        ('cli/demo.py', False),
        ('inference/drawing.py', False),
        ('evaluation/tuning/run.py', False),
    ],
)
def test_what_a_fingerprint_is_of(name, counts):
    """A word that is mended in the page makes no trained model void."""
    assert (Path(segformer_plusplus.__file__).parent / name).is_file()
    assert state._measures(name) == counts


def test_other_weights_are_tested_again(real):
    assert real('jbd') == ['benchmark', 'test none', 'test hq', 'test fast', 'test 2x2']
    assert real('jbd') == []
    write_checkpoint(
        real.settings.checkpoints / 'td-hm_mit-b5_fast_1xb16-210e_jbd-640x480.pth', 'x'
    )
    assert real('jbd') == ['test fast']


def test_a_damaged_state_is_measured_again(call):
    call('jbd', rows=['none'])
    (call.settings.out / 'rows/jbd-none.json').write_text('{"status": "do')
    assert call('jbd', rows=['none']) == ['test none']


def test_weights_that_were_trained_and_lost_are_trained_again(call):
    call('jbd', rows=['none'])
    for path in call.settings.out.glob('train/*/iter_*.pth'):
        path.unlink()
    assert call('jbd', rows=['none']) == []  # nothing has changed that it was measured with
    (call.settings.out / 'rows/jbd-none.json').unlink()
    assert call('jbd', rows=['none']) == ['train none', 'test none']


def test_a_row_that_fails_does_not_stop_the_others(call):
    call.tools.fails = lambda step: 'loss is nan' if 'fast' in step.line.split()[2] else None
    reports = call.reports('jbd')
    assert exit_code(reports) == 1
    assert call.tools.ran[-2:] == ['train 2x2', 'test 2x2']
    fast = next(line for line in call.markdown('jbd').splitlines() if line.startswith('| fast'))
    assert fast.startswith('| fast | - | 94.58 | - | 89.87 | 2.00 | 1.25 | 7.0 | 34.6 |')
    assert 'fast PCK@0.1, fast PCK@0.05: train: loss is nan' in call.markdown('jbd')
    assert call.store.read('rows/jbd-fast.json')['status'] == 'failed'
    call.tools.fails = lambda step: None
    assert call('jbd') == ['train fast', 'test fast']
    assert exit_code(call.reports('jbd')) == 0


def test_a_training_that_stopped_early_is_not_tested(call, monkeypatch):
    monkeypatch.setattr(call.tools, 'length_of', lambda step: '1')
    assert call('ade20k', rows=['none']) == ['benchmark', 'data', 'train none']
    assert 'none mIoU: train: training ended before its end' in call.markdown('ade20k')


def test_a_training_that_fails_is_not_repeated_for_every_row(call):
    call.tools.fails = lambda step: 'no' if step.kind == 'train' else None
    assert call('cityscapes-inference') == ['benchmark', 'data', 'train none']
    assert len(re.findall('train: no', call.markdown('cityscapes-inference'))) == 1


def test_a_benchmark_that_fails_leaves_the_accuracies(call):
    call.tools.fails = lambda step: 'out of memory' if step.kind == 'benchmark' else None
    (report,) = call.reports('ade20k', rows=['none'])
    assert exit_code([report]) == 1
    assert report.measured('none') == {'miou': 40.0}
    assert '- none speed-up (training step), none memory GB: benchmark: out of memory' in (
        call.markdown('ade20k')
    )


@pytest.mark.parametrize('metrics', [{}, {'PCK@0.1': None, 'PCK@0.05': 0.5}])
def test_a_metric_that_is_missing_or_not_finite(call, metrics):
    call.tools.metrics = metrics
    (report,) = call.reports('jbd', rows=['none'])
    assert 'pck_0.1' not in report.measured('none')
    assert 'holds no result' in report.not_measured('none')['pck_0.1']


def test_an_interrupted_benchmark_is_no_benchmark(call, monkeypatch):
    def interrupted(step):
        step.result.parent.mkdir(parents=True, exist_ok=True)
        step.result.write_text(json.dumps({'runs': [{'results': [], 'threads': 1}]}))

    monkeypatch.setattr(call.tools, '_benchmark', interrupted, raising=False)
    (report,) = call.reports('jbd', rows=['none'])
    assert 'interrupted' in report.not_measured('none')['speed_up']


# Published data ----------------------------------------------------------------------------------


def test_what_is_missing_is_said_with_the_command(tmp_path):
    call = Call(tmp_path, synthetic=False)
    (report,) = call.reports('cityscapes-inference', rows=['hq'])
    assert call.tools.ran == ['benchmark']
    assert exit_code([report]) == 1
    text = call.markdown('cityscapes-inference')
    assert f'wget -P {tmp_path}/checkpoints https://' in text
    assert f'{tmp_path}/checkpoints/segformer_mit-b5_none_1xb4-160k_' in text
    assert '--rows hq --train' in text
    assert f'Cityscapes is not at {tmp_path}/data/cityscapes' in text


def test_published_weights_are_found_under_their_own_name(real):
    folder = real.settings.checkpoints
    name = 'segformer_mit-b5_none_1xb4-160k_cityscapes-1024x1024.pth'
    address = TABLES['cityscapes-inference'].published['none']
    (folder / name).rename(folder / address.rpartition('/')[2])
    assert real('cityscapes-inference') == ['benchmark'] + [
        f'test {row}' for row in TABLES['cityscapes-inference'].rows
    ]


def test_training_on_published_data_saves_often_and_takes_local_weights(real, monkeypatch):
    commands = []
    monkeypatch.setattr(real.tools, 'fails', lambda step: commands.append(step.command))
    for path in real.settings.checkpoints.iterdir():
        path.unlink()
    write_checkpoint(real.settings.checkpoints / 'mit_b5_20220624-658746d9.pth')
    real.with_options(train=True)
    assert real('ade20k', rows=['hq']) == ['benchmark', 'train hq', 'test hq']
    train = commands[1]
    assert 'default_hooks.checkpoint.interval=2000' in train and '--resume' in train
    assert any(word.startswith('model.backbone.init_cfg.checkpoint=/') for word in train)
    assert not any('max_iters' in word for word in train)


def test_differences_to_the_paper(real):
    real.tools.metrics['mIoU'] = 82.384
    (report,) = real.reports('cityscapes-inference')
    assert report.difference('none') == {'miou': -0.01, 'speed_up': 0.0}
    assert report.difference('hq') == {'miou': 0.07, 'speed_up': -0.11}
    assert '| hq | 82.38 | 82.31 | +0.07 | 1.50 | 1.61 | -0.11 |' in (
        real.markdown('cityscapes-inference')
    )


def test_memory_of_a_cpu_has_no_difference_to_that_of_a_gpu(real):
    (report,) = real.reports('cityscapes-training', rows=['none', 'hq'])
    assert report.measured('hq')['memory_gb'] == 8.0
    assert 'memory_gb' not in report.difference('hq') and 'speed_up' in report.difference('hq')
    assert 'no difference of memory' in real.markdown('cityscapes-training')


def test_an_accuracy_that_the_papers_table_lacks_stands_alone(real):
    (report,) = real.reports('coco', rows=['none'])
    assert exit_code([report]) == 0
    assert report.measured('none')['ap'] == 12.5
    assert set(report.difference('none')) == {'pck_0.1', 'pck_0.05', 'speed_up'}
    assert '| AP | speed-up' in real.markdown('coco')


def test_drawn_data_are_never_compared(call):
    call('ade20k')
    text = call.markdown('ade20k')
    assert 'Not comparable' in text and 'difference |' not in text
    assert text.count('no: other data and model') == 5
    content = call.json('ade20k')
    assert content['comparable'] is False
    assert all(row['difference'] == {} for row in content['rows'])


def test_the_report_says_where_it_was_measured(call):
    call('ade20k', rows=['none'])
    text = call.markdown('ade20k')
    for word in ('- device: ', 'float32', 'torch ', '- commit: ', 'random input 1 x 3 x 128 x 256'):
        assert word in text
    record = call.json('ade20k')['rows'][0]['accuracy_record']
    assert record['command'].startswith('python tools/test.py')
    assert set(record['fingerprint']) == {'config', 'checkpoint', 'data', 'sources', 'versions'}
