"""What a benchmark is asked for, and the models that it compares."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from mmengine.config import Config
from torch import nn

from ...errors import SegformerPlusPlusError
from ...inference.opening import open_model
from ...token_merging import BASELINE
from .contenders import Contender, OpenMMLabModel
from .openvino_peer import OpenVinoModel, check_openvino
from .peers import (
    PEERS,
    TransformersModel,
    check_peers,
    make_levels_linear,
    mmseg_peer,
    tomesd_peer,
)

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

TOMESD = ' (tomesd)'


@dataclass(frozen=True)
class Options:
    """What all runs of a benchmark have in common.

    Attributes:
        against: the same weights in mmseg, transformers, openvino, openvino-mmseg or tomesd, in
            this order, checked for the same logits first; also with commas, mmseg,tomesd.
        checkpoint: weights, loaded strictly (default: seeded random ones).
        device: where it runs.
        dtype: of weights and images; in training, of autocast.
        rounds: timed ones.
        warmup: rounds before those.
        backbone_only: time the backbone alone.
        stages: also time backbone, head and labels by themselves.
        training: time optimisation steps (forward, backward, AdamW) instead of inference.
        compile: also time everything in PyTorch through torch.compile.
        compile_backend: of torch.compile.
        peak: also measure the machine's plain matrix products, and what share a model reaches.
    """

    against: Sequence[str] = ()
    checkpoint: str | None = None
    device: Literal['cpu', 'cuda'] = 'cpu'
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
    rounds: int = 10
    warmup: int = 2
    backbone_only: bool = False
    stages: bool = False
    training: bool = False
    compile: bool = False
    compile_backend: str = 'inductor'
    peak: bool = False

    def __post_init__(self) -> None:
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise SegformerPlusPlusError('--device cuda: PyTorch finds no CUDA device here')
        if self.rounds < 1 or self.warmup < 0:
            raise SegformerPlusPlusError(
                f'--rounds is {self.rounds} and --warmup {self.warmup}; give at least 1 and 0'
            )
        peers = tuple(dict.fromkeys(name for each in self.against for name in each.split(',')))
        for name in peers:
            if name not in PEERS:
                raise SegformerPlusPlusError(
                    f'--against: {name!r} is no peer; choose from {", ".join(PEERS)}'
                )
        object.__setattr__(self, 'against', peers)
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


class Field:
    """All contenders, built once for any number of runs.

    Args:
        variants: configs by name, of models of ours (without peers: of any model of OpenMMLab). The
            peers get the weights of the first one and are compared with it unmerged.
        options: which peers, weights, device and precision.

    Raises:
        SegformerPlusPlusError: a peer's library is missing, or cannot express the model.
    """

    def __init__(self, variants: Mapping[str, Any], options: Options) -> None:
        self.options = options
        first = next(iter(variants.values()))
        check_peers(options.against, first.model)
        self._modules = {name: self._build(cfg) for name, cfg in variants.items()}
        self._peers: dict[str, Contender] = {}
        self._unmerged: OpenMMLabModel | None = None
        if options.against:
            self._build_peers(first)
        else:
            share_weights(self._modules)

    def rows(self) -> dict[str, Contender]:
        """All rows in their order: peers first, what tomesd merges after ours."""
        rows = {name: each for name, each in self._peers.items() if not name.endswith(TOMESD)}
        for name, module in self._modules.items():
            rows[name] = OpenMMLabModel(module)
            if name + TOMESD in self._peers:
                rows[name + TOMESD] = self._peers[name + TOMESD]
        return rows

    def counterparts(self, rows: Mapping[str, Contender]) -> Iterator[tuple[str, Contender]]:
        """Each peer's name, and what of ours it must equal."""
        for name in self._peers:
            if name.endswith(TOMESD):
                yield name, rows[name.removesuffix(TOMESD)]
            elif self._unmerged is not None:
                yield name, self._unmerged

    def _build(self, config: Any) -> nn.Module:
        opened: nn.Module = open_model(
            config,
            self.options.checkpoint,
            random_weights=True,
            device=self.options.device,
            dtype=self.options.weight_dtype,
        )
        return opened

    def _build_peers(self, first: Any) -> None:
        cfg = copy.deepcopy(first)
        config = cfg.model
        config.backbone.update(token_merging=BASELINE, tome_cfg=None)
        unmerged = self._build(cfg)
        share_weights({'unmerged': unmerged, **self._modules})
        self._unmerged = OpenMMLabModel(unmerged)
        for peer in self.options.against:
            if peer == 'mmseg':
                self._peers[peer] = OpenMMLabModel(self._build_mmseg(config, unmerged))
            elif peer == 'transformers':
                self._peers[peer] = TransformersModel(config, unmerged)
            elif peer == 'openvino':
                self._peers[peer] = OpenVinoModel(unmerged, 'our model, unmerged')
            elif peer == 'openvino-mmseg':
                theirs = self._build_mmseg(config, unmerged)
                self._peers[peer] = OpenVinoModel(theirs, "mmseg's own modules")
            else:
                self._peers |= self._build_tomesd()

    def _build_mmseg(self, config: Mapping[str, Any], unmerged: nn.Module) -> nn.Module:
        theirs = open_model(
            Config(dict(model=mmseg_peer(config), default_scope='mmseg')),
            random_weights=True,
            device=self.options.device,
            dtype=self.options.weight_dtype,
        )
        make_levels_linear(theirs, unmerged)
        theirs.load_state_dict(unmerged.state_dict(), strict=True)
        return theirs

    def _build_tomesd(self) -> dict[str, Contender]:
        made = {f'{name}{TOMESD}': tomesd_peer(each) for name, each in self._modules.items()}
        peers: dict[str, Contender] = {name: each for name, each in made.items() if each}
        if not peers:
            raise SegformerPlusPlusError(
                f'--against tomesd: none of {", ".join(self._modules)} merges by '
                'BipartiteSoftMatching2d; add --token-merging hq, or fast'
            )
        return peers


def share_weights(models: Mapping[str, nn.Module]) -> None:
    """Gives the weights of the first model to all models that have the same parameters."""
    first, *others = models.values()
    state = first.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for model in others:
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state, strict=True)
