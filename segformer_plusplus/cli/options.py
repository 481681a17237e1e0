"""Options that several commands have."""

import argparse
import os
from typing import Any

from mmengine.config import DictAction

from .guard import add_traceback_argument


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options`` and ``--traceback``, which every tool has."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionAction,
        metavar='KEY=VALUE',
        help='settings to change in the config, for example '
        'train_dataloader.batch_size=4 optim_wrapper.optimizer.lr=1e-4; lists as key="[a,b]"',
    )
    add_traceback_argument(parser)


class _OptionAction(DictAction):
    """mmengine's ``DictAction``, which meets an option without '=' with a traceback."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def parse_shape(text: str) -> tuple[int, int]:
    """'1024x2048' -> (1024, 2048): height, width; a type for argparse."""
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no shape; write HEIGHTxWIDTH, as 512x1024')
    return int(height), int(width)


def parse_positive(text: str) -> int:
    """A whole number above 0; a type for argparse."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--launcher`` and ``--local-rank``, for distributed runs."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started (default: %(default)s)',
    )
    # torch.distributed.launch passes one spelling or the other, by its version.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def set_local_rank(local_rank: int) -> None:
    """Hands ``--local-rank`` on to mmengine, unless the launcher has set ``LOCAL_RANK``."""
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
