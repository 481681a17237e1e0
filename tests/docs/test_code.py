"""Every block of Python in docs/ runs, in the order of its page."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

from evaluation.fidelity.conftest import scenes  # noqa: F401
from hub import TOKEN
from inference.conftest import pose, segmentation  # noqa: F401
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from segformer_plusplus import TOKEN_MERGERS, MixVisionTransformerPlusPlus
from segformer_plusplus.inference.opening import without_init_cfg

DOCS = Path(__file__).resolve().parents[2] / 'docs'
ROOT = DOCS.parent
MMSEG = """
custom_imports = dict(imports=['segformer_plusplus'])
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder', data_preprocessor=dict(type='SegDataPreProcessor'),
    backbone=dict(type='MixVisionTransformer', embed_dims=8, num_heads=[1, 2, 5, 8],
                  num_layers=[1, 1, 1, 1]),
    decode_head=dict(
        type='SegformerHead', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3], channels=16,
        num_classes=19, align_corners=False, loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
"""


def blocks_of(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), flags=re.DOTALL)


def run(page: str, names: dict, skip: tuple[str, ...] = ()) -> dict:
    """All blocks of a page one after the other, but those with one of these words."""
    blocks = blocks_of(page)
    assert all(sum(word in block for block in blocks) == 1 for word in skip)
    for block in blocks:
        if not any(word in block for word in skip):
            exec(compile(block, page, 'exec'), names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng().integers(0, 256, (128, 160, 3), dtype=np.uint8)
    Image.fromarray(image).save('a.jpg')
    (tmp_path / 'images').mkdir()
    shutil.copy('a.jpg', 'images/b.jpg')
    (tmp_path / 'images/c.jpg').write_bytes(b'no image')
    return tmp_path


def tiny_transformers():
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_sizes=[8, 16, 40, 64], depths=[1] * 4, decoder_hidden_size=16)
    return transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(num_attention_heads=[1, 2, 5, 8], **sizes)
    )


def saved_transformers() -> dict[str, bytes]:
    tiny_transformers().save_pretrained('saved')
    return {path.name: path.read_bytes() for path in Path('saved').iterdir()}


def build(cfg: Config) -> torch.nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    return revert_sync_batchnorm(MODELS.build(Config(without_init_cfg(cfg.model.to_dict()))))


def test_pages_are_tested():
    tested = ['checkpoints', 'data', 'deployment', 'fidelity', 'getting-started', 'gpu',
              'gpu-runtimes', 'index', 'inference', 'models', 'own-strategy', 'patching',
              'strategies', 'tuning']  # fmt: skip
    with_code = [page.stem for page in sorted(DOCS.glob('*.md')) if blocks_of(page.name)]
    assert set(with_code) <= set(tested)


def test_gpu(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, 'cuda', lambda self: self)  # there need not be one
    names = run('gpu.md', {'model': tiny_transformers()})
    assert names['model'].dtype == torch.bfloat16
    assert 'forward' in vars(names['model'].segformer)
    names['remove_cuda_graphs'](names['model'])


def test_getting_started(here):
    pytest.importorskip('transformers')
    pytest.importorskip('segmentation_models_pytorch')
    names = run('getting-started.md', {}, skip=('_base_', 'SegformerHeatmapHead', 'init_model'))
    shapes = [tuple(stage.shape) for stage in names['stages']]
    assert shapes == [(1, 32, 32, 64), (1, 64, 16, 32), (1, 160, 8, 16), (1, 256, 4, 8)]
    assert blocks_of('getting-started.md')[0] in (ROOT / 'README.md').read_text()  # tested there


POSE = """
pipeline = [dict(type='CheckedLoadImage'), dict(type='GetBBoxCenterScale'),
            dict(type='TopdownAffine', input_size=codec['input_size']),
            dict(type='PackPoseInputs')]
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=pipeline))
train_dataloader = test_dataloader
default_scope = 'mmpose'
"""


def test_pose_config_and_inference(here):
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    config, inference = blocks_of('getting-started.md')[1:3]
    Path('pose.py').write_text(config + POSE)
    boxes = np.array([[10.0, 10, 90, 120]] * 2)
    names = dict(
        config='pose.py', checkpoint=None, image=np.asarray(Image.open('a.jpg')), boxes=boxes
    )
    exec(inference, names)
    assert [keypoints.shape for keypoints in names['keypoints']] == [(1, 17, 2)] * 2
    assert names['model'].backbone.token_merging.stages[0].q is not None
    assert Config.fromfile('pose.py').val_evaluator.thresholds == (0.1, 0.05)


def test_index(hub, here):
    hub.add('nvidia/segformer-b0-finetuned-ade-512-512', saved_transformers())
    names = run('index.md', dict(pixel_values=torch.randn(1, 3, 64, 96)))
    assert names['logits'].shape == (1, 2, 16, 24)


def test_models(hub, here):
    shutil.copy('a.jpg', 'street.jpg')
    hub.add('nvidia/segformer-b0-finetuned-cityscapes-1024-1024', saved_transformers())
    assert run('models.md', {})['labels'].shape == (128, 160)


def test_strategies():
    names = run('strategies.md', {})
    assert names['backbone'].token_merging.stages[0].kv.ratio == 0.6


def test_own_strategy():
    try:
        names = run('own-strategy.md', {})
        plan = names['EveryNth'](3).plan(torch.randn(2, 10, 4), (2, 5))
        tokens = torch.randn(2, 10, 4, dtype=torch.float64)
        merged = plan.merge(tokens)
        assert merged.shape == (2, 4, 4) and plan.sizes().tolist() == [[3, 3, 3, 1]]
        torch.testing.assert_close(merged[:, 1], tokens[:, 3:6].mean(1))
        torch.testing.assert_close(plan.unmerge(merged)[:, 9], tokens[:, 9])
        columns = names['Columns'](2).plan(tokens, (2, 5))
        torch.testing.assert_close(columns.merge(tokens)[:, 1], tokens[:, 2:4].mean(1))
    finally:
        TOKEN_MERGERS.module_dict.pop('EveryNth', None)
        TOKEN_MERGERS.module_dict.pop('Columns', None)


def test_fidelity(here, scenes, capsys):  # noqa: F811
    names = run('fidelity.md', dict(zip(('config', 'checkpoint'), scenes, strict=True)))
    assert [row.name for row in names['rows']] == ['none', 'weighted', 'mine']
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_tuning(here, scenes):  # noqa: F811
    pytest.importorskip('optuna')
    names = run('tuning.md', dict(zip(('config', 'checkpoint'), scenes, strict=True)))
    assert len(names['result'].points) == 10
    assert Path('tuned/front.json').is_file() and Path('tuned/front.png').is_file()


def test_inference(here, segmentation, pose, capsys):  # noqa: F811
    names = dict(
        config=segmentation[0], checkpoint=segmentation[1], image='a.jpg', folder='images',
        pose_config=pose[0], pose_checkpoint=pose[1],
    )  # fmt: skip
    run('inference.md', names)
    assert names['labels'].shape == (128, 160)
    assert names['painted'].shape[1] > 200 and (names['painted'][0, -1] == 255).all()
    assert capsys.readouterr().out.startswith('b.jpg ')
    assert names['people'].keypoints.shape == (1, 17, 2)


def test_patching(here, hub, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    smp = pytest.importorskip('segmentation_models_pytorch')
    (here / 'mmseg.py').write_text(MMSEG)
    torch.save(dict(state_dict=build(Config.fromfile('mmseg.py')).state_dict(), meta={}), 'w.pth')
    tiny_transformers().save_pretrained('hf')
    image = np.asarray(Image.open('a.jpg'))
    names = dict(
        config='mmseg.py', checkpoint='w.pth', image=image, folder='hf', smp=smp,
        pixel_values=torch.randn(1, 3, 64, 64), images=torch.randn(1, 3, 64, 64),
    )  # fmt: skip
    run('patching.md', names)
    assert names['result'].pred_sem_seg.data.shape == (1, 128, 160)
    assert names['logits'].shape == (1, 2, 16, 16) and names['mask'].shape == (1, 3, 64, 64)
    assert Path('map.png').stat().st_size > 0
    kept = names['again'].config.token_merging
    assert json.loads(hub.files('you/segformer-b0-hq')['config.json'])['token_merging'] == kept


def test_checkpoints(here):
    tiny_transformers().save_pretrained('segformer-b0-ade')
    names = run('checkpoints.md', dict(model=tiny_transformers()))
    backbone = dict(names['backbone'], embed_dims=8, num_heads=(1, 2, 5, 8), num_layers=[1] * 4)
    del backbone['arch'], backbone['type']
    MixVisionTransformerPlusPlus(**backbone).init_weights()
    head = {key: value for key, value in names['decode_head'].items() if key != '_delete_'}
    init_default_scope('mmseg')
    assert MODELS.build(head).conv_seg.out_channels == 150


def test_data(here):
    (block,) = blocks_of('data.md')
    folder = ROOT / 'configs' / 'cityscapes'
    name = 'segformer_mit-b0_hq_1xb4-160k_cityscapes-1024x1024.py'
    assert f"'./{name}'" in block and (folder / name).is_file()
    (here / 'mine.py').write_text(block.replace(f'./{name}', str(folder / name)))
    dataset = Config.fromfile('mine.py').train_dataloader.dataset
    assert dataset.type == 'LeaveOut' and dataset.dataset.type == 'CityscapesDataset'


@pytest.mark.parametrize('library', ['onnxruntime', 'openvino', 'torch.export'])
def test_deployment(here, segmentation, library):  # noqa: F811
    (block,) = (code for code in blocks_of('deployment.md') if library in code)
    name = {'onnxruntime': 'onnx', 'openvino': 'openvino'}.get(library, 'torch-export')
    export(segmentation, name, re.search(r"'(model\.\w+)'", block)[1], 'hq')
    said = in_a_process(block.replace('1024, 1024', '64, 64') + 'print(tuple(logits.shape))\n')
    assert said.endswith('(1, 5, 16, 16)')


@pytest.mark.parametrize('preset', ['none', '2x2', 'hq', 'weighted'])
def test_gpu_runtimes(here, segmentation, preset):  # noqa: F811
    """There need not be a GPU: then the blocks compare the CPU with itself."""
    export(segmentation, 'onnx', 'model.onnx', preset)
    code = ''.join(blocks_of('gpu-runtimes.md')).replace('1024, 1024', '64, 64')
    *_, equal, operators, constants = in_a_process(code).splitlines()
    assert equal.split() == ['equal', 'labels', '1.0']
    assert {name for name, _ in ast.literal_eval(operators)} == operators_of(preset)
    assert bool(ast.literal_eval(constants)) == (preset in ('hq', 'weighted'))


def operators_of(preset: str) -> set[str]:
    """What the page says; a row may begin with another one's operators."""
    table = (DOCS / 'gpu-runtimes.md').read_text().partition('| preset | operators |')[2]
    row = re.search(rf'^\| .*`{preset}`.* \| (.*) \|$', table, flags=re.MULTILINE)[1]
    others = re.findall('those of `(.*?)`', row)
    return set(re.findall(r'\b[A-Z]\w+', row)).union(*map(operators_of, others))


def export(model: tuple[Path, Path], form: str, file: str, preset: str) -> None:
    for package in ('onnx', 'onnxscript', {'openvino': 'openvino'}.get(form, 'onnxruntime')):
        pytest.importorskip(package)
    from segformer_plusplus.cli.export import main

    arguments = ['--format', form, '--out', file, '--shape', '64x64', '--token-merging', preset]
    assert main([*map(str, model), *arguments]) == 0


def in_a_process(code: str) -> str:
    """What code prints; a second openvino.Core in one process crashes when a child of it ends."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
