"""Counts what a training step of MiT keeps for its backward pass, without a GPU.

python tools/benchmarks/activations.py --json docs/gpu/activations.json

Tensors lie on a CUDA device that need not be there. What is kept is counted once for each memory,
without parameters; attention keeps what PyTorch's fused one does.
"""

import sys
from collections.abc import Callable
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segformer_plusplus.cli.options import Positive, Shape, command
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.files import write_json
from segformer_plusplus.inference.configs import backbone_settings, load_config
from segformer_plusplus.inference.opening import _build

CONFIG = 'segformer_plusplus::cityscapes/segformer_mit-{}_none_1xb4-160k_cityscapes-1024x1024.py'
PRESETS = 'none', 'hq', 'fast', '2x2', 'weighted'
AGAIN = False, 'conv', 'ffn', True


class _Fused(torch.autograd.Function):
    """Keeps what PyTorch's fused attention does: its input, its output, a number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Returns nothing of meaning: (B, heads, N, C / heads), heads last in memory."""
        result = torch.empty_like(query.transpose(1, 2).contiguous()).transpose(1, 2)
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, result, sums)
        return result


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0
) -> Tensor:
    """Stands for ``F.scaled_dot_product_attention``, which fake tensors take apart."""
    if torch.is_autocast_enabled('cuda'):
        query, key, value = (each.bfloat16() for each in (query, key, value))
    attend: Callable[..., Tensor] = _Fused.apply
    return attend(query, key, value)


def kept(
    arch: str, preset: str, with_cp: bool | str, half: bool, batch: int, shape: tuple[int, int]
) -> int:
    """Returns the bytes that one step keeps; ``half`` is bfloat16 autocast."""
    config = load_config(CONFIG.format(arch))
    backbone_settings(config).update(token_merging=preset, with_cp=with_cp)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device('cuda'):
        model: Any = _build(config, 'mmseg').train()
        ours = {each.untyped_storage()._cdata for each in model.parameters()}
        found: dict[int, Any] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in ours:
                found[storage._cdata] = storage  # alive, so that no other one gets its address
            return tensor

        images = torch.empty(batch, 3, *shape)
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast('cuda', torch.bfloat16, enabled=half),
            mock.patch.object(F, 'scaled_dot_product_attention', fused_attention),
        ):
            logits = model.decode_head(model.extract_feat(images))
    # the loss keeps the gradient of the logits, see segformer_plusplus.segmentation.loss
    return sum(storage.nbytes() for storage in found.values()) + 4 * logits.numel()


@command
def main(
    *,
    arch: Literal['b0', 'b1', 'b2', 'b3', 'b4', 'b5'] = 'b5',
    batch_size: Positive = 4,
    shape: Shape = (1024, 1024),
    json: str | None = None,
) -> None:
    """Count what a training step keeps for its backward pass, by preset and with_cp.

    Args:
        arch: of the backbone.
        batch_size: images of a step.
        shape: height and width of the images.
        json: write the bytes.
    """
    rows = []
    table = Table('dtype', 'preset', *map(str, AGAIN), title='GB kept, by model.backbone.with_cp')
    # autocast asks for a GPU
    with (
        mock.patch('torch.cuda.amp.common.amp_definitely_not_available', lambda: False),
        mock.patch('torch.cuda.is_bf16_supported', lambda *_, **__: True),
    ):
        for half in (False, True):
            for preset in PRESETS:
                sizes = {
                    str(each): kept(arch, preset, each, half, batch_size, shape) for each in AGAIN
                }
                dtype = 'bfloat16 autocast' if half else 'float32'
                rows.append(dict(dtype=dtype, preset=preset, bytes=sizes))
                table.add_row(dtype, preset, *(f'{each / 1e9:.2f}' for each in sizes.values()))
    Console().print(table)
    if json:
        conditions = dict(arch=arch, batch_size=batch_size, shape=shape)
        write_json(json, dict(conditions, rows=rows, environment=describe_environment()))


if __name__ == '__main__':
    sys.exit(main(prog='python tools/benchmarks/activations.py'))
