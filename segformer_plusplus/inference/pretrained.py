"""Makes configs of models that bring their weights: by name, or as a folder of Transformers."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmengine
from mmengine.config import Config

from ..checkpoints.hub import CONFIG, PREPROCESSOR, fetch, is_hub_name
from ..errors import SegformerPlusPlusError, TokenMergingError
from ..libraries import require
from ..loading.images import unreadable
from ..token_merging import BASELINE, PRESETS
from ..token_merging.records import from_record

DEFAULT_MERGING = 'weighted'
"""Of models that say nothing of their own: it keeps nearly all labels of photographs."""

_LONGEST = 4  # times the shorter side, as in mmseg's test pipelines
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # Transformers' defaults, ImageNet's
_RESAMPLE = dict(
    enumerate(('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming'))
)  # Pillow's
_SAME_NAMES = 0.8  # share of the classes by which a data set is recognised
_MOST = 2**16  # classes, which labels of 16 bits tell apart; and channels
_LONGEST_SIDE = 2**13  # that images are resized to
_LEAST_FACTOR, _LARGEST = 1e-6, 1e6  # of numbers by which images are normalised
_SEGMENTOR = 'SegformerForSemanticSegmentation'

HUB_MODELS = {
    f'nvidia/segformer-{name}': int(name.split('-')[-2])
    for name in (
        *(f'b{n}-finetuned-ade-512-512' for n in range(5)),
        'b5-finetuned-ade-640-640',
        *(f'b{n}-finetuned-cityscapes-1024-1024' for n in range(6)),
        *(f'b0-finetuned-cityscapes-{size}' for size in ('512-1024', '640-1280', '768-768')),
    )
}
"""SegFormer's own models on the Hub, and the shorter side of images in its authors' tests of them.

It counts whatever the settings that lie beside them say.
"""


@dataclass(frozen=True)
class OpenMMLabModel:
    """Holds what mmseg says of a model that it offers.

    Attributes:
        config: its name, see ``configs.find_config``.
        weights: the address of its checkpoint.
        dataset: what it was trained on.
        miou: on that data set, as mmseg says.
    """

    config: str
    weights: str
    dataset: str
    miou: float | None


def openmmlab_models(configs: Path) -> dict[str, OpenMMLabModel]:
    """Lists mmseg's own SegFormers by their names.

    Args:
        configs: the folder of configs of the mmseg that is installed.
    """
    path = configs / 'segformer' / 'metafile.yaml'
    found = {}
    for each in (mmengine.load(path) if path.is_file() else {}).get('Models', ()):
        results = each['Results']
        found[each['Name']] = OpenMMLabModel(
            f'mmseg::segformer/{Path(each["Config"]).name}',
            each['Weights'],
            results['Dataset'],
            results['Metrics'].get('mIoU'),
        )
    return found


def is_pretrained(name: str | os.PathLike[str]) -> bool:
    """Says whether this names a model of the Hub, or a folder that ``save_pretrained`` wrote."""
    return is_hub_name(name) or Path(name).is_dir()


def pretrained_config(
    name: str | os.PathLike[str],
    revision: str | None = None,
    token: str | bool | None = None,
) -> Config:
    """Makes the config of a SegFormer of Transformers, with the backbone and head of this package.

    Without merging it computes what Transformers computes. Images get the normalisation that lies
    beside the weights, and are resized to the shorter side that stands there, by Pillow as in
    Transformers, but keep their proportions as in mmseg's tests.

    Args:
        name: OWNER/NAME or OWNER/NAME@REVISION of the Hub, or a folder.
        revision: see ``..checkpoints.hub.fetch``, as for the token.

    Returns:
        A config of mmseg. Its ``pretrained_model`` has the name, with the commit, and as weights a
        checkpoint. Weights of the Hub are fetched when they are loaded; with a token at once.

    Raises:
        CheckpointError: see ``..checkpoints.hub.fetch``.
        SegformerPlusPlusError: what lies there is no segmentor of SegFormer, or contradicts itself.
    """
    text = repo = os.fspath(name)
    folder = Path(text).absolute()
    weights = str(folder)
    if is_hub_name(text):
        # weights of what is no SegFormer can be large
        folder = fetch(text, revision, token, weights=False)
        repo = text.partition('@')[0]
        text = weights = f'{repo}@{folder.name}'  # the commit
    settings = _read(folder / CONFIG, text)
    if settings is None:
        raise SegformerPlusPlusError(
            f'{text} has no {CONFIG}: no model of Transformers was saved there'
        )
    model = _Settings(text, settings)
    images = _Images(text, _read(folder / PREPROCESSOR, text), model.channels)
    if token and weights == text:
        fetch(text, token=token)
    side = HUB_MODELS.get(repo) or images.side
    content = dict(
        custom_imports=dict(imports=['segformer_plusplus']),
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoderPlusPlus',
            data_preprocessor=dict(images.preprocessor(), size=side and (side, side)),
            backbone=model.backbone(),
            decode_head=model.decode_head(),
            test_cfg=dict(mode='whole'),
        ),
        test_dataloader=dict(
            dataset=dict(
                type='BaseSegDataset',
                metainfo=_names(model.classes, text),
                reduce_zero_label=images.reduces_zero_label,
                pipeline=_pipeline(model.channels, side, images.resample),
            )
        ),
        pretrained_model=dict(name=text, weights=weights),
    )
    return Config(content, cfg_text=f'# {text}', filename=repo)


def own_weights(config: Config) -> str | None:
    """Returns the checkpoint that a model by its name brings; None of any other config."""
    weights: str | None = config.get('pretrained_model', {}).get('weights')
    return weights


def resized_to(pipeline: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Returns the scale that a pipeline resizes images to; () if it resizes none."""
    scale = next((step['scale'] for step in pipeline if step.get('scale')), ())
    return tuple(scale) if isinstance(scale, list | tuple) else (scale,)


def describe_pretrained(config: Config, token_merging: Any = None) -> str:
    """Says in one line what a model by name is, what becomes of images, and what is merged.

    Args:
        config: of ``configs.named_config``.
        token_merging: what takes the place of the config's strategy, if anything.
    """
    if said := config.pretrained_model.get('said'):
        return str(said)
    scale = resized_to(config.test_dataloader.dataset.pipeline)
    resized = 'images at their own size'
    if scale:
        resized = f'images resized to a shorter side of {min(scale)}'
    merging = token_merging or config.model.backbone.get('token_merging')
    merging = merging if isinstance(merging, str) else 'of its own'
    name = re.sub(r'(@[0-9a-f]{7})[0-9a-f]{33}$', r'\1', config.pretrained_model.name)
    classes = config.model.decode_head.num_classes
    return f'{name}: {classes} classes, {resized}, token merging: {merging}'


class _Settings:
    """Reads a model's config.json.

    Raises:
        SegformerPlusPlusError: it is of another model, or contradicts itself.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._name, self._settings = name, settings
        kind = settings.get('model_type')
        if kind != 'segformer':
            raise self._wrong(f'model_type is {kind!r}, and only SegFormer is known here')
        architectures = str(settings.get('architectures') or _SEGMENTOR)
        if _SEGMENTOR not in architectures:
            raise self._wrong(
                f'it is a {architectures}, which has no head for labels; a training can start '
                f'from it: backbone=dict(init_cfg=dict(type="Pretrained", checkpoint={name!r}))'
            )
        self.channels = self.get('num_channels', 3)
        if self.channels not in (1, 3) or not isinstance(self.channels, int):
            raise self._wrong(
                f'num_channels={self.channels!r}: models of 1 or 3 channels can be opened by name; '
                'write a config that says how its images are read'
            )
        self.classes = self._classes()

    def get(self, key: str, default: Any) -> Any:
        """Returns a setting, or Transformers' default."""
        return self._settings.get(key, default)

    def _wrong(self, reason: str) -> SegformerPlusPlusError:
        return SegformerPlusPlusError(f'{self._name} ({CONFIG}): {reason}')

    def _classes(self) -> list[str]:
        count = self.get('num_labels', 2)
        if not (isinstance(count, int) and 0 < count <= _MOST):
            raise self._wrong(f'num_labels={_short(count)} is no number from 1 to {_MOST}')
        given = self.get('id2label', {str(index): f'LABEL_{index}' for index in range(count)})
        try:
            names = [str(given[str(index)]) for index in range(len(given))]
        except (KeyError, TypeError) as error:
            raise self._wrong(
                f'id2label does not name the classes from 0 on: {_short(given)}'
            ) from error
        for name in names:
            # a config that is written and read again could run what stands there
            if '{{' in name:
                raise self._wrong(f'id2label: {_short(name)} has braces of a variable of configs')
        return names

    def _only(self, key: str, default: Any, allowed: Any) -> None:
        found = self.get(key, default)
        if found != allowed:
            raise self._wrong(f'{key}={found!r} is not known here, {allowed!r} is')

    def backbone(self) -> dict[str, Any]:
        """Returns the settings of the backbone."""
        widths = self._list('hidden_sizes', [32, 64, 160, 256])
        heads = self._list('num_attention_heads', [1, 2, 5, 8])
        ratios = self._list('mlp_ratios', [4, 4, 4, 4])
        if len({width / count for width, count in zip(widths, heads, strict=True)}) > 1:
            raise self._wrong(
                f'hidden_sizes={widths} and num_attention_heads={heads}: heads of one width are '
                'known here'
            )
        if len(set(ratios)) > 1:
            raise self._wrong(f'mlp_ratios={ratios}: one ratio for all stages is known here')
        self._only('hidden_act', 'gelu', 'gelu')
        self._only('reshape_last_stage', True, True)
        return dict(
            type='MixVisionTransformerPlusPlus',
            in_channels=self.channels,
            embed_dims=widths[0] // heads[0],
            num_stages=len(widths),
            num_layers=self._list('depths', [2, 2, 2, 2]),
            num_heads=heads,
            patch_sizes=self._list('patch_sizes', [7, 3, 3, 3]),
            strides=self._list('strides', [4, 2, 2, 2]),
            sr_ratios=self._list('sr_ratios', [8, 4, 2, 1]),
            out_indices=list(range(len(widths))),
            mlp_ratio=ratios[0],
            norm_cfg=dict(type='LN', eps=1e-5),  # PyTorch's: layer_norm_eps is not used there
            token_merging=self._merging(len(widths)),
        )

    def _merging(self, stages: int) -> str | dict[str, Any]:
        fits = len(PRESETS[DEFAULT_MERGING]['stages']) == stages
        saved = self.get('token_merging', None)
        if saved is None:
            return DEFAULT_MERGING if fits else BASELINE
        try:
            return from_record(saved, stages)
        except TokenMergingError as error:
            raise self._wrong(str(error)) from error

    def _list(self, key: str, default: list[int]) -> list[int]:
        """Returns a setting that has a number for every stage."""
        found, stages = self.get(key, default), self.get('num_encoder_blocks', 4)
        if not (
            isinstance(found, list)
            and 0 < len(found) == stages
            and all(isinstance(each, int) and 0 < each < _MOST for each in found)
        ):
            raise self._wrong(f'{key}={_short(found)} is no list of {stages} whole numbers')
        return found

    def decode_head(self) -> dict[str, Any]:
        """Returns the settings of the head."""
        widths = self._list('hidden_sizes', [32, 64, 160, 256])
        return dict(
            type='SegformerLinearHead',
            in_channels=widths,
            in_index=list(range(len(widths))),
            channels=self.get('decoder_hidden_size', 256),
            dropout_ratio=self.get('classifier_dropout_prob', 0.1),
            num_classes=len(self.classes),
            norm_cfg=dict(type='BN'),
            align_corners=False,
            ignore_index=self.get('semantic_loss_ignore_index', 255),
        )


class _Images:
    """Reads how images are prepared; without a file, as ImageNet's, at their own size.

    Raises:
        SegformerPlusPlusError: it does not go with the model, or is not known here.
    """

    def __init__(self, name: str, settings: Mapping[str, Any] | None, channels: int) -> None:
        self._name = name
        given = {'do_resize': False} if settings is None else settings
        self.reduces_zero_label = bool(
            given.get('do_reduce_labels', given.get('reduce_labels', False))
        )
        self._channels = channels
        scale: Any = given.get('rescale_factor', 1 / 255) if given.get('do_rescale', True) else 1.0
        mean: Any = [0.0] * channels
        std: Any = [1.0] * channels
        if given.get('do_normalize', True):
            mean = given.get('image_mean', _MEAN[:channels])
            std = given.get('image_std', _STD[:channels])
        for key, values in dict(image_mean=mean, image_std=std, rescale_factor=[scale]).items():
            least = -_LARGEST if key == 'image_mean' else _LEAST_FACTOR
            if not isinstance(values, list) or not all(
                isinstance(each, int | float) and least <= each <= _LARGEST for each in values
            ):
                raise self._wrong(f'{key}={_short(values)} are no numbers to work with')
            if len(values) != channels and key != 'rescale_factor':
                raise self._wrong(
                    f'{key}={_short(values)}, but the model takes {channels} channels'
                )
        # of 0 to 255, (x * scale - mean) / std
        self._mean = [each / scale for each in mean]
        self._std = [each / scale for each in std]
        if given.get('do_center_crop'):
            raise self._wrong('do_center_crop would leave a border without labels; set it to false')
        kind = given.get('resample', 2)
        if not isinstance(kind, int) or kind not in _RESAMPLE:
            raise self._wrong(f'resample={_short(kind)} is none of {_RESAMPLE}')
        self.resample = _RESAMPLE[kind]
        self.side = self._side(given.get('size', 512)) if given.get('do_resize', True) else None

    def _wrong(self, reason: str) -> SegformerPlusPlusError:
        return SegformerPlusPlusError(f'{self._name} ({PREPROCESSOR}): {reason}')

    def _side(self, size: Any) -> int:
        sides = size if isinstance(size, Mapping) else {'shortest_edge': size}
        keys = ['shortest_edge'] if 'shortest_edge' in sides else ['height', 'width']
        found: list[Any] = [sides.get(key) for key in keys]
        if not all(isinstance(each, int) and 0 < each <= _LONGEST_SIDE for each in found):
            raise self._wrong(f'size={_short(size)} has no height and width, and no shortest_edge')
        side: int = min(found)
        return side

    def preprocessor(self) -> dict[str, Any]:
        """Returns the settings of mmseg's data preprocessor."""
        return dict(
            type='SegDataPreProcessor',
            mean=self._mean,
            std=self._std,
            bgr_to_rgb=self._channels == 3,
            pad_val=0,
            seg_pad_val=255,
        )


def _pipeline(channels: int, side: int | None, resample: str) -> list[dict[str, Any]]:
    load = dict(type='CheckedLoadImageFromFile')
    if channels == 1:
        load['color_type'] = 'grayscale'
    resize = dict(type='Resize', keep_ratio=True, backend='pillow', interpolation=resample)
    resizes = [] if side is None else [dict(resize, scale=(_LONGEST * side, side))]
    return [load, *resizes, dict(type='PackSegInputs')]


def _names(classes: Sequence[str], name: str) -> dict[str, Any]:
    """Returns names and, of a data set of mmseg's that has nearly the same names, the colours."""
    plain = [_plain(each) for each in classes]
    require('mmseg.datasets', name)
    for kind in require('mmseg.registry', name).DATASETS.module_dict.values():
        meta = getattr(kind, 'METAINFO', {})
        theirs = [_plain(each) for each in meta.get('classes') or ()]
        same = sum(a == b for a, b in zip(plain, theirs, strict=False))
        if len(theirs) == len(plain) and same >= _SAME_NAMES * len(plain):
            return dict(classes=tuple(classes), palette=meta.get('palette'))
    return dict(classes=tuple(classes))


def _plain(name: str) -> str:
    """Returns the first of the words for a class, such as 'bed' of 'Bed; couch'."""
    return name.replace(';', ',').partition(',')[0].strip().lower()


def _read(path: Path, name: str) -> dict[str, Any] | None:
    """Reads a file of settings; None if it is not there."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(f'{name}:', path, error) from error
    if not isinstance(content, dict):
        raise SegformerPlusPlusError(f'{name}: {path} holds no JSON object')
    return content


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
