"""Commands take a model by its name, in the place of CONFIG CHECKPOINT."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('transformers')

from inference.saved import contents, save_model
from inference.test_pretrained import photo

from segformer_plusplus.cli import (
    benchmark,
    export,
    fidelity,
    info,
    merge_map,
    models,
    predict,
    tune,
)
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.tuning import run as run_of_tune
from segformer_plusplus.inference import Segmenter

NAME = 'someone/model'


@pytest.fixture
def named(hub, tmp_path):
    """The folder of what the Hub has."""
    save_model(tmp_path / 'saved', dict(size=dict(height=64, width=64)))
    hub.add(NAME, contents(tmp_path / 'saved'))
    return tmp_path / 'saved'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'images' / 'street.png'
    path.parent.mkdir()
    photo(128, 192).save(path)
    return path


def run(main, *words):
    return main([str(word) for word in words])


def error_of(capfd, main, *words):
    capfd.readouterr()
    assert run(main, *words) == 2
    (line,) = [each for each in capfd.readouterr().err.splitlines() if each.startswith('error: ')]
    return line


@pytest.mark.parametrize('by_folder', [False, True])
@pytest.mark.parametrize('options', [(), ('--token-merging', 'none')])
def test_predict(named, image, tmp_path, capfd, by_folder, options):
    model = named if by_folder else NAME
    out = tmp_path / 'out'
    assert run(predict.main, model, image, '--out', out, '--device', 'cpu', *options) == 0
    merging = options[1] if options else None
    segmenter = Segmenter.from_pretrained(named, token_merging=merging, device='cpu')
    expected = segmenter(image).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(np.asarray(Image.open(out / 'masks/street.png')), expected)
    said = capfd.readouterr().err
    assert f'images resized to a shorter side of 64, token merging: {merging or "weighted"}' in said


def test_predict_with_a_checkpoint_by_name(named, segmentation, image, tmp_path, capfd):
    assert 'does not fit' in error_of(
        capfd, predict.main, segmentation[0], NAME, image, '--out', tmp_path / 'out'
    )


@pytest.mark.parametrize('words', [(NAME,), ()])
def test_predict_without_inputs(named, segmentation, tmp_path, capfd, words):
    words = words or segmentation
    line = error_of(capfd, predict.main, *words, '--out', tmp_path / 'out')
    assert 'no INPUT: name images, folders or videos' in line or 'FILES' in line


def test_a_config_without_weights(segmentation, tmp_path, capfd):
    for main in (fidelity.main, tune.main, export.main):
        options = {tune.main: ['--max-drop', 1], export.main: ['--out', tmp_path / 'x.onnx']}
        line = error_of(capfd, main, segmentation[0], *options.get(main, []))
        assert 'needs a CHECKPOINT with its weights; the names that' in line


def test_merge_map(named, image, tmp_path, capfd):
    out = tmp_path / 'map.png'
    assert run(merge_map.main, NAME, image, '--out', out, '--device', 'cpu') == 0
    assert Image.open(out).size[0] > 500
    shown = capfd.readouterr().out
    assert 'keys and values' in shown
    line = error_of(capfd, merge_map.main, NAME, image, image, '--out', out)
    assert 'expected one IMAGE, got 2' in line


def test_fidelity(named, image, tmp_path, capfd):
    line = error_of(capfd, fidelity.main, NAME, '--no-progress')
    assert 'brings no test set; name a folder of images (--images)' in line
    path = tmp_path / 'fidelity.json'
    options = ('--images', image.parent, '--rounds', 1, '--no-progress', '--device', 'cpu')
    assert run(fidelity.main, NAME, *options, '--token-merging', '2x2', '--json', path) == 0
    rows = json.loads(path.read_text())['rows']
    assert [row['name'] for row in rows] == ['none', '2x2']


def test_benchmark(named, tmp_path, capfd):
    path = tmp_path / 'benchmark.json'
    options = ('--shape', '64x64', '--rounds', 1, '--warmup', 0, '--against', 'transformers,mmseg')
    assert run(benchmark.main, NAME, *options, '--json', path) == 0
    shown = capfd.readouterr().out
    assert f'weights from {NAME}@' in shown
    assert 'transformers: logits equal to ours' in shown


def test_benchmark_beside_a_model_without_weights(named, segmentation, capfd):
    options = ('--shape', '64x64', '--rounds', 1, '--warmup', 0)
    assert run(benchmark.main, NAME, segmentation[0], *options) == 0
    assert f'weights from {NAME}@' in (shown := ' '.join(capfd.readouterr().out.split()))
    assert ', random ones; 1 rounds' in shown


def test_export(named, tmp_path, capfd):
    pytest.importorskip('onnxscript')
    out = tmp_path / 'model.onnx'
    assert run(export.main, NAME, '--out', out, '--token-merging', 'none') == 0
    assert '1x3x64x64' in capfd.readouterr().out  # the side of its images
    import onnx

    text = str(onnx.load(out).metadata_props)
    assert 'road' in text and 'house' in text


def test_tune(named, image, tmp_path):
    pytest.importorskip('optuna')
    for number in range(3):
        photo(64, 64).save(image.parent / f'{number}.png')
    out = tmp_path / 'tuned'
    options = ('--max-drop', 100, '--trials', 2, '--rounds', 1, '--device', 'cpu', '--out', out)
    assert run(tune.main, NAME, '--folder', image.parent, *options) in (0, 1)
    found = json.loads((out / 'front.json').read_text())
    assert found['source']['config'] == NAME


def test_tune_hands_an_address_on_as_it_is(monkeypatch, image, tmp_path, capfd):
    pytest.importorskip('optuna')

    def refuse(config, checkpoint, **_):
        raise SegformerPlusPlusError(f'opened with {checkpoint}')

    monkeypatch.setattr(run_of_tune, 'open_fidelity', refuse)
    name = 'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024'
    options = ('--folder', image.parent, '--max-drop', 1, '--out', tmp_path / 'tuned')
    line = error_of(capfd, tune.main, name, *options)
    assert line.startswith('error: opened with https://')


def test_info(named, capfd):
    assert run(info.main, NAME) == 0
    shown = ' '.join(capfd.readouterr().out.replace('│', ' ').split())
    for words in (f'{NAME}@', 'token merging weighted', '5 classes road, car, sky, tree, house',
                  'resized to fit 256 x 64', 'mean 123.675, 116.28, 103.53',
                  'keys and values: matching, 80 % merged, 3x3 cells'):  # fmt: skip
        assert words in shown


def test_models(capfd):
    assert run(models.main) == 0
    shown = capfd.readouterr().out
    assert 'nvidia/segformer-b5-finetuned-ade-640-640' in shown
    assert 'segformer_mit-b5_8xb1-160k_cityscapes-1024x1024' in shown and '82.25' in shown
