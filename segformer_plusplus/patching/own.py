"""The backbone of this package: it only changes its strategies."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..token_merging import TokenMerging
from .backbones import PatchableBackbone

_BEFORE = 'token_merging_before'


class Backbone(PatchableBackbone):
    """``MixVisionTransformerPlusPlus``."""

    def _find_blocks(self) -> list[list[nn.Module]]:
        return [list(blocks) for _, blocks, _ in self.module.layers]

    def attention(self, block: Any) -> Any:
        return block.attn

    def check(self, merging: TokenMerging) -> None:
        """Nothing can go wrong: the strategies are built for as many stages."""

    def apply(self, merging: TokenMerging) -> None:
        vars(self.module).setdefault(_BEFORE, self.module.token_merging)
        self.set_merging(merging)

    def merging(self) -> TokenMerging:
        return self.module.token_merging

    def set_merging(self, merging: TokenMerging) -> None:
        self.module.set_token_merging(merging)

    def remove(self) -> None:
        before = vars(self.module).pop(_BEFORE, None)
        if before is not None:
            self.set_merging(before)
