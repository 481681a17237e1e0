"""Checks COCO keypoint files: what mmpose would drop without a word, or train on wrongly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segformer_plusplus.loading.leave_out import CocoFile

Found = tuple[str, str | None, str]
"""A check, the image's path (None: no image of the file), and a detail."""


@dataclass(frozen=True)
class People:
    """Checks the people of an annotation file.

    Attributes:
        coco: The file.
        keypoints: Number of keypoints of a person.
        sizes: Width and height of the decoded images, by path.
        wanted: Whether an image, by path, is to be checked.
    """

    coco: CocoFile
    keypoints: int
    sizes: Mapping[str, tuple[int, int]]
    wanted: Callable[[str], bool]

    def check(self) -> Iterator[Found]:
        """All that is wrong, in the order of the file."""
        images: dict[Any, dict[str, Any]] = {}
        files: Counter[str] = Counter()
        for image in self.coco.images:
            missing = [key for key in ('id', 'file_name', 'width', 'height') if key not in image]
            if missing:
                yield 'annotation', None, f'image {image.get("id")} has no {missing[0]}'
                continue
            path = self.coco.path(image)
            if image['id'] in images:
                yield 'annotation', path, f'its image id {image["id"]} stands twice'
            images[image['id']] = image
            files[path] += 1
            if files[path] == 2:
                yield 'listed_twice', path, f'a second time as image {image["id"]}'
            annotated, size = (image['width'], image['height']), self.sizes.get(path)
            if size is not None and annotated != size and self.wanted(path):
                yield 'annotated_size', path, f'{_pair(size)}, annotated as {_pair(annotated)}'
        yield from self._check_people(images)

    def _check_people(self, images: Mapping[Any, Mapping[str, Any]]) -> Iterator[Found]:
        seen: set[Any] = set()
        for person in self.coco.annotations:
            image = images.get(person.get('image_id'))
            name = f'annotation {person.get("id")}'
            if image is None:
                yield 'annotation', None, f'{name}: no image has id {person.get("image_id")}'
                continue
            path = self.coco.path(image)
            if not self.wanted(path):
                continue
            if 'id' not in person or person['id'] in seen:
                yield 'annotation', path, f'{name}: its id stands twice or not at all'
            seen.add(person.get('id'))
            size = self.sizes.get(path, (image['width'], image['height']))
            for check, detail in _check_person(person, size, self.keypoints):
                yield check, path, f'{name}: {detail}'


def count_people(coco: CocoFile, paths: Collection[str]) -> int:
    """Number of people with keypoints on these images."""
    names = {image.get('id'): coco.path(image) for image in coco.images if 'file_name' in image}
    return sum(
        names.get(person.get('image_id')) in paths and _left_out(person) is None
        for person in coco.annotations
    )


def _left_out(person: Mapping[str, Any]) -> str | None:
    """Why mmpose leaves out a person as the file means it to; None if it does not."""
    if person.get('iscrowd'):
        return 'a crowd'
    if 'keypoints' not in person or 'bbox' not in person:
        return 'no keypoints' if 'keypoints' not in person else 'no box'
    values = person['keypoints']
    if isinstance(values, list) and not any(values[2::3]):
        if person.get('num_keypoints', int(any(values))) == 0:
            return 'no keypoint is annotated'
    return None


def _check_person(
    person: Mapping[str, Any], size: tuple[int, int], keypoints: int
) -> Iterator[tuple[str, str]]:
    reason = _left_out(person)
    if reason is not None:
        yield 'not_annotated', reason
        return
    values, box = person['keypoints'], person['bbox']
    for key, numbers in (('keypoints', values), ('bbox', box)):
        if not isinstance(numbers, list) or not all(isinstance(n, int | float) for n in numbers):
            yield 'annotation', f'{key} is no list of numbers'
            return
    if len(box) != 4:
        yield 'annotation', f'bbox has {len(box)} numbers, not x, y, width and height'
        return
    yield from _check_box(box, size)
    if len(values) != 3 * keypoints:
        yield 'keypoint_count', f'{len(values)} numbers, {keypoints} keypoints have {3 * keypoints}'
        return
    yield from _check_points(values, person.get('num_keypoints'), size)


def _check_box(box: list[float], size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    text = 'x={:g}, y={:g}, width={:g}, height={:g}'.format(*box)
    x, y, width, height = box
    if not (width > 0 and height > 0 and all(map(math.isfinite, box))):
        yield 'box_empty', text
    # mmpose clips to the centres of the outermost pixels, and drops a box of which nothing is left
    elif not (min(x + width, size[0] - 1) > max(x, 0) and min(y + height, size[1] - 1) > max(y, 0)):
        yield 'box_outside', f'{text}; the image has {_pair(size)}'
    elif x < -1 or y < -1 or x + width > size[0] + 1 or y + height > size[1] + 1:
        yield 'box_clipped', f'{text}; the image has {_pair(size)}'


def _check_points(
    values: list[float], declared: int | None, size: tuple[int, int]
) -> Iterator[tuple[str, str]]:
    points = list(zip(values[::3], values[1::3], values[2::3], strict=True))
    visible = sum(bool(seen) for _, _, seen in points)
    if not visible:
        yield 'keypoints_invisible', 'every visibility is 0'
        return
    if declared is not None and declared != visible:
        yield 'keypoint_count', f'num_keypoints is {declared}, but {visible} are annotated'
    for number, (x, y, seen) in enumerate(points):
        if seen and not (0 <= x < size[0] and 0 <= y < size[1]):
            yield (
                'keypoint_outside',
                f'keypoint {number} at x={x:g}, y={y:g}; the image has {_pair(size)}',
            )
            return


def _pair(size: tuple[Any, Any]) -> str:
    return f'{size[0]} x {size[1]}'
