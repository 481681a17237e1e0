"""Models by their name: what Transformers computes, from the Hub, its cache or a folder."""

import json
import os
import shutil
import subprocess
import sys
import time

import hub as fake
import numpy as np
import pytest
import torch
from hub import TOKEN, RefusedError
from PIL import Image

pytest.importorskip('mmseg')
transformers = pytest.importorskip('transformers')
hub_library = pytest.importorskip('huggingface_hub')

from mmengine.config import Config
from mmseg.registry import DATASETS

from segformer_plusplus import apply_token_merging
from segformer_plusplus.errors import CheckpointError, SegformerPlusPlusError
from segformer_plusplus.inference import Segmenter, configs, pretrained
from segformer_plusplus.inference.opening import open_model
from segformer_plusplus.token_merging import build_token_merging

from .saved import change, contents, save_model
from .tiny import build_model

SIDE = 64


def photo(height, width):
    """Smooth random colours, so that a resize by another filter is told apart."""
    small = np.random.default_rng().integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def in_transformers(model, folder, image, size=None):
    """Transformers' logits (K, H, W), resized as mmseg does: to what it saw, then back."""
    size = {} if size is None else dict(size=dict(height=size[0], width=size[1]))
    processor = transformers.SegformerImageProcessorPil.from_pretrained(folder, **size)
    inputs = processor(image, return_tensors='pt')
    with torch.inference_mode():
        logits = model(**inputs).logits
    for shape in (inputs['pixel_values'].shape[2:], (image.height, image.width)):
        logits = torch.nn.functional.interpolate(logits, shape, mode='bilinear')
    return logits[0]


def logits_of(model, pixels):
    """The same of normalised images (1, C, H, W), at their own size."""
    with torch.inference_mode():
        logits = model(pixel_values=pixels).logits
    return torch.nn.functional.interpolate(logits, pixels.shape[2:], mode='bilinear')[0]


def check(folder, image, expected):
    """Without merging, our logits and labels are these."""
    config = configs.load_config(folder, {'model.labels_only': False})
    options = dict(token_merging='none', keep_logits=True, device='cpu')
    sample = Segmenter(config, **options)(image)
    found = sample.seg_logits.data
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)
    assert (sample.pred_sem_seg.data[0] == expected.argmax(dim=0)).float().mean() > 0.999


def labels(segmenter, image):
    return segmenter(image).pred_sem_seg.data[0].numpy()


def opened(name, **options):
    return Segmenter.from_pretrained(name, device='cpu', **options)


@pytest.mark.parametrize(
    'images, size',
    [
        (dict(size=dict(height=SIDE, width=SIDE)), (SIDE, 96)),
        (dict(size=dict(height=96, width=SIDE)), (SIDE, 96)),
        (dict(size=dict(height=SIDE, width=SIDE), resample=3), (SIDE, 96)),
        (dict(size=dict(height=SIDE, width=SIDE), image_mean=[0.2, 0.5, 0.7]), (SIDE, 96)),
        (dict(do_resize=False, image_std=[0.3, 0.1, 0.2]), None),
        (dict(do_resize=False, do_normalize=False), None),
        (dict(do_resize=False, do_rescale=False, image_mean=[120, 110, 100]), None),
        (dict(do_resize=False, rescale_factor=1 / 127.5, image_mean=[1, 1, 1]), None),
    ],
)
def test_logits_are_those_of_transformers(tmp_path, images, size):
    """The longer side alone is another one: proportions are kept."""
    if images.get('do_rescale') is False:
        images['image_std'] = [60, 50, 40]
    model = save_model(tmp_path, images)
    image = photo(128, 192)
    check(tmp_path, image, in_transformers(model, tmp_path, image, size))


@pytest.mark.parametrize(
    'changes',
    [
        dict(hidden_sizes=[16, 32, 64], num_attention_heads=[1, 2, 4], depths=[1, 1, 2],
             sr_ratios=[4, 2, 1], patch_sizes=[7, 3, 3], strides=[4, 2, 2], mlp_ratios=[2] * 3,
             num_encoder_blocks=3),
        dict(strides=[4, 2, 1, 2], decoder_hidden_size=8, layer_norm_eps=0.1),
    ],
)  # fmt: skip
def test_sizes_come_from_its_config(tmp_path, changes):
    """Also where Transformers itself does not use them."""
    model = save_model(tmp_path, dict(do_resize=False), **changes)
    image = photo(96, 128)
    check(tmp_path, image, in_transformers(model, tmp_path, image))


def test_a_grey_model(tmp_path):
    model = save_model(tmp_path, num_channels=1)
    grey = photo(96, 128).convert('L')
    pixels = (torch.from_numpy(np.array(grey)) / 255 - 0.485) / 0.229
    check(tmp_path, grey, logits_of(model, pixels[None, None]))


def test_without_settings_of_images_they_keep_their_size(tmp_path):
    model = save_model(tmp_path)
    image = photo(96, 128)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    check(tmp_path, image, logits_of(model, (pixels - mean) / std))


@pytest.mark.parametrize('name', ['CityscapesDataset', 'ADE20KDataset'])
def test_names_and_colours_of_a_known_data_set(tmp_path, name):
    meta = DATASETS.get(name).METAINFO
    names = [f'{each.strip().upper()}; more' for each in meta['classes']]
    names[3] = 'something else'
    save_model(tmp_path, dict(do_reduce_labels=True), names=names)
    segmenter = opened(tmp_path)
    assert segmenter.classes == names and segmenter.palette.tolist() == meta['palette']
    assert segmenter.reduces_zero_label


def test_names_of_nobody_get_distinct_colours(tmp_path):
    save_model(tmp_path, {})
    segmenter = opened(tmp_path)
    assert segmenter.classes == ['road', 'car', 'sky', 'tree', 'house']
    assert len({tuple(colour) for colour in segmenter.palette.tolist()}) == 5
    assert not segmenter.reduces_zero_label


def merging(segmenter):
    return repr(segmenter.model.backbone.token_merging)


def test_what_is_merged(tmp_path):
    """What was asked for, else what was saved with it, else what is safe on photographs."""
    save_model(tmp_path)
    assert merging(opened(tmp_path)) == repr(build_token_merging(pretrained.DEFAULT_MERGING))
    own = [dict(q=dict(type='NeighborMerging2d', stride=2))] + [{}] * 3
    change(tmp_path / 'config.json', token_merging=dict(stages=own))
    assert merging(opened(tmp_path)) == repr(build_token_merging(own))
    assert merging(opened(tmp_path, token_merging='hq')) == repr(build_token_merging('hq'))


@pytest.mark.parametrize(
    'strategy', ['hq', '2x2', [dict(kv=dict(type='NeighborMerging2d', stride=2))] * 4]
)
def test_what_a_patched_model_was_saved_with(tmp_path, strategy):
    """The same strategy, and the same numbers as in Transformers."""
    model = save_model(tmp_path, dict(do_resize=False))
    apply_token_merging(model, strategy)
    model.save_pretrained(tmp_path)
    segmenter = opened(tmp_path)
    assert merging(segmenter) == repr(build_token_merging(strategy))
    image = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        expected, found = model(image).logits, segmenter.model(image, None, mode='tensor')
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


class TestHub:
    """Names of the Hub."""

    NAME = 'someone/model'

    @pytest.fixture
    def saved(self, tmp_path):
        save_model(tmp_path / 'saved', dict(do_resize=False))
        return tmp_path / 'saved'

    def test_by_name_is_as_by_folder(self, hub, saved):
        hub.add(self.NAME, {**contents(saved), 'pytorch_model.bin': b'x', 'run.py': b'x'})
        image = photo(96, 128)
        expected = labels(opened(saved), image)
        np.testing.assert_array_equal(labels(opened(self.NAME), image), expected)
        asked = [path.rpartition('/')[2] for _, path in hub.requests if '/resolve/' in path]
        assert set(asked) == {'config.json', 'preprocessor_config.json', 'model.safetensors'}
        segmenter = Segmenter(self.NAME, device='cpu')
        np.testing.assert_array_equal(labels(segmenter, image), expected)

    def test_its_weights_as_a_checkpoint_of_any_config(self, hub, saved):
        hub.add(self.NAME, contents(saved))
        image = photo(96, 128)
        by_hand = Segmenter(configs.load_config(saved), self.NAME, device='cpu')
        np.testing.assert_array_equal(labels(by_hand, image), labels(opened(saved), image))

    @pytest.mark.parametrize('by_name', [True, False])
    def test_a_revision(self, hub, saved, tmp_path, by_name):
        save_model(tmp_path / 'new', names=['a', 'b'])
        old = hub.add(self.NAME, contents(saved))
        hub.add(self.NAME, contents(tmp_path / 'new'), revision='v2')
        name, options = (f'{self.NAME}@v2', {}) if by_name else (self.NAME, dict(revision='v2'))
        assert opened(name, **options).classes == ['a', 'b']
        assert len(opened(f'{self.NAME}@{old}').classes) == 5
        assert opened(f'{self.NAME}@{old}', revision='v2').classes == ['a', 'b']

    def test_a_private_one(self, hub, saved, monkeypatch):
        hub.add(self.NAME, contents(saved), private=True)
        with pytest.raises(CheckpointError, match='someone/model is neither a path here nor'):
            opened(self.NAME)
        assert len(opened(self.NAME, token=TOKEN).classes) == 5
        monkeypatch.setenv('HF_TOKEN', TOKEN)
        assert len(Segmenter(self.NAME, device='cpu').classes) == 5

    def test_from_the_cache_without_a_hub(self, hub, saved, monkeypatch):
        hub.add(self.NAME, contents(saved))
        expected = opened(self.NAME).classes
        hub.stop()
        assert opened(self.NAME).classes == expected
        monkeypatch.setattr(hub_library.constants, 'HF_HUB_OFFLINE', True)
        assert opened(self.NAME).classes == expected
        with pytest.raises(CheckpointError, match='someone/other is not in the cache, and'):
            opened('someone/other')

    def test_pickles_only_where_there_is_nothing_else(self, hub, saved):
        model = transformers.SegformerForSemanticSegmentation.from_pretrained(saved)
        (saved / 'model.safetensors').unlink()
        stream = saved / 'pytorch_model.bin'
        torch.save(model.state_dict(), stream)
        hub.add(self.NAME, contents(saved))
        image = photo(96, 128)
        np.testing.assert_array_equal(
            labels(opened(self.NAME), image), labels(opened(saved), image)
        )

    def test_a_cache_that_is_damaged(self, hub, saved):
        """The message says what to delete, and that helps."""
        hub.add(self.NAME, contents(saved))
        opened(self.NAME)
        (weights,) = hub.home.rglob('model.safetensors')
        whole = weights.resolve().read_bytes()
        weights.resolve().write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match='cannot be read: it is damaged') as caught:
            opened(self.NAME)
        folder = hub.home / 'hub' / 'models--someone--model'
        assert str(caught.value).endswith(f'delete {folder} to have it fetched again')
        shutil.rmtree(folder)
        assert len(opened(self.NAME).classes) == 5

    @pytest.mark.parametrize(
        'name, words',
        [
            ('someone/nothing', 'is neither a path here nor a model of the Hub that you may read'),
            ('someone/model@v9', 'someone/model@v9: the model has no such revision'),
            ('nowhere', 'nowhere is no folder, no OWNER/NAME of the Hub and no SegFormer of mmseg'),
            ('a/b/c', 'a/b/c is no folder'),
            ('someone/empty', r'someone/empty@\w+ has no config.json: no model of Transformers'),
            ('someone/bert', "model_type is 'bert', and only SegFormer is known here"),
            ('a--b/c', 'a--b/c cannot be fetched: Cannot have -- or .. in repo_id'),
        ],
    )
    def test_no_such_model(self, hub, saved, name, words):
        hub.add(self.NAME, contents(saved))
        hub.add('someone/empty', {'README.md': b'nothing', 'model.safetensors': b''})
        hub.add('someone/bert', {'config.json': b'{"model_type": "bert"}'})
        with pytest.raises(SegformerPlusPlusError, match=words) as caught:
            opened(name)
        assert '\n' not in str(caught.value)

    def test_weights_are_fetched_of_a_segformer_alone(self, hub, saved):
        """Not to learn that a model is another one, nor to say what one is."""
        bert = {'config.json': b'{"model_type": "bert"}', 'model.safetensors': b''}
        hub.add('someone/bert', bert)
        hub.add(self.NAME, {**contents(saved), 'model-card.md': b'no weights'})
        with pytest.raises(SegformerPlusPlusError, match="model_type is 'bert'"):
            opened('someone/bert')
        configs.load_config(self.NAME)
        assert not any(path.endswith('.safetensors') for _, path in hub.requests)
        opened(self.NAME)
        assert not any(path.endswith('.md') for _, path in hub.requests)

    @pytest.mark.parametrize('token', ['wrong', '', 'a\nb'])
    def test_a_wrong_token(self, hub, saved, token):
        hub.add(self.NAME, contents(saved))
        with pytest.raises(CheckpointError, match='the Hub does not know your token|cannot be f'):
            opened(self.NAME, token=token)

    @pytest.mark.parametrize('what', ['garbage', 'half', 'html', 'refused'])
    def test_a_hub_that_answers_nonsense(self, hub, saved, monkeypatch, what):
        hub.add(self.NAME, contents(saved))

        def answer(handler, **_):
            if what == 'refused':
                raise RefusedError(403)
            if what == 'html':
                handler._send(b'<html>log in to this network</html>', {})
            elif what == 'half':
                handler._send(b'{"id', {'Content-Length': '100'})
            else:
                handler.wfile.write(b'\0\xff\r\n')
            handler.close_connection = True

        monkeypatch.setattr(fake._Handler, 'info', answer)
        with pytest.raises(CheckpointError, match='cannot be (fetched|reached)') as caught:
            opened(self.NAME)
        assert '\n' not in str(caught.value)

    @pytest.mark.skipif(sys.platform == 'win32', reason='needs a terminal')
    def test_bars_are_of_downloads(self, hub, monkeypatch):
        """On a terminal; there is none for what the cache has."""
        import pty

        hub.add(self.NAME, {SETTINGS: b'{}', 'model.safetensors': bytes(1 << 20)})
        send = fake._Handler._send

        def slowly(handler, content, *others):
            time.sleep(1.2 if len(content) == 1 << 20 and handler.command == 'GET' else 0)
            send(handler, content, *others)

        monkeypatch.setattr(fake._Handler, '_send', slowly)
        code = f'from segformer_plusplus.checkpoints.hub import fetch; fetch({self.NAME!r})'
        for shown in (True, False):
            ours, theirs = pty.openpty()
            subprocess.run([sys.executable, '-c', code], env=hub.environment(), stderr=theirs)
            os.write(theirs, b'|')
            assert (len(os.read(ours, 1 << 16)) > 1) == shown
            os.close(ours)
            os.close(theirs)

    def test_weights_alone_in_a_process_of_their_own(self, hub, saved):
        """Nothing else has imported what this needs; no bar is shown for what is in the cache."""
        hub.add(self.NAME, contents(saved))
        code = (
            'from segformer_plusplus.checkpoints import read_checkpoint\n'
            f'print(len(read_checkpoint({self.NAME!r})))'
        )
        for _ in range(2):
            done = subprocess.run(
                [sys.executable, '-c', code], env=hub.environment(), capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) > 100 and 'it/s' not in done.stderr

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
        with pytest.raises(SegformerPlusPlusError, match=r"pip install 'segformer-plusplus\[hf\]'"):
            opened(self.NAME)


SETTINGS = 'config.json'
IMAGES = 'preprocessor_config.json'


@pytest.mark.parametrize(
    'file, settings, words',
    [
        (SETTINGS, dict(model_type=None), 'model_type is None'),
        (
            SETTINGS,
            dict(architectures=['SegformerForImageClassification']),
            'has no head for labels',
        ),
        (SETTINGS, dict(num_channels=4), 'num_channels=4: models of 1 or 3 channels'),
        (SETTINGS, dict(hidden_sizes=[8, 16, 40]), 'is no list of 4 whole numbers'),
        (SETTINGS, dict(hidden_sizes=[8, 16, 40, 65]), 'heads of one width'),
        (SETTINGS, dict(depths='many'), "depths='many' is no list of 4 whole numbers"),
        (SETTINGS, dict(depths=[1, 1, 1, 0]), 'is no list of 4 whole numbers'),
        (SETTINGS, dict(depths=[1, 1, 1, 10**400]), 'is no list of 4 whole numbers'),
        (SETTINGS, dict(num_encoder_blocks=0, hidden_sizes=[]), 'is no list of 0 whole numbers'),
        (SETTINGS, dict(num_labels='many'), "num_labels='many' is no number from 1 to 65536"),
        (SETTINGS, dict(num_labels=10**9), 'num_labels=1000000000 is no number'),
        (SETTINGS, dict(num_channels=1.0), 'num_channels=1.0: models of 1 or 3'),
        (SETTINGS, dict(architectures=5), 'it is a 5, which has no head for labels'),
        (SETTINGS, dict(mlp_ratios=[4, 4, 4, 2]), 'one ratio for all stages'),
        (SETTINGS, dict(hidden_act='relu'), "hidden_act='relu' is not known here, 'gelu' is"),
        (SETTINGS, dict(reshape_last_stage=False), 'reshape_last_stage=False is not known here'),
        (
            SETTINGS,
            dict(id2label={'1': 'a', '2': 'b'}),
            'id2label does not name the classes from 0',
        ),
        (SETTINGS, dict(id2label=['a']), 'id2label does not name the classes from 0'),
        (SETTINGS, dict(id2label={'0': 'a'}), 'decode_head.conv_seg.weight'),
        (SETTINGS, dict(decoder_hidden_size='wide'), "channels='wide' is not an integer"),
        (SETTINGS, dict(token_merging='best'), "token_merging='best'"),
        (IMAGES, dict(image_mean=[0.5]), r'image_mean=\[0.5\], but the model takes 3 channels'),
        (IMAGES, dict(image_std=[0.5, 0, 1]), r'image_std=\[0.5, 0, 1\] are no numbers'),
        (IMAGES, dict(image_std='1'), "image_std='1' are no numbers"),
        (IMAGES, dict(rescale_factor=0), r'rescale_factor=\[0\] are no numbers'),
        (IMAGES, dict(rescale_factor=10**400), 'rescale_factor=.* are no numbers'),
        (IMAGES, dict(image_mean=[0.5, 0.5, float('nan')]), 'image_mean=.* are no numbers'),
        (IMAGES, dict(image_std=[float('inf'), 1, 1]), 'image_std=.* are no numbers'),
        (IMAGES, dict(image_std=[-1, 1, 1]), 'image_std=.* are no numbers'),
        (IMAGES, dict(resample=[2]), r'resample=\[2\] is none of'),
        (IMAGES, dict(size=10**6), 'size=1000000 has no height'),
        (IMAGES, dict(size={'longest_edge': 4}), "size={'longest_edge': 4} has no height and"),
        (IMAGES, dict(size=-3), 'size=-3 has no height'),
        (IMAGES, dict(do_center_crop=True), 'do_center_crop would leave a border'),
        (IMAGES, dict(resample=9), 'resample=9 is none of'),
    ],
)
def test_settings_that_do_not_fit(tmp_path, file, settings, words):
    save_model(tmp_path, {})
    change(tmp_path / file, **settings)
    if 'model_type' in settings:
        (tmp_path / file).write_text('{}')
    with pytest.raises(SegformerPlusPlusError, match=words):
        opened(tmp_path)


def test_names_that_would_be_code_in_a_config(tmp_path, monkeypatch):
    """The first makes mmengine take the backslash out of the second, as it reads a config."""
    monkeypatch.chdir(tmp_path)
    names = ['{{$NO_SUCH:a|Q.|b}}', 'Q\',open("run","w").name,#"']
    save_model(tmp_path / 'saved', names=names)
    written = Config(dict(classes=names)).pretty_text
    (tmp_path / 'written.py').write_text(written)
    Config.fromfile('written.py')
    assert (tmp_path / 'run').exists()
    with pytest.raises(SegformerPlusPlusError, match='has braces of a variable of configs'):
        configs.load_config(tmp_path / 'saved')


def test_a_folder_has_no_revisions(tmp_path):
    save_model(tmp_path)
    for name in (tmp_path, 'segformer_mit-b0_8xb2-160k_ade20k-512x512'):
        with pytest.raises(SegformerPlusPlusError, match=f"revision='v2': {name} is no model of"):
            opened(name, revision='v2')


def test_what_is_said_of_a_model(tmp_path):
    """Also of a folder with a @ in its name, and after a setting of the size was changed."""
    folder = tmp_path / 'a@b'
    save_model(folder, dict(size=dict(height=SIDE, width=SIDE)))
    config = configs.load_config(folder)
    assert config.filename == str(folder)
    said = pretrained.describe_pretrained(config)
    assert said == (
        f'{folder}: 5 classes, images resized to a shorter side of 64, token merging: weighted'
    )
    config = configs.load_config(folder, {'test_dataloader.dataset.pipeline.1.scale': (96, 32)})
    assert 'to a shorter side of 32,' in pretrained.describe_pretrained(config)


def test_none_saved_is_nothing_saved(tmp_path):
    save_model(tmp_path)
    path = tmp_path / SETTINGS
    path.write_text(json.dumps({**json.loads(path.read_text()), 'token_merging': None}))
    assert merging(opened(tmp_path)) == repr(build_token_merging(pretrained.DEFAULT_MERGING))


@pytest.mark.parametrize('content', ['', '{', '[]', '\x00'])
@pytest.mark.parametrize('file', [SETTINGS, IMAGES])
def test_settings_that_cannot_be_read(tmp_path, file, content):
    save_model(tmp_path, {})
    (tmp_path / file).write_text(content)
    with pytest.raises(SegformerPlusPlusError, match=file):
        opened(tmp_path)


def test_weights_that_lack_a_layer(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    save_model(tmp_path)
    state = safetensors.load_file(tmp_path / 'model.safetensors')
    del state['segformer.encoder.block.1.0.mlp.dense1.weight']
    safetensors.save_file(state, tmp_path / 'model.safetensors')
    with pytest.raises(CheckpointError, match=r'keys missing: .*layers.1.1.0.ffn.layers.0.weight'):
        opened(tmp_path)


def test_a_folder_without_weights(tmp_path):
    save_model(tmp_path)
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(CheckpointError, match='has no weights: looked for model.safetensors'):
        opened(tmp_path)


def test_sides_of_known_names():
    """As in the authors' configs: img_scale=(2048, 512), (1024, 512), (1536, 768), ..."""
    sides = {name.removeprefix('nvidia/segformer-'): s for name, s in pretrained.HUB_MODELS.items()}
    assert len(sides) == 15
    assert sides['b5-finetuned-ade-640-640'] == 640
    assert sides['b5-finetuned-cityscapes-1024-1024'] == 1024
    assert sides['b0-finetuned-cityscapes-512-1024'] == 512
    assert sides['b0-finetuned-cityscapes-768-768'] == 768


def test_the_side_of_a_known_name_is_not_what_lies_beside_it(hub, tmp_path):
    save_model(tmp_path, dict(size=dict(height=512, width=512)))
    name = 'nvidia/segformer-b0-finetuned-cityscapes-1024-1024'
    hub.add(name, contents(tmp_path))
    config = configs.load_config(name)
    assert config.test_dataloader.dataset.pipeline[1].scale == (4096, 1024)


def theirs_classes(name):
    return 150 if 'ade20k' in name else 19


class TestOpenMMLab:
    """mmseg's own models, by the names that it gives them."""

    NAMES = pretrained.openmmlab_models(configs.configs_of('mmseg'))

    def test_all_of_mmseg(self):
        assert len(self.NAMES) == 13
        about = self.NAMES['segformer_mit-b0_8xb1-160k_cityscapes-1024x1024']
        assert about.miou == 76.54 and about.dataset == 'Cityscapes'
        assert about.weights.startswith('https://') and about.weights.endswith('.pth')

    @pytest.mark.parametrize('name', [n for n in NAMES if 'mit-b0' in n])
    def test_our_modules_take_their_weights(self, name, tmp_path):
        config = configs.named_config(name)
        assert config.pretrained_model.weights == self.NAMES[name].weights
        said = pretrained.describe_pretrained(config)
        assert said.startswith(f'{name}: {theirs_classes(name)} classes, images resized to a short')
        theirs = build_model(configs.load_config(self.NAMES[name].config).model)
        torch.save(dict(state_dict=theirs.state_dict()), tmp_path / 'weights.pth')
        config.pretrained_model.weights = str(tmp_path / 'weights.pth')
        ours = open_model(config, device='cpu', token_merging='none')
        assert type(ours.backbone).__name__ == 'MixVisionTransformerPlusPlus'
        image = torch.randn(1, 3, 64, 96)
        with torch.inference_mode():
            expected, found = (m(image, None, mode='tensor') for m in (theirs, ours))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
