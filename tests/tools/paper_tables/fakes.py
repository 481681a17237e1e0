"""A repository to change, and tools that do no work but leave what the real ones leave."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.paper_tables.plan import Settings
from tools.paper_tables.report import Report
from tools.paper_tables.steps import Runner, Step, claim_folder
from tools.paper_tables.tables import find_rows, find_tables
from tools.reproduce import measure

ROOT = Path(__file__).resolve().parents[3]
METRICS = {'mIoU': 40.0, 'PCK@0.1': 0.5, 'PCK@0.05': 0.25, 'coco/AP': 0.125}


class FakeTools:
    """Executes steps; remembers which.

    Attributes:
        ran: 'kind strategy' of every step.
        commands: of every step.
        fails: gives the reason of a step that fails.
        killed_at: number of the step that the call is killed in.
        metrics: what a test measures.
        length: what trainings stop at, if not at their end.
        complete: whether benchmarks end.
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.commands: list[tuple[str, ...]] = []
        self.fails: Callable[[Step], str | None] = lambda step: None
        self.killed_at: int | None = None
        self.metrics: dict[str, Any] = dict(METRICS)
        self.length: str | None = None
        self.complete = True

    def __call__(self, step: Step, log: Path, root: Path) -> str | None:
        strategy = strategy_of(step) if step.kind in ('train', 'test') else ''
        self.ran.append(f'{step.kind} {strategy}'.strip())
        self.commands.append(step.command)
        if len(self.ran) == self.killed_at:
            raise KeyboardInterrupt
        reason = self.fails(step)
        if reason is None:
            getattr(self, f'_{step.kind}')(step)
        return reason

    def _data(self, step: Step) -> None:
        step.result.write_text('{"complete": true}')

    def _train(self, step: Step) -> None:
        values = dict(word.partition('=')[::2] for word in step.command)
        ends = [values[k] for k in ('train_cfg.max_iters', 'train_cfg.max_epochs') if k in values]
        name = f'iter_{self.length or (ends or ["160000"])[0]}.pth'
        write_checkpoint(step.result.with_name(name), step.command[1])

    def _test(self, step: Step) -> None:
        assert Path(step.command[2]).is_file()
        write(step.result, json.dumps(self.metrics))

    def _benchmark(self, step: Step) -> None:
        configs = [word for word in step.command if word.startswith('configs/')]
        results = [
            dict(
                name=Path(config).stem, speed_up=1 + index / 2, median_seconds=1.0,
                quartiles_seconds=[1.0, 1.0], peak_memory_bytes=(9 - index) * 10**9,
                parameters=1,
            )
            for index, config in enumerate(configs)
        ]  # fmt: skip
        run = dict(results=results, threads=1, complete=self.complete)
        write(step.result, json.dumps(dict(runs=[run])))

    def _picture(self, step: Step) -> None:
        write(step.result, 'a picture')


class Call:
    """Calls of the program with one set of options, in a repository of its own."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.root, self.out = folder / 'repository', folder / 'out'
        shutil.copytree(ROOT / 'configs', self.root / 'configs')
        self.tools = FakeTools()
        self.said: list[str] = []
        self.checkpoints = folder / 'checkpoints'
        self.settings = Settings(
            **{'data': 'synthetic', 'iters': 2, 'device': 'cpu', **options},
            out=self.out,
            data_root=folder / 'data',
            checkpoints=self.checkpoints if options.get('data') == 'real' else None,
        )

    def with_options(self, **options: Any) -> None:
        self.settings = replace(self.settings, **options)

    def __call__(self, *tables: str, rows: list[str] | None = None) -> list[str]:
        """What the tools were made to do."""
        self.reports(*tables, rows=rows)
        return self.tools.ran

    def reports(self, *tables: str, rows: list[str] | None = None) -> list[Report]:
        self.tools.ran.clear()
        found = find_tables(tables)
        settings = self.settings.completed(found)
        runner = Runner(self.out, self.root, lambda text, *_: self.said.append(text), self.tools)
        with claim_folder(self.out, settings.data):
            return measure(settings, found, find_rows(found, rows), runner, self.root)

    def change_config(self, name: str, line: str) -> None:
        (path,) = (self.root / 'configs').rglob(f'{name}.py')
        path.write_text(f'{path.read_text()}\n{line}\n')

    def markdown(self, table: str) -> str:
        return (self.out / f'{table}.md').read_text()

    def json(self, table: str) -> dict:
        return json.loads((self.out / f'{table}.json').read_text())


def strategy_of(step: Step) -> str:
    return Path(step.command[1]).stem.split('_')[2]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_checkpoint(path: Path, content: str = '') -> None:
    """Writes what looks like a whole file of ``torch.save``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(zipfile.ZipInfo('data'), content)
