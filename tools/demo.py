"""The paper's inference table on synthetic street scenes: train once, test under every strategy.

Every step is a run of the ordinary tools, whose commands are written down with the table.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg)

# isort: split
import numpy as np
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset
from PIL import Image
from rich.console import Console

from segformer_plusplus.datasets import write_cityscapes
from segformer_plusplus.engine.benchmarking import describe_environment
from segformer_plusplus.engine.cli import write_json, write_text
from segformer_plusplus.engine.guard import main_guard
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.reporting import Row, StrategyTable, draw_comparison
from segformer_plusplus.version import __version__

ROOT = Path(__file__).resolve().parent.parent
CONFIG = 'configs/synthetic/segformer_mit-b0_{}_1xb2-demo_synthetic-cityscapes.py'
STRATEGIES = ('none', 'hq', 'fast', '2x2', 'downsampling')
SHAPE = (1024, 2048)
TRAIN_IMAGES, VAL_IMAGES = 80, 8
ROUNDS = 5


def build_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path('work_dirs/demo'), metavar='DIR')
    parser.add_argument('--data-root', type=Path, default=Path('data/demo_cityscapes'))
    parser.add_argument('--workers', type=int, default=2, help='processes that draw the scenes')
    parser.add_argument('--traceback', action='store_true', help='show the whole traceback')
    return parser


class Tools:
    """Runs the project's tools as a user would, and remembers the commands."""

    def __init__(self, console: Console) -> None:
        self.commands: list[str] = []
        self._console = console

    def run(self, name: str, *arguments: str | Path, log: Path | None = None) -> None:
        """Run ``tools/<name>.py``; its output goes to ``log`` if given.

        Raises:
            SegformerPlusPlusError: it failed.
        """
        words = ['python', f'tools/{name}.py', *map(str, arguments)]
        self.commands.append(shlex.join(words))
        self._console.print(f'[bold]$ {shlex.join(words)}[/bold]', soft_wrap=True, highlight=False)
        command = [sys.executable, *words[1:]]
        if log is None:
            code = subprocess.run(command, cwd=ROOT, check=False).returncode
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open('w') as stream:
                code = subprocess.run(
                    command, cwd=ROOT, check=False, stdout=stream, stderr=subprocess.STDOUT
                ).returncode
        if code:
            where = f', see {log}' if log else ''
            raise SegformerPlusPlusError(f'{words[1]} failed with exit code {code}{where}')


def train(tools: Tools, out: Path, data_root: Path, data: list[str]) -> Path:
    """Train without merging, or go on where an interrupted run stopped; return the checkpoint."""
    config = CONFIG.format('none')
    cfg = Config.fromfile(ROOT / config)
    # what another version of the config or other scenes left behind is not gone on with
    scenes = json.loads((data_root / 'scenes.json').read_text())
    content = json.dumps([cfg.to_dict(), scenes, __version__], sort_keys=True, default=str)
    folder = out / f'train-{hashlib.sha256(content.encode()).hexdigest()[:8]}'
    checkpoint = folder / f'iter_{cfg.train_cfg.max_iters}.pth'
    options = ['--work-dir', str(folder), '--resume', '--cfg-options', *data]
    tools.run('train', config, *options)
    if not checkpoint.is_file():
        raise SegformerPlusPlusError(f'training left no {checkpoint}')
    return checkpoint


def test(tools: Tools, out: Path, checkpoint: Path, data: list[str]) -> dict[str, float]:
    """Test the checkpoint under every strategy; return the mIoU in percent by strategy."""
    result = {}
    for strategy in STRATEGIES:
        folder = out / 'test' / strategy
        shutil.rmtree(folder, ignore_errors=True)
        tools.run(
            'test', CONFIG.format(strategy), checkpoint, '--work-dir', folder,
            '--out', folder / 'predictions', '--metrics-json', folder / 'metrics.json',
            '--cfg-options', *data, log=folder / 'log.txt',
        )  # fmt: skip
        result[strategy] = json.loads((folder / 'metrics.json').read_text())['mIoU']
    return result


def benchmark(tools: Tools, out: Path, checkpoint: Path) -> dict[str, dict[str, float]]:
    """Time every strategy in turn in one process; return the records by strategy."""
    tools.run(
        'benchmark', *(CONFIG.format(strategy) for strategy in STRATEGIES),
        '--checkpoint', checkpoint, '--shape', f'{SHAPE[0]}x{SHAPE[1]}',
        '--rounds', str(ROUNDS), '--json', out / 'benchmark.json',
        log=out / 'benchmark.txt',
    )  # fmt: skip
    records = json.loads((out / 'benchmark.json').read_text())['results']
    return dict(zip(STRATEGIES, records, strict=True))


def draw(out: Path, data_root: Path) -> None:
    """Compare HQ and downsampling with no merging, on the image where HQ changes a median share."""

    def predictions(strategy: str) -> list[Path]:
        return sorted((out / 'test' / strategy / 'predictions').glob('*.png'))

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    pairs = zip(predictions('none'), predictions('hq'), strict=True)
    changed = [(read(none) != read(hq)).mean() for none, hq in pairs]
    index = int(np.argsort(changed)[len(changed) // 2])
    images = sorted((data_root / 'leftImg8bit' / 'val').rglob('*_leftImg8bit.png'))
    stem = predictions('none')[index].stem
    image = next(path for path in images if path.stem == stem)
    name = image.name.replace('_leftImg8bit', '_gtFine_labelTrainIds')
    truth = data_root / 'gtFine' / 'val' / image.parent.name / name
    draw_comparison(
        out / 'comparison.png',
        read(image),
        read(truth),
        {name: read(predictions(name)[index]) for name in ('none', 'hq', 'downsampling')},
        CityscapesDataset.METAINFO['classes'],
        CityscapesDataset.METAINFO['palette'],
        title=f'MiT-B0, trained without merging, tested at {SHAPE[0]}x{SHAPE[1]} ({stem})',
    )


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the demo and returns its exit code."""
    args = build_parser().parse_args(argv)
    console = Console()
    started = time.monotonic()
    out, data_root = args.out.resolve(), args.data_root.resolve()
    out.mkdir(parents=True, exist_ok=True)
    write_cityscapes(
        data_root, size=SHAPE, train=TRAIN_IMAGES, val=VAL_IMAGES, workers=args.workers
    )
    data = [
        f'{split}_dataloader.dataset.data_root={data_root}' for split in ('train', 'val', 'test')
    ]
    tools = Tools(console)
    checkpoint = train(tools, out, data_root, data)
    accuracy = test(tools, out, checkpoint, data)
    records = benchmark(tools, out, checkpoint)
    environment = describe_environment()
    table = StrategyTable(
        rows=tuple(
            Row(s, accuracy[s], records[s]['speed_up'], 1e3 * records[s]['median_seconds'])
            for s in STRATEGIES
        ),
        caption=(
            f'Left: MiT-B0 on {VAL_IMAGES} synthetic street scenes of {SHAPE[0]}x{SHAPE[1]}, '
            'trained once without merging and tested under every strategy; batch 1, float32, '
            f'whole image to label map, median of {ROUNDS} rounds in turn on '
            f'{environment["cpu"]}, {environment["versions"]["torch"]}. '
            'Right: the paper, MiT-B5 on Cityscapes.'
        ),
        commands=tuple(command.replace(f'{ROOT}/', '') for command in tools.commands),
    )
    minutes = (time.monotonic() - started) / 60
    write_json(
        out / 'table.json',
        dict(table.to_json(), environment=environment, minutes_of_this_run=minutes),
    )
    write_text(out / 'table.md', table.to_markdown())
    draw(out, data_root)
    console.print(table.to_rich())
    console.print(
        f'{minutes:.1f} minutes; results in {args.out}: table.md, table.json, comparison.png'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
