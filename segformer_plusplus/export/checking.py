"""Compares an exported file with the model in PyTorch, in every runtime."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..segmentation.labels import choose
from .description import describe_merging
from .formats import Runner, format_of, read_metadata
from .graph import normalise, predict
from .precision import LIMITS, Limits

ROUNDING = 2.0**-20
"""Relative standard deviation of a change of the input: about what runtimes differ by anyway."""

TRIALS = 32
"""Changed inputs that are tried before an input is taken to be decided."""


@dataclass(frozen=True)
class Check:
    """Holds how near a file comes to PyTorch in one runtime, at the worst input that counts.

    Attributes:
        seed: that the inputs were drawn with; None of images that were given.
        relative_error: of logits or heatmaps; None for labels.
        equal_labels: share of equal labels or largest logits; None for heatmaps.
        undecided: inputs that do not count, see ``check_export``.
    """

    runtime: str
    shapes: tuple[tuple[int, ...], ...]
    seed: int | None
    relative_error: float | None
    equal_labels: float | None
    undecided: int


def check_export(
    path: str | Path,
    model: nn.Module,
    rounds: int = 2,
    seed: int | None = None,
    images: Sequence[Tensor] = (),
) -> list[Check]:
    """Compares a file of ``export_model`` with its model in PyTorch, in every installed runtime.

    The images are new every time: noise, and smooth ones. Of a dynamic batch or size several are
    taken. On every input the file has to keep the ``precision.LIMITS`` of its precision. The
    ranges of int8 are those of the images that it was calibrated on, which random ones leave: it is
    compared on images of that kind, which are given.

    Matching chooses: where two similarities are equal to rounding, another order of additions
    merges other tokens. So an input on which the file is beyond these limits does not count if
    PyTorch is beyond them itself once the input is changed by ``ROUNDING``; of all inputs at
    most half may be such.

    Args:
        path: the file.
        model: with the same weights and strategies, on any device, in float32.
        rounds: noise and smooth images so many times.
        seed: draws the same images again.
        images: batches as the file takes them, in the place of random ones.

    Raises:
        SegformerPlusPlusError: the results differ, the file is of a model with other strategies, or
            a runtime refuses it; or int8 without images.
        MissingDependencyError: no runtime is installed.
    """
    path = Path(path)
    metadata = read_metadata(path)
    reference = _Reference(copy.deepcopy(model).cpu().eval(), metadata)
    merging = describe_merging(reference.model.backbone.token_merging)
    if merging != metadata['token_merging']:
        raise SegformerPlusPlusError(
            f'{path.name} was exported with token_merging {metadata["token_merging"]}, '
            f'the model has {merging}'
        )
    if images:
        inputs, seed = list(images), None
    elif reference.precision == 'int8':
        raise SegformerPlusPlusError(
            f'{path.name} is int8, which random images do not fit; give images of the kind that it '
            'was calibrated on'
        )
    else:
        seed = torch.seed() if seed is None else seed
        inputs = list(_images(metadata, torch.Generator().manual_seed(seed), rounds))
    shapes = tuple(dict.fromkeys(tuple(each.shape) for each in inputs))
    expected = [reference(each) for each in inputs]
    checks = []
    for runtime, run in format_of(path).runners(path).items():
        found = []
        for each, wanted in zip(inputs, expected, strict=True):
            difference = _compare(_run(run, runtime, path, each), wanted, metadata)
            if difference.keeps(reference.limits) or not reference.is_undecided(each, wanted):
                found.append(difference)
        undecided = len(inputs) - len(found)
        check = Check(runtime, shapes, seed, *_worst(found), undecided)
        kept = all(each.keeps(reference.limits) for each in found)
        if not kept or 2 * undecided > len(inputs):
            raise SegformerPlusPlusError(_complaint(path, check, len(inputs), reference.limits))
        checks.append(check)
    return checks


def describe_checks(checks: Sequence[Check], precision: str) -> dict[str, Any]:
    """Returns what the metadata of a file says of how it was checked."""
    return {
        'limits': LIMITS[precision]._asdict(),
        'images': 'random' if checks[0].seed is not None else 'kept back of the calibration',
        'seen': [
            dict(
                runtime=each.runtime,
                relative_error=each.relative_error,
                equal_labels=each.equal_labels,
                undecided=each.undecided,
            )
            for each in checks
        ],
    }


class Difference(NamedTuple):
    """Holds how two outputs differ; None where the output has no such thing."""

    relative_error: float | None
    equal_labels: float | None

    def keeps(self, limits: Limits) -> bool:
        """Says whether the difference keeps the limits; nan does not."""
        error, equal = self.relative_error or 0.0, self.equal_labels
        return error <= limits.relative_error and (equal is None or equal >= limits.equal_labels)


@dataclass
class _Reference:
    """Runs the model in PyTorch, on its own fast paths, on the inputs of a file."""

    model: Any
    metadata: Mapping[str, Any]

    @property
    def precision(self) -> str:
        """Is that of the file; one that is older than precisions is float32."""
        return self.metadata.get('precision', 'fp32')

    @property
    def limits(self) -> Limits:
        """Are those of the file's precision."""
        return LIMITS[self.precision]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self._predict(self._normalise(images))

    @torch.inference_mode()
    def is_undecided(self, images: Tensor, expected: Tensor) -> bool:
        """Says whether changes by rounding alone change the output beyond the limits."""
        normalised = self._normalise(images)
        generator = torch.Generator().manual_seed(0)
        for _ in range(TRIALS):
            noise = torch.randn(normalised.shape, generator=generator)
            changed = self._predict(normalised * (1 + ROUNDING * noise))
            if not _compare(changed, expected, self.metadata).keeps(self.limits):
                return True
        return False

    def _predict(self, images: Tensor) -> Tensor:
        return predict(self.model, images, self.metadata['output']['name'])

    def _normalise(self, images: Tensor) -> Tensor:
        return normalise(self.model, images) if images.dtype == torch.uint8 else images


def _run(run: Runner, runtime: str, path: Path, images: Tensor) -> Tensor:
    try:
        return run(images)
    except Exception as error:  # the runtimes' errors have no common base class
        raise SegformerPlusPlusError(
            f'{runtime} cannot run {path.name} on {tuple(images.shape)}: {error}'
        ) from error


def _worst(found: list[Difference]) -> Difference:
    errors = [each.relative_error for each in found if each.relative_error is not None]
    equal = [each.equal_labels for each in found if each.equal_labels is not None]
    # nan is the worst, whatever it is compared with
    error = max(errors, key=lambda value: (value != value, value), default=None)
    return Difference(error, min(equal, default=None))


def _complaint(path: Path, check: Check, inputs: int, limits: Limits) -> str:
    parts = []
    if check.relative_error is not None:
        allowed = f'(allowed {limits.relative_error:.0e})'
        parts.append(f'relative error {check.relative_error:.1e} {allowed}')
    if check.equal_labels is not None:
        parts.append(f'{check.equal_labels:.2%} equal labels (needed {limits.equal_labels:.1%})')
    if check.undecided:
        parts.append(f'{check.undecided} of {inputs} inputs decided by rounding')
    return (
        f'{path.name} differs from the model in PyTorch when {check.runtime} runs it: '
        f'{", ".join(parts)}; '
        + (
            'the images given'
            if check.seed is None
            else f'random images of seed {check.seed}; the next export draws other ones'
        )
    )


def _images(
    metadata: Mapping[str, Any], generator: torch.Generator, rounds: int
) -> Iterator[Tensor]:
    """Draws inputs of the file: in turn noise, and noise at a sixteenth of the size, enlarged."""
    batches = [1, 3] if metadata['dynamic']['batch'] else [metadata['batch_size']]
    shape, channels = tuple(metadata['shape']), metadata['input']['channels']
    sizes = [(shape, batch) for batch in batches]
    if metadata['dynamic']['size']:
        step, least = metadata['size_step'], metadata['smallest_side']
        shapes = [shape, (least, least + 3 * step), (least + step, least)]
        sizes = list(zip(shapes, cycle(batches), strict=False))
    for shape, batch in sizes * rounds:
        coarse = [max(1, side // 16) for side in shape]
        small = torch.randn(batch, channels, *coarse, generator=generator)
        noise = torch.randn(batch, channels, *shape, generator=generator)
        for images in (noise, F.interpolate(small, shape, mode='bicubic')):
            if metadata['input']['type'] == 'uint8':
                images = (images * 64 + 128).round().clamp(0, 255).to(torch.uint8)
                images = images.permute(0, 2, 3, 1).contiguous()
            yield images


def _compare(result: Tensor, expected: Tensor, metadata: Mapping[str, Any]) -> Difference:
    if result.shape != expected.shape:
        raise SegformerPlusPlusError(
            f'the file gives {tuple(result.shape)}, PyTorch {tuple(expected.shape)}'
        )
    kind = metadata['output']['name']
    if kind == 'labels':
        return Difference(None, float((result == expected).double().mean()))
    largest = float(expected.abs().max()) or 1.0
    error = float((result - expected).abs().max()) / largest
    if kind == 'heatmaps':
        return Difference(error, None)
    threshold = metadata['output'].get('threshold')
    equal = choose(result, threshold) == choose(expected, threshold)
    return Difference(error, float(equal.double().mean()))
