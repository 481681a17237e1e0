"""What a call asks for, read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables.tables import Table

SYNTHETIC = 'synthetic'
DTYPES = 'float32', 'bfloat16', 'float16'

# what mmengine's --cfg-options take apart or away
_NOT_IN_OPTIONS = re.compile(r"""[\s,()\[\]'"]""")


@dataclass(frozen=True)
class Settings:
    """Of one call of ``tools/reproduce.py``.

    Attributes:
        root: of the repository.
        out: where everything is written.
        data_root: with the published data sets; not used for drawn data.
        checkpoints: with weights of the rows.
        synthetic: draw data, and train MiT-B0 for ``iterations``.
        train: train the rows for which there are no weights.
        device: 'cpu' or 'cuda'.
        dtype: of what is timed.
        batch_size: of what is timed; None for the table's on a GPU and 1 on a CPU.
        rounds: that are timed; None for 10 on a GPU and 3 on a CPU.
        iterations: of training on drawn data.
    """

    root: Path
    out: Path
    data_root: Path
    checkpoints: Path
    synthetic: bool = False
    train: bool = False
    device: str = 'cpu'
    dtype: str = 'float32'
    batch_size: int | None = None
    rounds: int | None = None
    iterations: int = 60

    def __post_init__(self) -> None:
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise SegformerPlusPlusError('--device cuda: PyTorch finds no CUDA device here')
        for option, path in (('--out', self.out), ('--data-root', self.data_root)):
            if _NOT_IN_OPTIONS.search(str(path)):
                raise SegformerPlusPlusError(
                    f'{option} {path}: spaces, commas, brackets and quotes cannot be passed on '
                    'to the tools; name another folder'
                )

    @property
    def data(self) -> str:
        """'real' or 'synthetic'."""
        return SYNTHETIC if self.synthetic else 'real'

    def batch_size_of(self, table: Table) -> int:
        """Images in one call of what is timed."""
        if self.batch_size is not None:
            return self.batch_size
        return table.batch_size if self.device == 'cuda' and not self.synthetic else 1

    @property
    def timed_rounds(self) -> int:
        """Rounds that are timed."""
        return self.rounds or (10 if self.device == 'cuda' else 3)

    def check_tables(self, tables: list[Table]) -> None:
        """Raise for what these tables cannot be measured with."""
        training = [table.name for table in tables if table.timed == 'training']
        if self.dtype == 'float16' and training:
            raise SegformerPlusPlusError(
                f'--dtype float16: {", ".join(training)} time training steps, which take float32 '
                'or bfloat16'
            )
