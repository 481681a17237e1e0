"""Checks COCO keypoint files: what mmpose would drop without a word, or train on wrongly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from segformer_plusplus.loading.leave_out import CocoFile

Found = tuple[str, str | None, str]
"""A check, the image's path (None: no image of the file), and a detail."""


def check_people(
    coco: CocoFile,
    keypoints: int,
    sizes: Mapping[str, tuple[int, int]],
    wanted: Callable[[str], bool],
) -> Iterator[Found]:
    """Yields all that is wrong with an annotation file, in its order.

    Args:
        coco: The file.
        keypoints: Number of keypoints of a person.
        sizes: Width and height of the decoded images, by path.
        wanted: Whether an image, by path, is to be checked.
    """
    images: dict[Any, dict[str, Any]] = {}
    files: Counter[str] = Counter()
    for image in coco.images:
        missing = [key for key in ('id', 'file_name', 'width', 'height') if key not in image]
        if missing:
            yield 'annotation', None, f'image {image.get("id")} has no {missing[0]}'
            continue
        path = coco.path(image)
        if image['id'] in images:
            yield 'annotation', path, f'its image id {image["id"]} stands twice'
        images[image['id']] = image
        files[path] += 1
        if files[path] == 2:
            yield 'listed_twice', path, f'a second time as image {image["id"]}'
        annotated, size = (image['width'], image['height']), sizes.get(path)
        if size is not None and annotated != size and wanted(path):
            yield 'annotated_size', path, f'{_pair(size)}, annotated as {_pair(annotated)}'
    seen: set[Any] = set()
    for person in coco.annotations:
        name = f'annotation {person.get("id")}'
        of_image = images.get(person.get('image_id'))
        if of_image is None:
            yield 'annotation', None, f'{name}: no image has id {person.get("image_id")}'
            continue
        path = coco.path(of_image)
        if not wanted(path):
            continue
        if 'id' not in person or person['id'] in seen:
            yield 'annotation', path, f'{name}: its id stands twice or not at all'
        seen.add(person.get('id'))
        size = sizes.get(path, (of_image['width'], of_image['height']))
        for check, detail in _check_person(person, size, keypoints):
            yield check, path, f'{name}: {detail}'


def count_people(coco: CocoFile, paths: Collection[str]) -> int:
    """Counts the people with keypoints on these images."""
    names = {image.get('id'): coco.path(image) for image in coco.images if 'file_name' in image}
    return sum(
        names.get(person.get('image_id')) in paths and _left_out(person) is None
        for person in coco.annotations
    )


def _left_out(person: Mapping[str, Any]) -> str | None:
    """Says why mmpose leaves out a person as the file means it to; None if it does not."""
    if person.get('iscrowd'):
        return 'a crowd'
    for key, name in (('keypoints', 'keypoints'), ('bbox', 'box')):
        if key not in person:
            return f'no {name}'
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
        points = person.get('keypoints')
        lost = reason == 'no box' and isinstance(points, list) and any(points[2::3])
        yield 'box_missing' if lost else 'not_annotated', reason
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
            where = f'keypoint {number} at x={x:g}, y={y:g}'
            yield 'keypoint_outside', f'{where}; the image has {_pair(size)}'
            return


def _pair(size: tuple[Any, Any]) -> str:
    return f'{size[0]} x {size[1]}'
