"""Computes the cross entropy of logits of low resolution without keeping those of full size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss
from mmseg.models.losses.cross_entropy_loss import cross_entropy
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..mit.plain import is_untouched

STRIP = {'cpu': 2**20}
"""Limits the logits of a strip, which stay in the cache of a CPU."""

STRIP_ELSEWHERE = 2**24

EPSILON = torch.finfo(torch.float32).eps
"""Is added to every count that divides, as in mmseg."""


def takes_strips(loss: nn.Module) -> bool:
    """Says whether a loss is mmseg's plain cross entropy, averaged, and nothing watches it."""
    return (
        type(loss) is CrossEntropyLoss
        and loss.cls_criterion is cross_entropy
        and loss.reduction == 'mean'
        and is_untouched(loss)
    )


def strip_losses(
    loss: Any, logits: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Computes a loss and the accuracy as of bilinearly resized logits, equal to rounding.

    Some rows are resized at a time. Kept for the backward pass is the gradient with respect to the
    logits as they came. Half precision is resized and summed in float32.

    Args:
        loss: one that ``takes_strips``.
        logits: (B, K, h, w).
        labels: (B, H, W).
        ignore_index: label of the pixels that do not count.

    Returns:
        The loss, and the accuracy as ``percent`` counts it.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    classes = loss.class_weight
    weight = None if classes is None else logits.new_tensor(classes, dtype=dtype)
    counted = labels != ignore_index
    average: Tensor | int
    if weight is not None:
        average = weight[labels[counted]].sum()
    else:
        average = counted.sum() if loss.avg_non_ignore else labels.numel()
    learns = torch.is_grad_enabled() and logits.requires_grad
    total, correct = _StripLosses.apply(logits, labels, weight, ignore_index, dtype, learns)
    return loss.loss_weight * (total / (average + EPSILON)), percent(correct, counted.sum())


def percent(correct: Tensor, counted: Tensor) -> Tensor:
    """Returns the percent (1,) of labelled pixels whose largest logit is that of their label."""
    return 100 * (correct.reshape(1) + EPSILON) / (counted + EPSILON)


class _StripLosses(torch.autograd.Function):
    """Sums the losses of the pixels and counts correct ones; the gradient is computed with them."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        weight: Tensor | None,
        ignore_index: int,
        dtype: torch.dtype,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        """Goes through the strips."""
        height = labels.shape[1]
        above, below, share = _rows(logits.shape[2], height, logits.device, dtype)
        # not in half precision: without a scaled loss, the gradient of a pixel is too small for it
        gradient = torch.zeros_like(logits, dtype=dtype) if learns else None
        total = logits.new_zeros((), dtype=dtype)
        correct = labels.new_zeros(())
        limit = STRIP.get(logits.device.type, STRIP_ELSEWHERE)
        rows = max(1, limit // (logits.shape[1] * labels[:, 0].numel()))
        for start in range(0, height, rows):
            strip = slice(start, start + rows)
            own, up, down, part = labels[:, strip], above[strip], below[strip], share[strip, None]
            upper, lower = (logits.index_select(2, row).to(dtype) for row in (up, down))
            lines = upper.lerp(lower, part).requires_grad_(learns)
            with torch.set_grad_enabled(learns):
                resized = F.interpolate(lines, own.shape[1:], mode='bilinear')
                loss = F.cross_entropy(
                    resized, own, weight, ignore_index=ignore_index, reduction='sum'
                )
            total += loss.detach()
            correct += ((resized.argmax(dim=1) == own) & (own != ignore_index)).sum()
            if gradient is not None:
                (of_lines,) = torch.autograd.grad(loss, lines)
                of_lower = of_lines * part
                gradient.index_add_(2, down, of_lower)
                gradient.index_add_(2, up, of_lines - of_lower)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, *outer: Any) -> tuple[Any, ...]:
        """Scales the gradient."""
        # PyTorch's once_differentiable would be silent where the outer gradient is a constant
        if torch.is_grad_enabled():
            raise SegformerPlusPlusError(
                'this cross entropy has no second derivative (create_graph=True); a subclass of '
                "mmseg's CrossEntropyLoss has one"
            )
        (gradient,) = ctx.saved_tensors
        return (gradient * outer[0]).to(ctx.dtype), *[None] * 5


def _rows(
    source: int, target: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the two rows between which each row of a resized image lies, and the lower's share.

    All are (target,), and computed as PyTorch's ``interpolate`` does.
    """
    rows = torch.arange(target, device=device, dtype=dtype)
    place = ((rows + 0.5) * (source / target) - 0.5).clamp(min=0)
    above = place.long()
    return above, (above + 1).clamp(max=source - 1), place - above
