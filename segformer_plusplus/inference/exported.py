"""Makes configs of exported files, so that these are models like any other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..export.formats import METADATA, Loader, find_metadata, format_of, is_exported
from ..export.predicting import FLIP_TEST, STEPS
from .pretrained import own_weights

_SAYING = {
    'model.backbone.output': 'logits (or labels)',
    'model.backbone.shape': '"[HEIGHT,WIDTH]"',
    'model.decode_head.num_classes': '19',
}
"""What a file without metadata has to be told about, with an example each."""


def exported_config(path: str | os.PathLike[str]) -> Config:
    """Makes the config of a file of ``export_model``, or of one that was made otherwise.

    What the latter does not say is None, and has to be set before it is built: see
    ``ExportedGraph``.

    Args:
        path: ends in '.onnx', '.xml' or '.pt2'.

    Returns:
        A config of mmseg or mmpose, which runs on the CPU. Images that have not the size of the
        file are padded, or cut into tiles (see
        ``exported_segmentor.ExportedSegmentor``).

    Raises:
        SegformerPlusPlusError: no such file, or one that is damaged or of a later version.
        MissingDependencyError: the library that reads it is not installed.
    """
    path = Path(path)
    metadata = find_metadata(path)
    graph = dict(type='ExportedGraph', file=str(path))
    if metadata is None:
        model = _segmentor(graph | dict(output=None, shape=None), _preprocessor({}), {})
        content: dict[str, Any] = dict(default_scope='mmseg', model=model)
        said = f'{path.name}: a file of another program'
    else:
        try:
            content, said = _recorded(path, graph, metadata)
        except (KeyError, TypeError, AttributeError) as error:
            raise SegformerPlusPlusError(
                f'{path}: its metadata cannot be understood ({type(error).__name__}: {error}); '
                'export the model again'
            ) from error
    content |= dict(
        custom_imports=dict(imports=['segformer_plusplus']),
        pretrained_model=dict(name=str(path), weights=str(path), said=said),
    )
    return Config(content, cfg_text=f'# {path}', filename=str(path))


def _recorded(
    path: Path, graph: Mapping[str, Any], metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Returns the content of a config by the metadata of a file, and what the file is in words."""
    about = metadata.get('predicting') or {}
    make = _pose_config if metadata['output']['name'] == 'heatmaps' else _segmentor_config
    content = make({**graph, **_graph(metadata)}, metadata, about)
    return content, _describe(path, metadata, about)


def use_exported(config: Config, path: str | os.PathLike[str], token_merging: Any = None) -> None:
    """Puts an exported file in the place of a config's model; nothing else of it changes.

    Raises:
        SegformerPlusPlusError: see ``exported_config``; the file is for another toolbox, or
            another strategy than its own is asked for.
    """
    if token_merging is not None:
        raise SegformerPlusPlusError(
            f'{path} has its strategy in its graph, so that token_merging={token_merging!r} cannot '
            'replace it; export the model with it: segformer-plusplus export --token-merging'
        )
    if own_weights(config) == str(path):
        return
    exported = exported_config(path)
    if config.get('default_scope') != exported.default_scope:
        raise SegformerPlusPlusError(
            f'{path} is for {exported.default_scope}, the config for {config.get("default_scope")}'
        )
    config.model = exported.model


def refuse_exported(path: str | os.PathLike[str] | None, reason: str) -> None:
    """Raises a SegformerPlusPlusError, which ends in the reason, if this names an exported file."""
    if path is not None and is_exported(path):
        raise SegformerPlusPlusError(
            f'{path} is an exported file, whose graph has weights and merging as plain operators: '
            f'{reason}; name the model that it was exported from'
        )


def _graph(metadata: Mapping[str, Any]) -> dict[str, Any]:
    given = metadata['input']
    fill = (given['normalisation']['mean'] or [0]) if given['type'] == 'uint8' else [0]
    if given['channel_order'] != given['normalisation']['channel_order']:
        fill = fill[::-1]
    return dict(
        output=metadata['output']['name'],
        shape=metadata['shape'],
        batch_size=metadata['batch_size'],
        steps=steps_of(metadata),
        layout=given['layout'],
        fill=fill,
        in_channels=given['channels'],
    )


def steps_of(metadata: Mapping[str, Any]) -> list[int] | None:
    """Returns a file's step of sizes and its smallest side; None where it takes one size."""
    step = metadata['size_step']
    return step and [step, metadata.get('smallest_side') or 2 * step]


def _preprocessor(given: Mapping[str, Any], kind: str = 'Seg') -> dict[str, Any]:
    """Returns the settings of a toolbox's data preprocessor, which gets BGR as mmcv reads it."""
    norm = given.get('normalisation') or {}
    outside = not norm.get('inside')
    settings = dict(
        mean=norm.get('mean') if outside else None,
        std=norm.get('std') if outside else None,
        bgr_to_rgb=given.get('channel_order') == 'RGB',
    )
    if kind == 'Pose':
        return dict(settings, type='PoseDataPreprocessor')
    return dict(settings, type='SegDataPreProcessor', pad_val=0, seg_pad_val=255)


def _segmentor(
    graph: Mapping[str, Any], preprocessor: Mapping[str, Any], head: Mapping[str, Any]
) -> dict[str, Any]:
    return dict(
        type='ExportedSegmentor',
        data_preprocessor=preprocessor,
        backbone=graph,
        decode_head=dict(dict(num_classes=None), **head, type='ExportedHead'),
        test_cfg=dict(mode='whole'),
    )


def _segmentor_config(
    graph: Mapping[str, Any], metadata: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    names, output = metadata['class_names'], metadata['output']
    head = dict(
        num_classes=about.get('num_classes') or len(names or ()) or max(output['channels'], 2),
        out_channels=output['channels'],
        threshold=output.get('threshold'),
        align_corners=bool(about.get('align_corners')),
    )
    metainfo = dict(classes=names, palette=about.get('palette'))
    load = dict(type='CheckedLoadImageFromFile')
    if metadata['input']['channels'] == 1:
        load['color_type'] = 'grayscale'
    dataset = dict(
        type='BaseSegDataset',
        metainfo={key: value for key, value in metainfo.items() if value},
        reduce_zero_label=bool(about.get('reduce_zero_label')),
        pipeline=[load, *(_steps(about) or [dict(type='PackSegInputs')])],
    )
    return dict(
        default_scope='mmseg',
        model=_segmentor(graph, _preprocessor(metadata['input']), head),
        test_dataloader=dict(dataset=dataset),
    )


def _pose_config(
    graph: Mapping[str, Any], metadata: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    if not (about.get('codec') and about.get('keypoints')):
        raise SegformerPlusPlusError(
            f'{graph["file"]} does not say how its heatmaps become keypoints: export the model '
            'again, with a codec (model.head.decoder) and the meta data of its data set'
        )
    channels = metadata['output']['channels']
    head = dict(
        type='HeatmapHead',  # mmpose's, without a layer
        in_channels=channels,
        out_channels=channels,
        deconv_out_channels=None,
        final_layer=None,
        decoder=_codec(about['codec']),
    )
    model = dict(
        type='TopdownPoseEstimator',
        data_preprocessor=_preprocessor(metadata['input'], 'Pose'),
        backbone=graph,
        head=head,
        test_cfg={key: each for key, each in about['test_cfg'].items() if key in FLIP_TEST},
    )
    loaded = dict(type='CheckedLoadImage')
    dataset = dict(metainfo=_keypoints(about['keypoints']), pipeline=[loaded, *_steps(about)])
    return dict(default_scope='mmpose', model=model, test_dataloader=dict(dataset=dataset))


def _steps(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the pipeline of a file, of the steps that are known: a type can name any code."""
    return [
        {
            'type': step['type'],
            **{key: _value(step[key]) for key in STEPS[step['type']] if key in step},
        }
        for step in about.get('pipeline') or ()
        if step.get('type') in STEPS
    ]


def _codec(given: Mapping[str, Any]) -> dict[str, Any]:
    import mmpose.codecs  # noqa: F401  registers them
    from mmpose.registry import KEYPOINT_CODECS

    kind = given['type']
    if kind not in KEYPOINT_CODECS.module_dict:
        raise SegformerPlusPlusError(f'the file names the codec {kind!r}, which mmpose has not')
    return {key: _value(each) for key, each in given.items()}


def _value(value: Any) -> Any:
    """Returns lists as the tuples that OpenMMLab's classes ask for."""
    return tuple(map(_value, value)) if isinstance(value, list) else value


def _keypoints(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns mmpose's parsed meta data as it was before JSON."""
    import numpy as np

    meta = dict(given)
    meta['keypoint_id2name'] = {int(k): name for k, name in given['keypoint_id2name'].items()}
    arrays = 'keypoint_colors', 'skeleton_link_colors', 'dataset_keypoint_weights', 'sigmas'
    for key in arrays:
        if meta.get(key) is not None:
            meta[key] = np.array(meta[key])
    return meta


def _describe(path: Path, metadata: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    size = sizes_in_words(metadata['shape'], steps_of(metadata))
    merging = metadata['token_merging']['preset'] or 'of its own'
    left_out = about.get('left_out')
    without = f'; without these steps of its pipeline: {", ".join(left_out)}' if left_out else ''
    return (
        f'{path.name}: {metadata["output"]["channels"]} channels of {metadata["output"]["name"]}, '
        f'{metadata["format"]}, {metadata.get("precision", "fp32")}, {size}, '
        f'token merging: {merging}{without}'
    )


def takes_size(size: Sequence[int], shape: Sequence[int], steps: Sequence[int] | None) -> bool:
    """Says whether a file takes images of this height and width, see ``ExportedGraph``."""
    if steps is None:
        return tuple(size) == tuple(shape)
    return all(side % steps[0] == 0 and side >= steps[1] for side in size)


def sizes_in_words(shape: Sequence[int], steps: Sequence[int] | None) -> str:
    """Returns '512x1024', or 'multiples of 32 from 64 on'."""
    if steps is None:
        return 'x'.join(map(str, shape))
    return f'multiples of {steps[0]} from {steps[1]} on'


@dataclass(frozen=True)
class ExportedFile:
    """Stands where a strategy could stand: the same model, exported, in the place of the model.

    Attributes:
        path: of the file.
    """

    path: str

    @cached_property
    def record(self) -> dict[str, Any]:
        """Returns what a record of measurements says of the file, which is read once.

        Raises:
            SegformerPlusPlusError: see ``exported_config``.
        """
        path = Path(self.path)
        metadata = find_metadata(path) or {}
        weights = [path.with_suffix('.bin')] if path.suffix == '.xml' else []
        size = sum(each.stat().st_size for each in (path, *weights) if each.is_file())
        return dict(
            file=path.name,
            megabytes=size / 1e6,
            format=metadata.get('format'),
            precision=metadata.get('precision', 'fp32'),
            token_merging=metadata.get('token_merging'),
        )


@MODELS.register_module(force=True)
class ExportedGraph(nn.Module):
    """Runs an exported file on the CPU, in the place of a backbone: one output, maybe of the head.

    Args:
        file: ends in '.onnx', '.xml' or '.pt2'.
        output: 'logits', 'labels' or 'heatmaps'.
        shape: height and width of its images.
        batch_size: its images at a time; None takes any number.
        steps: it takes all multiples of the first number from the second on; None takes its shape.
        layout: 'NCHW' float32, normalised; or 'NHWC' uint8, in RGB order if there are three
            channels.
        fill: value of each channel, or of all, around images that are smaller.
        in_channels: of its images.

    Raises:
        SegformerPlusPlusError: the file is missing or damaged, or it is not said what it takes.
    """

    def __init__(
        self,
        file: str,
        output: str | None = None,
        shape: Sequence[int] | None = None,
        batch_size: int | None = 1,
        steps: Sequence[int] | None = None,
        layout: str = 'NCHW',
        fill: Sequence[float] = (0,),
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if output is None or shape is None:
            missing = ' '.join(f'{key}={example}' for key, example in _SAYING.items())
            raise SegformerPlusPlusError(
                f'{file} has no metadata {METADATA!r}, so that nobody knows what it takes and '
                f'gives; say it: --cfg-options {missing} and, unless it normalises by itself, '
                'model.data_preprocessor.mean="[R,G,B]" model.data_preprocessor.std="[R,G,B]" '
                'model.data_preprocessor.bgr_to_rgb=True'
            )
        self.file = file
        self.output = output
        self.shape = int(shape[0]), int(shape[1])
        self.batch_size = batch_size
        self.steps = steps
        self.layout = layout
        self.in_channels = in_channels
        self._fill = torch.tensor(fill, dtype=torch.float32).reshape(1, -1, 1, 1)
        self.runtime, load = next(iter(self.loaders().items()))
        (self.run,) = load(1)

    def __deepcopy__(self, memo: Any) -> ExportedGraph:
        return self  # what a runtime has loaded cannot be copied, and does not change

    def loaders(self) -> dict[str, Loader]:
        """Returns how each runtime loads the file; the first one runs it here."""
        return format_of(Path(self.file)).loaders(Path(self.file))

    def takes(self, size: Sequence[int]) -> bool:
        """Says whether images of this height and width go in as they are."""
        return takes_size(size, self.shape, self.steps)

    def window(self, size: Sequence[int]) -> tuple[int, int]:
        """Returns the height and width to pad images of this size to, or to cut them into."""
        if self.steps is None:
            return self.shape
        step, least = self.steps
        height, width = (max(least, -(-side // step) * step) for side in size)
        return height, width

    def padded(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Returns images (B, C, h, w) with a border at the right and the bottom."""
        height, width = images.shape[2:]
        right, bottom = size[1] - width, size[0] - height
        if not right and not bottom:
            return images
        # a value of each channel: nothing is padded around what is left of it
        return F.pad(images - self._fill, (0, right, 0, bottom)) + self._fill

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Returns the output for images (B, C, H, W) as the toolbox's preprocessor gives them.

        Raises:
            SegformerPlusPlusError: the file was not made for this size.
        """
        if not self.takes(images.shape[2:]):
            raise SegformerPlusPlusError(
                f'images of {images.shape[2]}x{images.shape[3]}: {self.file} takes '
                f'{sizes_in_words(self.shape, self.steps)}'
            )
        parts = self.as_taken(images).split(self.batch_size or len(images))
        outputs = [self.run(self._whole(part))[: len(part)] for part in parts]
        return (torch.cat(outputs) if len(outputs) > 1 else outputs[0],)

    def as_taken(self, images: Tensor) -> Tensor:
        """Returns images (B, C, H, W) in the layout and the type of the file."""
        if self.layout == 'NHWC':
            images = images.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)
        return images.contiguous()

    def _whole(self, part: Tensor) -> Tensor:
        """Fills the last batch up with its last image."""
        missing = (self.batch_size or len(part)) - len(part)
        return torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part


@MODELS.register_module(force=True)
class ExportedHead(nn.Module):
    """Has what mmseg asks of a head whose work the graph has done.

    Args:
        num_classes: of the labels.
        out_channels: of the logits; as many, if None.
        threshold: of the sigmoid of one logit.
        align_corners: how logits are resized.
    """

    def __init__(
        self,
        num_classes: int | None,
        out_channels: int | None = None,
        threshold: float | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.num_classes = cast(int, num_classes)
        self.out_channels = out_channels or self.num_classes
        self.threshold = threshold

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        """Returns the one output of the graph."""
        return outputs[0]

    def predict(self, outputs: Sequence[Tensor], metas: Sequence[Any], test_cfg: Any) -> Tensor:
        """Returns logits (B, K, H, W) of the images' size in the network."""
        size = metas[0].get('pad_shape', metas[0]['img_shape'])[:2]
        corners = self.align_corners
        return F.interpolate(outputs[0], tuple(size), mode='bilinear', align_corners=corners)
