"""What the demos share: train once, test under every strategy, time them, write the table.

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from segformer_plusplus.cli.guard import add_traceback_argument
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.files import write_json, write_text
from segformer_plusplus.training.checkpoint_files import find_resumable
from tools.demos.table import Row, StrategyTable
from tools.paper_tables.state import hash_sources

ROOT = Path(__file__).resolve().parents[2]

ROUNDS = 5


@dataclass(frozen=True)
class Demo:
    """What one demo trains and tests.

    Attributes:
        config: path of its configs, with {} for the strategy.
        strategies: the first is trained, all are tested and timed.
        shape: height and width of the images that are timed.
        accuracy: the percentages of a table, by their keys there, from what the test wrote.
        generator: the tool that draws the data, with its options.
        record: the file in the data root that says what was drawn.
        paper_table: whose rows stand beside.
        caption: what was measured; {cpu}, {torch} and {rounds} are filled in.
    """

    config: str
    strategies: tuple[str, ...]
    shape: tuple[int, int]
    accuracy: Callable[[dict[str, float]], dict[str, float]]
    generator: tuple[str, ...]
    record: str
    paper_table: str
    caption: str


def build_parser(description: str, out: str, data_root: str) -> argparse.ArgumentParser:
    """The command line of a demo."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('--out', type=Path, default=Path(out), metavar='DIR')
    parser.add_argument('--data-root', type=Path, default=Path(data_root))
    parser.add_argument('--workers', type=int, default=2, help='processes that draw the images')
    add_traceback_argument(parser)
    return parser


class Run:
    """One run of a demo: its folders, and the commands that it has run."""

    def __init__(self, demo: Demo, out: Path, data_root: Path, workers: int) -> None:
        self.demo = demo
        self.out = out.resolve()
        self.data_root = data_root.resolve()
        self.console = Console()
        self._commands: list[str] = []
        self._workers = workers
        self._started = time.monotonic()
        self._data = [
            f'{split}_dataloader.dataset.data_root={self.data_root}'
            for split in ('train', 'val', 'test')
        ]

    def config(self, strategy: str) -> str:
        """The config under a strategy, from the root of the repository."""
        return self.demo.config.format(strategy)

    def draw_data(self) -> None:
        """Draw the images, or what is missing of them."""
        tool, *options = self.demo.generator
        self._run(
            f'dataset_generators/{tool}', self.data_root, *options, '--workers', str(self._workers)
        )

    def train(self) -> Path:
        """Train under the first strategy, or go on where a run stopped; return the checkpoint."""
        config = self.config(self.demo.strategies[0])
        cfg = Config.fromfile(ROOT / config)
        # what other sources, another config or other data left behind is not gone on with
        data = json.loads((self.data_root / self.demo.record).read_text())
        content = json.dumps([cfg.to_dict(), data, hash_sources()], sort_keys=True, default=str)
        folder = self.out / f'train-{hashlib.sha256(content.encode()).hexdigest()[:8]}'
        options = ['--work-dir', str(folder), '--resume', '--cfg-options', *self._data]
        self._run('train', config, *options)
        checkpoint = find_resumable(folder)
        if checkpoint is None:
            raise SegformerPlusPlusError(f'training left no checkpoint in {folder}')
        return Path(checkpoint)

    def table(self, checkpoint: Path) -> StrategyTable:
        """Test and time the checkpoint under every strategy."""
        strategies = self.demo.strategies
        accuracy = {strategy: self._test(strategy, checkpoint) for strategy in strategies}
        times = self._benchmark(checkpoint)
        environment = describe_environment()
        return StrategyTable(
            rows=tuple(
                Row(s, accuracy[s], times[s]['speed_up'], 1e3 * times[s]['median_seconds'])
                for s in strategies
            ),
            caption=self.demo.caption.format(
                cpu=environment['cpu'], torch=environment['versions']['torch'], rounds=ROUNDS
            ),
            commands=tuple(command.replace(f'{ROOT}/', '') for command in self._commands),
            paper_table=self.demo.paper_table,
        )

    def write(self, table: StrategyTable) -> None:
        """Write the table as JSON and Markdown, and show it."""
        minutes = (time.monotonic() - self._started) / 60
        content = dict(
            table.to_json(), environment=describe_environment(), minutes_of_this_run=minutes
        )
        write_json(self.out / 'table.json', content)
        write_text(self.out / 'table.md', table.to_markdown())
        self.console.print(table.to_rich())
        self.console.print(f'{minutes:.1f} minutes; results in {self.out}')

    def _test(self, strategy: str, checkpoint: Path) -> dict[str, float]:
        folder = self.out / 'test' / strategy
        shutil.rmtree(folder, ignore_errors=True)
        self._run(
            'test', self.config(strategy), checkpoint, '--work-dir', folder,
            '--out', folder / 'predictions', '--metrics-json', folder / 'metrics.json',
            '--cfg-options', *self._data, log=folder / 'log.txt',
        )  # fmt: skip
        return self.demo.accuracy(json.loads((folder / 'metrics.json').read_text()))

    def _benchmark(self, checkpoint: Path) -> dict[str, dict[str, float]]:
        """All strategies in turn in one process; the records by strategy."""
        strategies = self.demo.strategies
        height, width = self.demo.shape
        self._run(
            'benchmark', *map(self.config, strategies),
            '--checkpoint', checkpoint, '--shape', f'{height}x{width}',
            '--rounds', str(ROUNDS), '--json', self.out / 'benchmark.json',
            log=self.out / 'benchmark.txt',
        )  # fmt: skip
        records = json.loads((self.out / 'benchmark.json').read_text())['results']
        return dict(zip(strategies, records, strict=True))

    def _run(self, name: str, *arguments: str | Path, log: Path | None = None) -> None:
        """Run ``tools/<name>.py``; its output goes to ``log`` if given."""
        words = ['python', f'tools/{name}.py', *map(str, arguments)]
        self._commands.append(shlex.join(words))
        self.console.print(f'[bold]$ {shlex.join(words)}[/bold]', soft_wrap=True, highlight=False)
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
