"""Checks the data of a config before hours are spent: every file opened, every label counted."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.sources import IMAGE_SUFFIXES
from segformer_plusplus.loading.leave_out import absolute, write_list
from tools.dataset_checks.coco import check_people, count_people
from tools.dataset_checks.duplicates import Copy, find_duplicates
from tools.dataset_checks.findings import Counts, Finding, Report
from tools.dataset_checks.fitting import find_misfits
from tools.dataset_checks.images import FileJob, FileResult, open_files
from tools.dataset_checks.sources import Source, read_sources
from tools.dataset_files import check_whole, run

_NAMED = 5
IMAGES_PER_PROCESS = 50  # fewer are read sooner than another process starts


def inspect_data(
    cfg: Config,
    *,
    splits: Sequence[str] | None = None,
    jobs: int = 1,
    limit: int | None = None,
    hashes: bool = True,
    progress: bool = True,
) -> Report:
    """Checks everything that the data loaders of a config will read.

    The findings do not depend on `jobs`. With more than one job the calling script needs the
    usual `if __name__ == '__main__':`.

    Args:
        cfg: A config of mmseg or mmpose.
        splits: Out of 'train', 'val' and 'test'; None for those that the config has.
        jobs: Number of processes at most.
        limit: Check only so many images of each dataset.
        hashes: Whether to compare images by content; otherwise only the same file is found again.
        progress: Whether to show a progress bar, on stderr.

    Raises:
        SegformerPlusPlusError: For an argument that is not allowed, or where there is nothing to
            check: a folder, a file or all images missing, a dataset that cannot be built.
    """
    check_whole('jobs', jobs, 1)
    if limit is not None:
        check_whole('limit', limit, 1)
    sources, remarks = read_sources(cfg, splits)
    report = Report(str(cfg.filename or ''), remarks=remarks)
    chosen = [(source, path) for source in sources for path in list(source.labels)[:limit]]
    copies = []
    amounts = {source.name: np.zeros(256, np.int64) for source in sources}
    sizes: dict[str, dict[str, tuple[int, int]]] = {source.name: {} for source in sources}
    for (source, path), result in zip(chosen, _open(chosen, jobs, hashes, progress), strict=True):
        image = source.shown(path)
        for check, detail in result.found:
            about = source.labels[path] if check.startswith('label') else path
            report.findings.append(source.finding(check, about or path, detail, image))
        if result.amounts is not None:
            amounts[source.name] += result.amounts
        if result.size is not None:
            sizes[source.name][path] = result.size
            content = result.digest or os.path.realpath(path)
            copies.append(Copy(source.split, source.name, absolute(path), image, content))
    for source in sources:
        checked = [path for owner, path in chosen if owner is source]
        report.counts[source.name] = Counts(
            key=source.key,
            root=source.root,
            images=len(source.labels),
            checked=len(checked),
            labels=sum(source.labels[path] is not None for path in checked),
            people=count_people(source.coco, set(checked)) if source.coco else 0,
            left_out=sorted(map(source.shown, source.left_out)),
        )
        report.findings += _of_list(source, checked, sizes[source.name])
        report.findings += _absent(source, amounts[source.name])
        if source.coco is None and source.label_folder is None:
            report.remarks.append(f'{source.name}: no annotations that are read here, images only')
    report.findings += find_duplicates(copies)
    report.findings += find_misfits(cfg, sources)
    if not hashes:
        report.remarks.append('images were not compared by content (--no-hash)')
    if limit is not None:
        report.remarks.append(f'only the first {limit} image(s) of each dataset were checked')
    report.sort()
    return report


def write_fix_lists(report: Report, path: str | os.PathLike[str]) -> list[Path]:
    """Writes what to leave out, a file for each dataset: ``fix.txt`` gives ``fix.train.txt``.

    Args:
        report: The result of `inspect_data`.
        path: The name that theirs are made of. Files that are there are replaced.

    Returns:
        The files; those of clean datasets list nothing.
    """
    base, written = Path(path), []
    for name, counts in report.counts.items():
        images = report.to_leave_out(name)
        header = (
            f'{len(images)} image(s) of {counts.key} to leave out, found by',
            f'tools/check_dataset.py {report.config}',
            f'paths start at {counts.root or "the working directory"}; use it as',
            f"dataset=dict(type='LeaveOut', leave_out='<this file>', dataset=<{counts.key}>)",
        )
        target = base.with_name(f'{base.stem}.{name}{base.suffix or ".txt"}')
        write_list(target, images, header)
        written.append(target)
    return written


def _open(
    chosen: Sequence[tuple[Source, str]], jobs: int, hashes: bool, progress: bool
) -> list[FileResult]:
    """Opens all images; returns the results in their order."""
    sources = {source.name: source for source, _ in chosen}
    rules = {name: source.rule for name, source in sources.items()}
    loading = {name: source.loading for name, source in sources.items()}
    work = [
        FileJob(path, source.labels[path], rules[source.name], hashes, loading[source.name])
        for source, path in chosen
    ]
    done = run(open_files, work, min(jobs, len(work) // IMAGES_PER_PROCESS))
    console = Console(stderr=True)
    try:
        return list(
            track(done, 'Checking images', len(work), console=console, disable=not progress)
        )
    except BrokenProcessPool as error:
        raise SegformerPlusPlusError(
            'a process died while it opened images, of too little memory or of a broken file; '
            'try --jobs 1'
        ) from error


def _of_list(
    source: Source, checked: Sequence[str], sizes: dict[str, tuple[int, int]]
) -> Iterator[Finding]:
    """Yields what is wrong with a dataset's list, its annotation file, and its folders."""
    inside = set(checked)
    for path in dict.fromkeys(source.twice):
        if path in inside:
            yield source.finding('listed_twice', path)
    if source.load_error:
        yield source.finding('load', source.dataset.ann_file, source.load_error)
    if source.coco is not None:
        limited = len(checked) < len(source.labels)

        def wanted(path: str) -> bool:
            # what the dataset has dropped itself, perhaps by mistake
            dropped = path not in source.labels and absolute(path) not in source.left_out
            return path in inside or (dropped and source.whole and not limited)

        keypoints = source.dataset.metainfo['num_keypoints']
        for check, image, detail in check_people(source.coco, keypoints, sizes, wanted):
            path = image or source.dataset.ann_file
            yield source.finding(check, path, detail, source.shown(path) if image else None)
    if source.whole:
        yield from _unused(source)


def _absent(source: Source, amounts: np.ndarray) -> Iterator[Finding]:
    """Names the classes that no pixel of the checked label maps has."""
    classes, ignore = source.dataset.metainfo.get('classes') or (), source.rule.ignore
    absent = [f'{k} ({name})' for k, name in enumerate(classes) if not amounts[k]]
    if absent and amounts.any():
        more = f' and {len(absent) - _NAMED} more' if len(absent) > _NAMED else ''
        detail = f'{", ".join(absent[:_NAMED])}{more} of {len(classes)} classes'
        if ignore in range(256) and amounts[ignore]:
            detail += f'; {amounts[ignore]} pixel(s) are {ignore}, which is ignored'
        check = 'class_alone' if len(classes) - len(absent) == 1 else 'class_absent'
        yield source.finding(check, source.label_folder or '', detail)


def _unused(source: Source) -> Iterator[Finding]:
    """Yields the files in the dataset's folders that it does not list."""
    known = source.used | source.left_out
    label_suffix = getattr(source.dataset, 'seg_map_suffix', '').lower()
    for check, folder, suffixes in (
        ('image_unused', source.image_folder, IMAGE_SUFFIXES),
        ('label_unused', source.label_folder, label_suffix),
    ):
        for place, folders, names in os.walk(folder) if folder else ():
            for name in sorted(folders + names):
                path = os.path.join(place, name)
                fits = name.lower().endswith(suffixes) and not name.startswith('.')
                if not fits or absolute(path) in known:
                    continue
                if Path(path).is_file():
                    yield source.finding(check, path)
                elif check == 'image_unused':
                    why = 'a folder' if Path(path).is_dir() else 'a link to nothing'
                    yield source.finding('image_no_file', path, why)
