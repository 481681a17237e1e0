"""What one optimisation step costs: forward, backward, AdamW."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SegformerPlusPlusError
from .contenders import Contender
from .peers import exact_convolutions

TOLERANCES = {
    torch.float32: {'loss': 1e-4, 'gradient': 1e-2},
    torch.bfloat16: {'loss': 1e-2, 'gradient': 3e-1},
}
"""By the precision of the forward pass. Gradients carry the rounding of the whole model twice."""

_RATES = ('p', 'drop_prob', 'dropout', 'attention_dropout')
"""What modules of the libraries call the probability of their dropout."""


class TrainingStep:
    """Forward in training mode, the library's own loss, backward, AdamW, gradients thrown away.

    The learning rate is 0: a step costs the same, and all models keep equal weights however many
    steps each of them does.

    Args:
        contender: is set to training mode.
        images: (B, 3, H, W), normalised, float32.
        targets: of :meth:`.Contender.random_targets`.
        dtype: of the forward pass; below float32 it runs under autocast on float32 weights, as
            training in mixed precision does.
    """

    def __init__(
        self,
        contender: Contender,
        images: Tensor,
        targets: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.contender = contender
        self.dtype = dtype
        self._images, self.targets = images, targets
        contender.module.train()
        parameters = [p for p in contender.module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.01)
        self._loss: Tensor | None = None

    def __call__(self) -> None:
        """One step."""
        for part in self.parts().values():
            part()

    def parts(self) -> dict[str, Callable[[], Any]]:
        """'forward', 'backward' and 'step', to be called in this order."""
        return {'forward': self._forward, 'backward': self._backward, 'step': self._step}

    def loss(self) -> Tensor:
        """The loss of a forward pass."""
        device = self._images.device.type
        mixed = self.dtype != torch.float32
        with torch.autocast(device, dtype=self.dtype if mixed else None, enabled=mixed):
            return self.contender.loss(self._images, self.targets)

    def _forward(self) -> None:
        self._loss = self.loss()

    def _backward(self) -> None:
        if self._loss is None:
            raise RuntimeError('backward comes after forward')
        self._loss.backward()
        self._loss = None

    def _step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def check_same_step(ours: TrainingStep, peer: TrainingStep, name: str) -> dict[str, float]:
    """Relative differences of two steps without any dropout.

    Returns:
        'loss', and 'gradient' (largest difference over the largest entry) of the weights of the
        first convolution, which every later part of the model has a share in: random weights make
        the loss nearly that of a guess, whatever the model.

    Raises:
        SegformerPlusPlusError: one of them is above ``TOLERANCES``: these are different steps.
    """
    with exact_convolutions():
        (one, one_gradient), (other, other_gradient) = map(_loss_and_gradient, (ours, peer))
    difference = (one_gradient - other_gradient).abs().max() / other_gradient.abs().max()
    errors = {'loss': abs(one - other) / abs(other), 'gradient': float(difference)}
    for what, error in errors.items():
        tolerance = TOLERANCES[peer.dtype][what]
        if not error <= tolerance:
            raise SegformerPlusPlusError(
                f'the {what} of a training step of {name} differs from ours by {error:.1e} (loss '
                f'{other:.6g} and {one:.6g}), allowed is {tolerance:.0e}; the comparison would be '
                'of different steps'
            )
    return errors


def _loss_and_gradient(step: TrainingStep) -> tuple[float, Tensor]:
    first = next(step.contender.backbone.parameters())
    with without_dropout(step.contender.module):
        loss = step.loss()
    return float(loss.detach()), torch.autograd.grad(loss, first)[0]


@contextlib.contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Sets every dropout and drop path in it to 0 and back again."""
    rates = [
        (each, name, getattr(each, name))
        for each in module.modules()
        for name in _RATES
        if isinstance(getattr(each, name, None), float)
    ]
    for each, name, _ in rates:
        setattr(each, name, 0.0)
    try:
        yield
    finally:
        for each, name, rate in rates:
            setattr(each, name, rate)
