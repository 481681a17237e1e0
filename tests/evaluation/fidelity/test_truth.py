"""Which ground truth there is, and that a drop is one of the classes that it has."""

import shutil

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.fidelity import open_fidelity

from .reference import run_test

pytest.importorskip('mmseg')


@pytest.fixture
def opened(scenes):
    return open_fidelity(*scenes, device='cpu', progress=False)


def test_a_test_set_without_labels(scenes, opened, tmp_path, monkeypatch):
    cfg = Config.fromfile(str(scenes[0]))
    root = tmp_path / 'data'
    shutil.copytree(cfg.test_dataloader.dataset.data_root, root)
    options = {'test_dataloader.dataset.data_root': str(root)}
    paths = sorted(root.rglob('gtFine/val/*/*'))
    paths[0].unlink()
    with pytest.raises(SegformerPlusPlusError, match='1 of 3 label maps .* missing'):
        open_fidelity(*scenes, device='cpu', cfg_options=options)
    shutil.rmtree(root / 'gtFine')
    said = []
    monkeypatch.setattr(
        'segformer_plusplus.evaluation.fidelity.segmentation.print_log',
        lambda text, **_: said.append(text),
    )
    fidelity = open_fidelity(*scenes, device='cpu', cfg_options=options, progress=False)
    assert len(said) == 1 and 'accuracy is left out' in said[0]
    assert fidelity.measure('hq') == {'changed': opened.measure('hq')['changed']}


def copy_data(scenes, folder):
    root = folder / 'data'
    shutil.copytree(Config.fromfile(str(scenes[0])).test_dataloader.dataset.data_root, root)
    options = {'test_dataloader.dataset.data_root': str(root)}
    return sorted(root.rglob('gtFine/val/*/*_labelTrainIds.png')), options


def test_labels_that_all_say_ignore_are_none(scenes, opened, tmp_path, monkeypatch):
    """As those of the test images of Cityscapes."""
    paths, options = copy_data(scenes, tmp_path)
    for path in paths[:2]:
        Image.new('L', Image.open(path).size, 255).save(path)
    said = []
    monkeypatch.setattr(
        'segformer_plusplus.evaluation.fidelity.segmentation.print_log',
        lambda text, **_: said.append(text),
    )
    settings = dict(device='cpu', cfg_options=options, progress=False)
    assert open_fidelity(*scenes, **settings).has_truth and not said
    part = open_fidelity(*scenes, limit=2, **settings)
    assert said == ['no pixel of the 2 images is labelled: accuracy is left out']
    assert not part.has_truth and part.main_measure == 'changed'
    assert part.measure('none') == {'changed': 0}
    assert part.measure('hq') == {'changed': opened.subset([0, 1]).measure('hq')['changed']}
    with pytest.raises(SegformerPlusPlusError, match='no ground truth to average over'):
        open_fidelity(*scenes, limit=2, fine_classes=['pole'], **settings)


def test_labels_beyond_the_limit_may_be_missing(scenes, opened, tmp_path):
    paths, options = copy_data(scenes, tmp_path)
    paths[2].unlink()
    settings = dict(device='cpu', cfg_options=options, progress=False)
    values = open_fidelity(*scenes, limit=2, **settings).measure('hq')
    assert values['mIoU'] == opened.subset([0, 1]).measure('hq')['mIoU']
    with pytest.raises(SegformerPlusPlusError, match='1 of 3 label maps .* missing'):
        open_fidelity(*scenes, **settings)


def iou_of(samples):
    """Per class, by plain counting, and which classes the ground truth has."""
    found = np.stack([sample.pred_sem_seg.data[0].numpy() for sample in samples])
    truth = np.stack([sample.gt_sem_seg.data[0].numpy() for sample in samples])
    both = [((found == k) & (truth == k)).sum() for k in range(19)]
    either = [(((found == k) & (truth != 255)) | (truth == k)).sum() for k in range(19)]
    present = np.array([(truth == k).any() for k in range(19)])
    with np.errstate(invalid='ignore'):  # of a class that is neither there nor predicted
        return np.array(both) / np.array(either), present


@pytest.fixture
def fewer_classes(scenes, tmp_path):
    """The option that names the same images without labels of car and pole."""
    paths, option = copy_data(scenes, tmp_path)
    for path in paths:
        truth = np.array(Image.open(path))
        Image.fromarray(np.where(np.isin(truth, [5, 13]), np.uint8(255), truth)).save(path)
    return option


@pytest.mark.parametrize('strategy', ['hq', '2x2'])
def test_a_drop_is_one_of_the_classes_that_occur(scenes, fewer_classes, tmp_path, strategy):
    """A class without ground truth is in the mIoU where a pixel is taken for it, as 0."""
    (iou, present), (before, _) = (
        iou_of(run_test(*scenes, each, tmp_path, **fewer_classes)[1]) for each in (strategy, 'none')
    )
    assert present.sum() == 17
    fidelity = open_fidelity(*scenes, device='cpu', cfg_options=fewer_classes, progress=False)
    values = fidelity.measure(strategy)
    assert values['mIoU'] == pytest.approx(100 * np.nanmean(iou), abs=1e-4)
    fine = present & np.isin(np.arange(19), fidelity._fine())
    for measure, mask in [(None, present), ('mIoU_fine', fine)]:
        expected = 100 * (before[mask].mean() - iou[mask].mean())
        assert fidelity.drop(values, measure) == pytest.approx(expected, abs=1e-4)
    assert fidelity.drop(values, 'changed') == values['changed']


def test_one_stray_pixel_of_an_absent_class_is_no_drop(scenes, fewer_classes, monkeypatch):
    """It makes mIoU lower by a whole class."""
    opened = open_fidelity(*scenes, device='cpu', cfg_options=fewer_classes, progress=False)
    part = opened.subset([1])
    truth = part._source.data[1]['data_samples'].gt_sem_seg.data[0]
    labelled = (truth != 255).nonzero()[0]
    perfect = torch.where(truth == 255, 0, truth)
    stray = perfect.clone()
    stray[tuple(labelled)] = 5
    test_step, answers = opened.model.test_step, [perfect, stray]

    def answer(batch):
        (sample,) = test_step(batch)
        sample.pred_sem_seg.data = answers.pop(0)[None]
        return [sample]

    monkeypatch.setattr(opened.model, 'test_step', answer)
    values = part.measure('hq')
    assert part.baseline['mIoU'] == pytest.approx(100)
    assert '; 2 of the classes are not in the ground truth' in part.describe()
    assert values['mIoU'] < 96  # 1 of fewer than 20 classes is 0
    assert 0 < part.drop(values) < 1
