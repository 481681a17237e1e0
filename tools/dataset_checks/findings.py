"""Lists what a check of a dataset can find, and reports what it found."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """Describes a kind of finding.

    Attributes:
        title: What the tables call it.
        fixable: Whether leaving out the image mends it.
        note: Whether it is worth knowing, but no problem.
    """

    title: str
    fixable: bool = True
    note: bool = False


def _note(title: str) -> Check:
    return Check(title, fixable=False, note=True)


CHECKS: dict[str, Check] = {
    'model': Check('model and data do not fit', fixable=False),
    'load': Check('annotations that the dataset cannot load', fixable=False),
    'annotation': Check('malformed annotation', fixable=False),
    'listed_twice': Check('image listed twice', fixable=False),
    'image_missing': Check('image missing'),
    'image_no_file': Check('named like an image, but no file', fixable=False),
    'image_unreadable': Check('image unreadable'),
    'image_values': Check('image of numbers that are no colours'),
    'image_bits': Check('image of 16 bits', fixable=False),
    'label_missing': Check('label missing'),
    'label_unreadable': Check('label unreadable'),
    'label_format': Check('label not one channel of 8 bits'),
    'label_size': Check('image and label differ in size'),
    'label_values': Check('label outside the classes'),
    'label_empty': Check('empty annotation: every pixel ignored'),
    'class_alone': Check('all pixels are of one class, others have none', fixable=False),
    'annotated_size': Check('image size differs from its annotation'),
    'keypoint_count': Check('wrong number of keypoints'),
    'keypoints_invisible': Check('no visible keypoint'),
    'keypoint_outside': Check('keypoint outside the image'),
    'box_missing': Check('person with keypoints but no box, left out', fixable=False),
    'box_empty': Check('box of no area'),
    'box_outside': Check('box outside the image'),
    'duplicate_within': Check('duplicate in a split'),
    'duplicate_between': Check('duplicate between splits'),
    'image_part': _note('image read in part'),
    'class_absent': _note('class without a pixel'),
    'same_name': _note('same file name in two splits'),
    'box_clipped': _note('box reaches over the border, is clipped'),
    'not_annotated': _note('person without keypoints or in a crowd, left out'),
    'image_unused': _note('image that no annotation uses'),
    'label_unused': _note('label that no image uses'),
}
"""Every kind of finding, in the order of the report."""


@dataclass(frozen=True)
class Finding:
    """Holds one thing that was found.

    Attributes:
        check: A key of `CHECKS`.
        source: The data it was found in: 'train', or 'train.0' where a split has several.
        path: The file it is about, relative to the data root.
        detail: What is wrong with it; may be empty.
        image: The image to leave out, relative to the data root; None if that is no help.
    """

    check: str
    source: str
    path: str
    detail: str = ''
    image: str | None = None

    def __str__(self) -> str:
        return f'{self.source}: {self.path}' + (f': {self.detail}' if self.detail else '')


@dataclass
class Counts:
    """Counts what there is in one source.

    Attributes:
        key: Place of its dataset in the config.
        root: The data root, as the config has it.
        images: Images that the dataset lists, less those of a leave-out list.
        checked: Images that were opened.
        labels: Label maps of the checked images.
        people: People with keypoints on the checked images.
        left_out: Images that a ``LeaveOut`` of the config takes out, relative to the data root.
    """

    key: str
    root: str
    images: int = 0
    checked: int = 0
    labels: int = 0
    people: int = 0
    left_out: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Holds what a check of a dataset found.

    Attributes:
        config: The config file.
        counts: How much there is in each source.
        findings: All findings, in the order of `CHECKS`, of the sources, and of the files.
        remarks: What was not checked, and why.
    """

    config: str
    counts: dict[str, Counts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """Lists the findings that are more than notes."""
        return [one for one in self.findings if not CHECKS[one.check].note]

    def totals(self) -> dict[str, int]:
        """Counts the findings of each check that found something."""
        amounts = Counter(one.check for one in self.findings)
        return {check: amounts[check] for check in CHECKS if amounts[check]}

    def of(self, check: str) -> list[Finding]:
        """Lists the findings of one check."""
        return [one for one in self.findings if one.check == check]

    def to_leave_out(self, source: str) -> list[str]:
        """Lists the images of a source whose absence mends it, and those left out already."""
        images = {
            one.image
            for one in self.findings
            if one.source == source and one.image is not None and CHECKS[one.check].fixable
        }
        return sorted(images.union(self.counts[source].left_out))

    def sort(self) -> None:
        """Brings the findings into their order."""
        order = {name: place for place, name in enumerate((*CHECKS, *self.counts))}
        self.findings.sort(
            key=lambda one: (order[one.check], order[one.source], one.path, one.detail)
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the report for JSON, with every finding."""
        return {
            'config': self.config,
            'problems': len(self.problems),
            'sources': {name: asdict(counts) for name, counts in self.counts.items()},
            'checks': {
                check: {
                    'title': CHECKS[check].title,
                    'note': CHECKS[check].note,
                    'count': amount,
                    'findings': [
                        {'source': one.source, 'path': one.path, 'detail': one.detail}
                        for one in self.of(check)
                    ],
                }
                for check, amount in self.totals().items()
            },
            'remarks': self.remarks,
        }
