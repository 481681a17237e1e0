"""What a check of a dataset can find, and the report of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Check:
    """One kind of finding.

    Attributes:
        title: In words.
        fixable: Whether leaving out the image mends it.
        note: Worth knowing, but not a problem.
    """

    title: str
    fixable: bool = True
    note: bool = False


CHECKS: dict[str, Check] = {
    'load': Check('annotations that the dataset cannot load', fixable=False),
    'annotation': Check('malformed annotation', fixable=False),
    'listed_twice': Check('image listed twice', fixable=False),
    'image_missing': Check('image missing'),
    'image_unreadable': Check('image unreadable'),
    'label_missing': Check('label missing'),
    'label_unreadable': Check('label unreadable'),
    'label_format': Check('label not one channel of 8 bits'),
    'label_size': Check('image and label differ in size'),
    'label_values': Check('label outside the classes'),
    'label_empty': Check('empty annotation: every pixel ignored'),
    'annotated_size': Check('image size differs from its annotation'),
    'keypoint_count': Check('wrong number of keypoints'),
    'keypoints_invisible': Check('no visible keypoint'),
    'keypoint_outside': Check('keypoint outside the image'),
    'box_empty': Check('box of no area'),
    'box_outside': Check('box outside the image'),
    'duplicate_within': Check('duplicate in a split'),
    'duplicate_between': Check('duplicate between splits'),
    'same_name': Check('same file name in two splits', fixable=False, note=True),
    'box_clipped': Check('box reaches over the border, is clipped', fixable=False, note=True),
    'not_annotated': Check(
        'person without keypoints or in a crowd, left out', fixable=False, note=True
    ),
    'image_unused': Check('image that no annotation uses', fixable=False, note=True),
    'label_unused': Check('label that no image uses', fixable=False, note=True),
}
"""Every kind of finding, in the order of the report."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

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
    """How much there is of one source.

    Attributes:
        key: Of its dataset in the config.
        root: The data root, as the config has it.
        images: That the dataset lists, less those of a leave-out list.
        checked: Of these, opened.
        labels: Label maps of the checked images.
        people: Annotated with keypoints, on images that were checked.
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
    """What a check of a dataset found.

    Attributes:
        config: The config file.
        counts: For each source.
        findings: In the order of `CHECKS`, then of the sources, then of the files.
        remarks: What was not checked, and why.
    """

    config: str
    counts: dict[str, Counts] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """The findings that are more than notes."""
        return [one for one in self.findings if not CHECKS[one.check].note]

    def totals(self) -> dict[str, int]:
        """How often each check found something; checks without a finding are not in it."""
        amounts = Counter(one.check for one in self.findings)
        return {check: amounts[check] for check in CHECKS if amounts[check]}

    def of(self, check: str) -> list[Finding]:
        """The findings of one check."""
        return [one for one in self.findings if one.check == check]

    def to_leave_out(self, source: str) -> list[str]:
        """The images of a source whose absence mends it, those that are left out already included.

        Sorted, and relative to its data root.
        """
        found = {
            one.image
            for one in self.problems
            if one.source == source and one.image is not None and CHECKS[one.check].fixable
        }
        return sorted(found.union(self.counts[source].left_out))

    def sort(self) -> None:
        """Brings the findings into their order, whatever order they came in."""
        checks, sources = list(CHECKS), list(self.counts)
        self.findings.sort(
            key=lambda one: (
                checks.index(one.check),
                sources.index(one.source),
                one.path,
                one.detail,
            )
        )

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON; every finding is in it."""
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
