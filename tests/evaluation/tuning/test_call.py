"""What the Python call takes for the same search, and the config that it writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation.fidelity import open_fidelity
from segformer_plusplus.evaluation.tuning import Budget, Point, TuneResult, tune
from segformer_plusplus.evaluation.tuning.writing import write_config

TOOLS = Path(__file__).resolve().parents[3] / 'tools'


def test_a_config_with_proportional_attention_is_tested(large_scenes, tmp_path):
    """tools/test.py finds what was measured, which is not what it would be without."""
    config, checkpoint = large_scenes
    kv = dict(type='BipartiteSoftMatching2d', stride=2, ratio=0.7)
    stage = dict(kv=kv, proportional_attention=True)
    setting = [stage, stage, {}, {}]
    fidelity = open_fidelity(config, checkpoint, progress=False)
    values = fidelity.measure(setting)
    plain = fidelity.measure([dict(kv=kv)] * 2 + [{}, {}])
    assert plain['changed'] != values['changed']
    winner = Point(1, setting, 0.1, 1.5)
    result = TuneResult(
        Budget(max_drop=1.0), 'mIoU', values, (512, 1024), 'a', 'b', 1, 0, [winner],
        winner=winner,
    )  # fmt: skip
    tuned, metrics = tmp_path / 'tuned.py', tmp_path / 'metrics.json'
    write_config(tuned, config, Config.fromfile(str(config)), result)
    assert 'proportional_attention=True' in tuned.read_text()
    command = [TOOLS / 'test.py', tuned, checkpoint, '--metrics-json', metrics,
               '--work-dir', tmp_path / 'work']  # fmt: skip
    tested = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    found = json.loads(metrics.read_text())['mIoU']
    assert found == pytest.approx(values['mIoU'], abs=0.006)


@pytest.mark.parametrize('labels', [True, False])
def test_images_that_have_changed_are_refused(labels, large_scenes, tmp_path):
    """Under the same names: the drops that are known are those of other images."""
    data = shutil.copytree(large_scenes[0].parent / 'data', tmp_path / 'data')
    settings = dict(
        max_drop=100.0, trials=1, images=1, out=tmp_path / 'out',
        cfg_options={'test_dataloader.dataset.data_root': str(data)} if labels else None,
        folder=None if labels else data / 'leftImg8bit' / 'val',
    )  # fmt: skip
    tune(*large_scenes, **settings)
    tune(*large_scenes, **settings)
    picture = next((data / 'leftImg8bit' / 'val').rglob('*.png'))
    os.utime(picture, (1, 1))
    with pytest.raises(SegformerPlusPlusError, match='with another state of the images; name'):
        tune(*large_scenes, **settings)


def test_the_study_of_another_version_is_refused(large_scenes, tmp_path, monkeypatch):
    settings = dict(max_drop=100.0, trials=1, images=1, out=tmp_path / 'out')
    tune(*large_scenes, **settings)
    monkeypatch.setattr('segformer_plusplus.evaluation.tuning.run.__version__', '99')
    with pytest.raises(SegformerPlusPlusError, match='another version of this package .*not 99'):
        tune(*large_scenes, **settings)
