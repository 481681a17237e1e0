"""What a format has to do: write a program, read what it recorded, run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from ...libraries import require

METADATA = 'segformer_plusplus'
"""The key under which a file holds its metadata, one JSON object."""

Runner = Callable[[Tensor], Tensor]
"""Images to the one output, both on the CPU."""


class Format(ABC):
    """A kind of file.

    Attributes:
        name: what ``export_model`` calls it.
        suffix: its files' names end so.
        libraries: modules that writing and checking need.
        has_opset: whether its graph is made of the operators of an ONNX opset.
    """

    name: str
    suffix: str
    libraries: tuple[str, ...] = ()
    has_opset = True

    def require(self) -> None:
        """Raise unless the libraries are installed.

        Raises:
            MissingDependencyError: says how to install them.
        """
        for library in self.libraries:
            require(library, f'the format {self.name!r}')

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
        """Write the program, with the metadata in it, to a file that is not there yet."""

    @abstractmethod
    def read_metadata(self, path: Path) -> str | None:
        """The JSON text under :data:`METADATA`, None where there is none.

        Raises:
            SegformerPlusPlusError: the file cannot be read.
        """

    @abstractmethod
    def runners(self, path: Path) -> dict[str, Runner]:
        """The file in every runtime that is installed and runs it, in float32 on the CPU.

        Raises:
            SegformerPlusPlusError: a runtime refuses the file.
        """
