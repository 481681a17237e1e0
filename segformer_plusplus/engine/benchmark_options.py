"""What a benchmark is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import SegformerPlusPlusError
from .openvino_peer import check_openvino

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True)
class Options:
    """What all runs of a benchmark have in common.

    Attributes:
        against: out of :data:`~.peers.PEERS`; their rows stand in this order.
        checkpoint: weights, loaded strictly; None for seeded random ones.
        device: 'cpu' or 'cuda'.
        dtype: of weights and images, a key of ``DTYPES``; in training, of autocast.
        rounds: timed ones.
        warmup: rounds before those.
        backbone_only: time the backbone alone.
        stages: time the parts by themselves, too.
        training: time optimisation steps instead of inference.
        compile: add a row through ``torch.compile`` for everything in PyTorch.
        compile_backend: of ``torch.compile``.
        peak: measure the machine's matrix products, and what share of that a model reaches.
    """

    against: tuple[str, ...] = ()
    checkpoint: str | None = None
    device: str = 'cpu'
    dtype: str = 'float32'
    rounds: int = 10
    warmup: int = 2
    backbone_only: bool = False
    stages: bool = False
    training: bool = False
    compile: bool = False
    compile_backend: str = 'inductor'
    peak: bool = False

    def __post_init__(self) -> None:
        if self.training:
            for flag, given in (('compile', self.compile), ('backbone-only', self.backbone_only)):
                if given:
                    raise SegformerPlusPlusError(f'--training and --{flag} exclude each other')
            if any(peer.startswith('openvino') for peer in self.against):
                raise SegformerPlusPlusError('--against openvino: it does not train')
            if self.dtype == 'float16':
                raise SegformerPlusPlusError(
                    '--training takes --dtype float32 or bfloat16 (autocast): float16 needs a '
                    'scaled loss'
                )
        if any(peer.startswith('openvino') for peer in self.against):
            check_openvino(self.device, DTYPES[self.dtype])

    @property
    def weight_dtype(self) -> torch.dtype:
        """Of weights and images; in training, autocast rounds what float32 is multiplied with."""
        return torch.float32 if self.training else DTYPES[self.dtype]


@dataclass(frozen=True)
class Setting:
    """What differs between the runs of a benchmark.

    Attributes:
        shape: height and width of the images, in pixels.
        batch_size: images of one call.
        threads: of PyTorch, and of OpenVINO.
    """

    shape: tuple[int, int]
    batch_size: int
    threads: int
