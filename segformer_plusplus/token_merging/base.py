"""Defines the two contracts: a strategy makes a plan, and a plan merges and unmerges tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ..errors import TokenMergingError

try:
    from mmengine.registry import Registry
except ImportError:  # strategies need no more of a registry than this

    class Registry:  # type: ignore[no-redef]
        """Keeps classes by name, as far as mmengine's registry is used here."""

        def __init__(self, name: str, scope: str, locations: list[str]) -> None:
            self.name, self.scope = name, scope
            self.module_dict: dict[str, type] = {}

        def get(self, key: str) -> type | None:
            return self.module_dict.get(key)

        def register_module(
            self, name: str | None = None, force: bool = False, module: type | None = None
        ) -> Any:
            if module is None:  # as a decorator
                return lambda each: self.register_module(name, force, each)
            key = name or module.__name__
            if key in self.module_dict and not force:
                raise KeyError(f'{key} is already registered in {self.name}')
            self.module_dict[key] = module
            return module


TOKEN_MERGERS = Registry('token merger', scope='segformer_plusplus', locations=[__package__])
"""Holds every strategy by name. Register your own with ``@TOKEN_MERGERS.register_module()``."""

Grid = tuple[int, int]


class MergePlan(ABC):
    """Knows which tokens of a batch belong together, and merges any tensor of that grid so.

    Attributes:
        num_tokens: N, the tokens before merging.
        num_merged: M <= N, the tokens after merging.
    """

    def __init__(self, num_tokens: int, num_merged: int) -> None:
        self.num_tokens = num_tokens
        self.num_merged = num_merged

    @abstractmethod
    def merge(self, tokens: Tensor) -> Tensor:
        """Averages the tokens of every group: (B, N, C) -> (B, M, C), for any C and float dtype."""

    @abstractmethod
    def unmerge(self, tokens: Tensor) -> Tensor:
        """Copies every merged token to all places that it stands for: (B, M, C) -> (B, N, C)."""

    @abstractmethod
    def sizes(self) -> Tensor:
        """Counts the tokens of every merged one: (B or 1, M), integers that sum to N."""

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.num_tokens} -> {self.num_merged} tokens)'


class TokenMerger(ABC):
    """Is a strategy: it looks at the tokens of a block and decides which of them to merge.

    Subclass it, implement ``plan``, register the class in ``TOKEN_MERGERS``, and name it
    in a config like the built-in ones. A strategy holds settings only: no parameters, and no
    state that changes from call to call, so that a checkpoint fits under every strategy.
    """

    @abstractmethod
    def plan(self, tokens: Tensor, grid: Grid) -> MergePlan:
        """Decides which tokens are merged; the plan carries no gradient of its own.

        Args:
            tokens: (B, N, C), what the attention is about to project, row by row over the grid.
            grid: (H, W) in tokens, with H * W == N.
        """

    def __repr__(self) -> str:
        settings = ', '.join(f'{k}={v!r}' for k, v in vars(self).items() if k[0] != '_')
        return f'{type(self).__name__}({settings})'


class IdentityPlan(MergePlan):
    """Merges nothing."""

    def __init__(self, num_tokens: int, device: torch.device) -> None:
        super().__init__(num_tokens, num_tokens)
        self._device = device

    def merge(self, tokens: Tensor) -> Tensor:
        return tokens

    def unmerge(self, tokens: Tensor) -> Tensor:
        return tokens

    def sizes(self) -> Tensor:
        return torch.ones(1, self.num_tokens, dtype=torch.long, device=self._device)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Turns autocast off, if it is on: torch.export cannot save a region that changes nothing."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_grid(tokens: Tensor, grid: Grid) -> None:
    """Raises unless ``tokens`` is (B, H * W, C) for this ``grid``."""
    if tokens.dim() != 3 or tokens.shape[1] != grid[0] * grid[1]:
        raise TokenMergingError(
            f'tokens of shape {tuple(tokens.shape)} do not lie on a grid of {grid[0]}x{grid[1]}: '
            'expected (batch, height * width, channels)'
        )


def check_ratio(ratio: float, most: float, reason: str, owner: str) -> float:
    """Returns ``ratio`` if it lies in [0, most]; ``reason`` says where the bound comes from."""
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise TokenMergingError(f'{owner}: ratio={ratio!r} is not a number in [0, 1]')
    if ratio > most:
        raise TokenMergingError(
            f'{owner}: ratio={ratio} cannot be reached, at most {most:.6g} of the tokens can be '
            f'merged away ({reason}); lower the ratio or enlarge the stride'
        )
    return float(ratio)


def check_stride(stride: int | tuple[int, int] | list[int], owner: str) -> tuple[int, int]:
    """Returns ``stride`` as (rows, columns); an int stands for both."""
    pair = (stride, stride) if isinstance(stride, int) else stride
    valid = (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(s, int) and not isinstance(s, bool) and s >= 1 for s in pair)
    )
    if not valid:
        raise TokenMergingError(
            f'{owner}: stride={stride!r} is not a positive integer or a pair (rows, columns)'
        )
    return pair[0], pair[1]


def tokens_to_image(tokens: Tensor, grid: Grid) -> Tensor:
    """Views tokens (B, H * W, C) as a channels-last image (B, C, H, W)."""
    return tokens.unflatten(1, grid).permute(0, 3, 1, 2)


def image_to_tokens(image: Tensor) -> Tensor:
    """Turns an image (B, C, H, W) into tokens (B, H * W, C); copies none that is channels-last."""
    image = image.contiguous(memory_format=torch.channels_last)
    return image.permute(0, 2, 3, 1).flatten(1, 2)
