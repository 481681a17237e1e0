"""What a benchmark prints."""

from rich.console import Console

from segformer_plusplus.evaluation.benchmark.report import (
    break_even_lines,
    check_lines,
    result_table,
    run_title,
    stage_table,
)


def result(name, ms, **more):
    seconds = ms / 1e3
    return dict(
        name=name, median_seconds=seconds, quartiles_seconds=(0.9 * seconds, 1.2 * seconds),
        speed_up=1.0, parameters=3_700_000, gflops=12.34, peak_memory_bytes=2**20, **more,
    )  # fmt: skip


def run(size, times, **more):
    results = [result(name, ms) for name, ms in times.items()]
    return dict(shape=(size, 2 * size), batch_size=1, threads=2, results=results, **more)


def test_from_which_size_on_a_preset_pays():
    runs = [
        run(512, {'none': 10, 'a': 9, 'b': 9, 'c': 11, 'd': 11}),
        run(256, {'none': 10, 'a': 9, 'b': 11, 'c': 9, 'd': 11}),
        run(1024, {'none': 10, 'a': 9, 'b': 9, 'c': 9, 'd': 11}),
    ]
    lines = list(break_even_lines(runs, ['none', 'a', 'b', 'c', 'd', 'absent']))
    assert [line.partition(' is faster than ')[2] for line in lines] == [
        'none at all of these sizes, from 256x512',
        'none from 512x1024 on',
        'none from 1024x2048 on',
        'none at none of these sizes',
    ]
    assert lines[0].startswith('batch 1, 2 threads: a ')
    assert list(break_even_lines(runs[:1], ['none', 'a'])) == []


def test_break_even_of_compiled_models_is_among_themselves():
    times = {'none': 10, 'a': 11, 'none, compiled': 9, 'a, compiled': 8}
    lines = list(break_even_lines([run(64, times), run(96, times)], ['none', 'a']))
    assert 'a is faster than none at none' in lines[0]
    assert 'a, compiled is faster than none, compiled at all' in lines[1]


def test_tables_fit_into_80_columns(capsys):
    stages = dict(backbone=1.234, head=0.2, labels=0.01)
    more = dict(
        gflops_per_second=123.4, share_of_matrix_products=0.456, stages=stages,
        stages_quartiles={name: (0.9 * s, 1.1 * s) for name, s in stages.items()},
    )  # fmt: skip
    name = 'transformers, compiled'
    one = dict(run(1024, {}), results=[result(name, 2345.6, **more), result('openvino', 9, **more)])
    del one['results'][1]['peak_memory_bytes']
    console = Console(width=80)
    console.print(result_table(one, run_title(one, 'float32', 'cpu')).to_rich())
    console.print(stage_table(one).to_rich())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for cell in ('2346 (2111-2815)', '123 (46%)', '1234 (1111-1357)', 'openvino', ' - '):
        assert cell in text
    assert '1 x 3 x 1024 x 2048, 2 threads, float32 on cpu' in text


def test_checks():
    lines = list(
        check_lines(
            dict(
                relative_error_of_logits={'mmseg': 1.2e-6},
                relative_error_of_training_step={'mmseg': dict(loss=0.0, gradient=3e-5)},
                compiled={'none': dict(seconds=61.2, equal_labels=0.99987)},
                matrix_products_gflops_per_second={'mm': 93.4, 'conv1x1': 120.0},
            )
        )
    )
    assert lines == [
        'mmseg: logits equal to ours within 1e-06 of the largest one',
        'mmseg: training step equal to ours: loss within 0e+00, gradient within 3e-05',
        'none, compiled: in 61 s; 99.987% of the labels as in eager mode',
        'this machine multiplies matrices at 93 GFLOP/s by mm, 120 GFLOP/s by conv1x1',
    ]
