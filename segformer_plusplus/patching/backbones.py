"""Finds the SegFormer backbones of a built model and switches token merging on and off."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import EllipsisType
from typing import Any

from torch import nn

from ..errors import SegformerPlusPlusError, TokenMergingError
from ..libraries import what_to_do
from ..mit.attention import MergedAttention
from ..token_merging import InputDownsampling, TokenMerging, TokenMergingConfig, build_token_merging
from ..token_merging.records import from_record, to_record

_MIT = 'MixVisionTransformer'
_ADAPTERS = {
    ('segformer_plusplus.mit.backbone', 'MixVisionTransformerPlusPlus'): 'backbones.OwnBackbone',
    ('mmseg.models.backbones.mit', _MIT): 'mmseg.Backbone',
    ('transformers.models.segformer.modeling_segformer', 'SegformerModel'): 'transformers.Backbone',
    ('segmentation_models_pytorch.encoders.mix_transformer', _MIT): 'smp.Backbone',
}
"""Module and class of a backbone, and the class here that adapts it.

Known by name: to look for a library's class must not import the library.
"""

_BEFORE = 'token_merging_before'


def apply_token_merging(
    model: nn.Module, token_merging: TokenMergingConfig | EllipsisType = ...
) -> None:
    """Lets the backbone of a model merge tokens, in place.

    The parameters stay the same tensors under the same names, so that checkpoints, optimizers and
    DDP see no difference. Applied again, the last strategy holds. With 'none' nothing is merged
    and outputs are those of the model before, to rounding.

    A model of Transformers has the strategy in its config from now on, as ``token_merging``, so
    that ``save_pretrained`` keeps it; a warning says so of one that JSON cannot hold.

    Args:
        model: has a SegFormer backbone of mmsegmentation, Transformers, segmentation_models.pytorch
            or this package anywhere inside; all of them are changed.
        token_merging: whatever the backbone's ``token_merging`` takes: a preset such as 'hq', or
            one dict per stage. Under 'downsampling' a model whose head does not resize to the
            input returns a smaller result, as with the backbone of this package. Without it, the
            one in the config of a model of Transformers.

    Raises:
        SegformerPlusPlusError: no such backbone, one that is not as it is known here, or a strategy
            that is unknown, does not fit or is in no config. The model is then as it was.
    """
    # every backbone is checked before the first one changes
    backbones = find_backbones(model)
    plans = []
    for backbone in backbones:
        if isinstance(token_merging, EllipsisType):
            plans.append(backbone.kept())
        else:
            plans.append(build_token_merging(token_merging, len(backbone.blocks)))
    for backbone, merging in zip(backbones, plans, strict=True):
        backbone.check(merging)
    for backbone, merging in zip(backbones, plans, strict=True):
        backbone.apply(merging)
        if not isinstance(token_merging, EllipsisType):
            backbone.keep(token_merging, merging)


def remove_token_merging(model: nn.Module) -> None:
    """Takes back what ``apply_token_merging`` did: outputs are bit for bit those of before.

    A model on which it was not called stays as it is. A backbone of this package gets the strategy
    back that it had before. The config of a model of Transformers holds none afterwards.

    Raises:
        SegformerPlusPlusError: the model has no backbone that could have been changed.
    """
    for backbone in find_backbones(model):
        backbone.remove()
        backbone.forget()


class PatchableBackbone(ABC):
    """Shows a backbone inside a model in one way, whatever library it is from.

    Args:
        module: the backbone.
        name: of the module in the model, for messages.

    Attributes:
        blocks: those of each stage.
        attention_name: what a block calls its attention.
    """

    attention_name = 'attn'

    def __init__(self, module: Any, name: str) -> None:
        self.module = module
        self.name = name
        self.blocks: list[list[nn.Module]] = self._find_blocks()

    @abstractmethod
    def _find_blocks(self) -> list[list[nn.Module]]:
        """Returns the blocks of each stage."""

    @abstractmethod
    def check(self, merging: TokenMerging) -> None:
        """Raises unless ``apply`` will succeed."""

    @abstractmethod
    def apply(self, merging: TokenMerging) -> None:
        """Lets the backbone merge like this from now on."""

    @abstractmethod
    def remove(self) -> None:
        """Undoes ``apply``."""

    @abstractmethod
    def merging(self) -> TokenMerging:
        """Returns the strategies that are set now, or raises as ``attentions``."""

    @abstractmethod
    def set_merging(self, merging: TokenMerging) -> None:
        """Exchanges the strategies of a backbone that ``apply`` was called on."""

    def saved_config(self) -> Any:
        """Returns the config that the library saves with the model; None if it saves none."""
        return None

    def keep(self, token_merging: TokenMergingConfig, merging: TokenMerging) -> None:
        """Has a strategy, as given and as built, saved with the model, or warns that it is not."""
        self.forget()
        config = self.saved_config()
        if config is None:
            return
        try:
            config.token_merging = to_record(token_merging, merging)
        except TokenMergingError as error:
            warnings.warn(f'save_pretrained will not keep token_merging: {error}', stacklevel=3)

    def kept(self) -> TokenMerging:
        """Returns what ``keep`` kept, on this model or on the one that was saved.

        Raises:
            TokenMergingError: there is nothing, or nothing that can be used.
        """
        where = f'the config of {self.name or "the model"}'
        record = getattr(self.saved_config(), 'token_merging', None)
        if record is None:
            raise TokenMergingError(
                f"{where} has no token_merging; give one, such as apply_token_merging(model, 'hq')"
            )
        try:
            stages = len(self.blocks)
            return build_token_merging(from_record(record, stages), stages)
        except TokenMergingError as error:
            raise TokenMergingError(f'{where}: {error}') from error

    def forget(self) -> None:
        """Undoes ``keep``."""
        config = self.saved_config()
        if config is not None:
            vars(config).pop('token_merging', None)

    def attention(self, block: nn.Module) -> Any:
        """Returns the attention of a block."""
        return getattr(block, self.attention_name)

    def attentions(self) -> list[list[MergedAttention]]:
        """Returns the attentions of each stage in order.

        Raises:
            SegformerPlusPlusError: nothing was applied to this backbone.
        """
        found = [[self.attention(block) for block in stage] for stage in self.blocks]
        if not all(isinstance(each, MergedAttention) for stage in found for each in stage):
            raise SegformerPlusPlusError(
                f'{self.name or "the model"} does not merge tokens yet, call '
                'apply_token_merging first'
            )
        return found


class OwnBackbone(PatchableBackbone):
    """Adapts ``MixVisionTransformerPlusPlus``."""

    def _find_blocks(self) -> list[list[nn.Module]]:
        return [list(blocks) for _, blocks, _ in self.module.layers]

    def check(self, merging: TokenMerging) -> None:
        """Accepts everything: the strategies are built for as many stages."""

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


class HostBackbone(PatchableBackbone):
    """Adapts a backbone of another library by giving its modules classes that merge.

    Such a class derives from the library's own and adds no parameter, so that a module keeps its
    place, its names and its hooks, and copies and pickles like any other.

    Attributes:
        library: name of the distribution, for messages.
        tested: the library and the versions whose SegFormer is known, for messages.
        swaps: the library's class -> that which takes its place.
        entry_swap: the same for the module that ``entry`` returns.
        ffn_name: what a block calls its Mix-FFN.
    """

    library: str
    tested: str
    swaps: dict[type[nn.Module], type[nn.Module]]
    entry_swap: tuple[type[nn.Module], type[nn.Module]]
    ffn_name: str

    @abstractmethod
    def entry(self) -> nn.Module:
        """Returns the module that sees the image first, and makes it smaller if asked to."""

    @abstractmethod
    def check_block(self, attention: Any, ffn: Any) -> None:
        """Raises unless the parts of a block are as the classes that take their place expect."""

    def check(self, merging: TokenMerging) -> None:
        if any(stage.share > 1 for stage in merging.stages):
            raise SegformerPlusPlusError(
                f'share: the blocks of {self.library} do not hand plans on; use a share of 1, or '
                'MixVisionTransformerPlusPlus with the converted weights'
            )
        parts = self._parts()
        for attention, ffn in parts:
            self._check_class(attention, self.swaps)
            self._check_class(ffn, self.swaps)
        for attention, ffn in parts:
            self.check_block(attention, ffn)
        if merging.downsampling is not None:
            self._check_class(self.entry(), dict([self.entry_swap]))

    def apply(self, merging: TokenMerging) -> None:
        self._swap(self.swaps)
        self.set_merging(merging)

    def merging(self) -> TokenMerging:
        strategies = tuple(stage[0].merging for stage in self.attentions())
        return TokenMerging(strategies, getattr(self.entry(), 'downsampling', None))

    def set_merging(self, merging: TokenMerging) -> None:
        for stage, strategies in zip(self.blocks, merging.stages, strict=True):
            for block in stage:
                self.attention(block).merging = strategies
        self._set_downsampling(merging.downsampling)

    def remove(self) -> None:
        self._swap({ours: theirs for theirs, ours in self.swaps.items()})
        for attention, _ in self._parts():
            vars(attention).pop('merging', None)
        self._set_downsampling(None)

    def _set_downsampling(self, downsampling: InputDownsampling | None) -> None:
        theirs, ours = self.entry_swap
        entry: Any = self.entry()
        if downsampling is not None:
            entry.__class__ = ours
            entry.downsampling = downsampling
        elif type(entry) is ours:
            entry.__class__ = theirs
            del entry.downsampling

    def _parts(self) -> list[tuple[Any, Any]]:
        """Returns the attention and the Mix-FFN of every block."""
        return [
            (self.require(block, self.attention_name), self.require(block, self.ffn_name))
            for stage in self.blocks
            for block in stage
        ]

    def _swap(self, swaps: dict[type[nn.Module], type[nn.Module]]) -> None:
        for parts in self._parts():
            for module in parts:
                module.__class__ = swaps.get(type(module), type(module))

    def _check_class(
        self, module: nn.Module, swaps: dict[type[nn.Module], type[nn.Module]]
    ) -> None:
        kind = type(module)
        if kind not in (*swaps, *swaps.values()):
            expected = ' or '.join(f'{each.__module__}.{each.__qualname__}' for each in swaps)
            found = f'{kind.__module__}.{kind.__qualname__}'
            raise self.unknown(module, f'is a {found}, not {expected}')
        forward = vars(module).get('forward')
        if forward is not None and not getattr(forward, 'calls_class', False):
            raise self.unknown(module, 'has a forward of its own, put there by something else')

    def require(self, module: Any, *names: str) -> Any:
        """Returns the last of the attributes ``names``; raises if the module lacks one of them."""
        missing = [name for name in names if not hasattr(module, name)]
        if missing:
            raise self.unknown(module, f'has no {" and no ".join(missing)}')
        return getattr(module, names[-1])

    def check_depthwise(self, conv: Any) -> None:
        """Raises unless this is the 3x3 depthwise convolution of a Mix-FFN."""
        names = ('kernel_size', 'stride', 'padding', 'dilation', 'groups')
        self.require(conv, 'in_channels', *names)
        found = tuple(getattr(conv, name) for name in names)
        if found != ((3, 3), (1, 1), (1, 1), (1, 1), conv.in_channels):
            raise self.unknown(conv, f'has {dict(zip(names, found, strict=True))}')

    def check_scale(self, attention: Any, name: str, channels: int) -> None:
        """Raises unless the scores are scaled as usual for heads of so many channels."""
        scale = self.require(attention, name)
        if scale != channels**-0.5:
            raise self.unknown(attention, f'scales by {scale}, not {channels**-0.5}')

    def unknown(self, module: nn.Module, what: str) -> SegformerPlusPlusError:
        """Returns the error that a module is not as it is known here."""
        inside = next((name for name, each in self.module.named_modules() if each is module), '')
        where = '.'.join(filter(None, [self.name, inside])) or type(module).__name__
        try:
            installed = f'{self.library} {version(self.library)}'
        except PackageNotFoundError:
            installed = f'another one than {self.library}'
        return SegformerPlusPlusError(
            f'{where} {what}; token merging knows the SegFormer of {self.tested}, '
            f'installed is {installed}'
        )


def find_backbones(model: nn.Module) -> list[PatchableBackbone]:
    """Finds all SegFormer backbones of a model, whether wrapped or not.

    Raises:
        SegformerPlusPlusError: there is none, or one of a version that is not known.
    """
    if not isinstance(model, nn.Module):
        raise SegformerPlusPlusError(
            f'token merging is for a model (torch.nn.Module), not for a {type(model).__name__}'
        )
    found = []
    for name, module in model.named_modules():
        bases = ((base.__module__, base.__qualname__) for base in type(module).__mro__)
        adapter = next((_ADAPTERS[base] for base in bases if base in _ADAPTERS), None)
        if adapter is not None:
            found.append(_load(adapter)(module, name))
    if not found:
        known = ', '.join(f'{kind} ({module})' for module, kind in _ADAPTERS)
        raise SegformerPlusPlusError(
            f'nothing to merge in this {type(model).__name__}: no module of it is one of {known}'
        )
    return found


def _load(adapter: str) -> type[PatchableBackbone]:
    module, _, name = adapter.partition('.')
    try:
        return getattr(import_module(f'.{module}', __package__), name)
    except ImportError as error:
        library = (error.name or module).partition('.')[0]
        raise SegformerPlusPlusError(
            f'the SegFormer of the installed {library} is not the one that token merging knows '
            f'({error}); {what_to_do(library)}'
        ) from error
