"""Who takes part in a benchmark: our models and their peers, all with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..errors import SegformerPlusPlusError
from .benchmark_options import Options
from .contenders import Contender, OpenMMLabModel
from .models import build_model, share_weights
from .openvino_peer import OpenVinoModel
from .peers import (
    TransformersModel,
    check_peers,
    make_levels_linear,
    mmseg_peer,
    tomesd_peer,
)

TOMESD = ' (tomesd)'


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
        self._modules = {
            name: self._build(cfg.model, cfg.get('default_scope', 'mmengine'))
            for name, cfg in variants.items()
        }
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

    def _build(self, model: Mapping[str, Any], scope: str) -> nn.Module:
        options = self.options
        return build_model(
            model, scope, options.checkpoint, options.device, self.options.weight_dtype
        )

    def _build_peers(self, first: Any) -> None:
        config = copy.deepcopy(first.model)
        config.backbone.update(token_merging='none', tome_cfg=None)
        unmerged = self._build(config, 'mmseg')
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
        theirs = build_model(
            mmseg_peer(config), device=self.options.device, dtype=self.options.weight_dtype
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
