"""A repository to change, and tools that do no work but leave what the real ones leave."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tools.paper_tables import (
    Outcome,
    Report,
    Reproduction,
    Settings,
    Step,
    Store,
    find_rows,
    find_tables,
)

ROOT = Path(__file__).resolve().parents[3]
METRICS = {'mIoU': 40.0, 'PCK@0.1': 0.5, 'PCK@0.05': 0.25, 'coco/AP': 0.125}


class FakeTools:
    """A runner; remembers what it ran.

    Attributes:
        ran: 'kind strategy' of every step.
        fails: what a step's reason is taken from, if it has one.
        killed_at: number of the step that the call is killed in.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: Callable[[Step], str | None] = lambda step: None
        self.killed_at: int | None = None
        self.metrics = dict(METRICS)

    def __call__(self, step: Step) -> Outcome:
        self.ran.append(f'{step.kind} {strategy_of(step)}'.strip())
        if len(self.ran) == self.killed_at:
            raise KeyboardInterrupt
        reason = self.fails(step)
        if reason is None:
            getattr(self, f'_{step.kind}')(step)
        return Outcome(1.0, reason)

    def _data(self, step: Step) -> None:
        folder = Path(step.command[1])
        folder.mkdir(parents=True)
        kind = 'jumpers' if 'jumpers' in step.command[0] else 'scenes'
        (folder / f'{kind}.json').write_text('{"complete": true}')

    def _train(self, step: Step) -> None:
        folder = Path(step.command[step.command.index('--work-dir') + 1])
        folder.mkdir(parents=True, exist_ok=True)
        name = f'iter_{self.length_of(step)}.pth'
        write_checkpoint(folder / name, step.command[1])

    @staticmethod
    def length_of(step: Step) -> str:
        for word in step.command:
            key, _, value = word.partition('=')
            if key in ('train_cfg.max_iters', 'train_cfg.max_epochs'):
                return value
        return '160000'

    def _test(self, step: Step) -> None:
        assert Path(step.command[2]).is_file()
        assert step.result is not None
        step.result.parent.mkdir(parents=True, exist_ok=True)
        step.result.write_text(json.dumps(self.metrics))

    def _benchmark(self, step: Step) -> None:
        assert step.result is not None
        step.result.parent.mkdir(parents=True, exist_ok=True)
        configs = [word for word in step.command if word.startswith('configs/')]
        results = [
            dict(
                name=Path(config).stem, speed_up=1 + index / 2, median_seconds=1.0,
                quartiles_seconds=[1.0, 1.0], peak_memory_bytes=(9 - index) * 10**9,
                parameters=1,
            )
            for index, config in enumerate(configs)
        ]  # fmt: skip
        run = dict(results=results, threads=1, complete=True)
        step.result.write_text(json.dumps(dict(runs=[run])))


class Call:
    """Calls of the program with one set of options, in a repository of its own."""

    def __init__(self, folder: Path, **options: object) -> None:
        root = folder / 'repository'
        shutil.copytree(ROOT / 'configs', root / 'configs')
        (root / 'tools').mkdir()
        for name in ('train', 'test', 'benchmark'):
            shutil.copy(ROOT / 'tools' / f'{name}.py', root / 'tools')
        self.tools = FakeTools()
        self.settings = Settings(
            root=root,
            out=folder / 'out',
            data_root=folder / 'data',
            checkpoints=folder / 'checkpoints',
            **{'synthetic': True, 'iterations': 2, **options},
        )

    @property
    def store(self) -> Store:
        return Store(self.settings.out)

    def with_options(self, **options: object) -> None:
        self.settings = replace(self.settings, **options)

    def __call__(self, *tables: str, rows: list[str] | None = None) -> list[str]:
        """What the tools were made to do."""
        self.tools.ran.clear()
        self.reports(*tables, rows=rows)
        return self.tools.ran

    def reports(self, *tables: str, rows: list[str] | None = None) -> list[Report]:
        found = find_tables(tables)
        with self.store.claim(self.settings.data):
            work = Reproduction(self.settings, self.store, self.tools, Console(quiet=True))
            return work.run(found, find_rows(found, rows))

    def change_config(self, name: str, line: str) -> None:
        (path,) = (self.settings.root / 'configs').rglob(f'{name}.py')
        path.write_text(f'{path.read_text()}\n{line}\n')

    def markdown(self, table: str) -> str:
        return (self.settings.out / f'{table}.md').read_text()

    def json(self, table: str) -> dict:
        return json.loads((self.settings.out / f'{table}.json').read_text())


def strategy_of(step: Step) -> str:
    """Of the config of a step; '' where it has none or several."""
    if step.kind not in ('train', 'test'):
        return ''
    return Path(step.command[1]).stem.split('_')[2]


def write_checkpoint(path: Path, content: str = '') -> None:
    """What looks like a whole file of ``torch.save``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(zipfile.ZipInfo('data'), content)
