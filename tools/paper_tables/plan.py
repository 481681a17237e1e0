"""What a row still needs: its steps, what is missing, what has changed since the last call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables import state
from tools.paper_tables.data import DATA_SETS, find_fault, signature
from tools.paper_tables.report import BENCHMARK
from tools.paper_tables.settings import Settings
from tools.paper_tables.state import Fingerprint, Store
from tools.paper_tables.steps import Step
from tools.paper_tables.synthetic import DrawnData, small_options, small_shape
from tools.paper_tables.tables import Table
from tools.paper_tables.weights import Training, find_weights

DONE = 'done'
FAILED = 'failed'


@dataclass(frozen=True)
class Plan:
    """Of one row, or of the benchmark of a table.

    Attributes:
        table: which it belongs to.
        row: a strategy, or 'benchmark'.
        state: its file below the output folder.
        steps: still to do, in order; the file of a checkpoint that is yet to be trained is a guess.
        fingerprint: of what it is measured with; None for what is not known yet.
        record: what was measured, if all of that is unchanged.
        problem: why it cannot be measured, with how to mend it.
        changed: the parts that differ from the last measurement, if there is one.
        training: what makes the weights, if they are trained here.
        checkpoint: the weights, once they are there.
    """

    table: Table
    row: str
    state: str
    steps: tuple[Step, ...] = ()
    fingerprint: Fingerprint | None = None
    record: dict[str, Any] | None = None
    problem: str | None = None
    changed: tuple[str, ...] = ()
    training: Training | None = None
    checkpoint: Path | None = None


class Planner:
    """Looks at what is there, and changes nothing; reads configs and lists data only once.

    Args:
        settings: of the call.
        store: the output folder.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._configs: dict[tuple[str, bool], dict[str, Any]] = {}
        self._faults: dict[tuple[str, bool], str | None] = {}
        self._signatures: dict[tuple[str, bool], str] = {}

    def plan(self, table: Table, row: str) -> Plan:
        """What a row, or the benchmark, still needs."""
        name = f'{"benchmarks" if row == BENCHMARK else "rows"}/{table.name}'
        name += '.json' if row == BENCHMARK else f'-{row}.json'
        try:
            if row == BENCHMARK:
                return self._plan_benchmark(table, name)
            return self._plan_row(table, row, name)
        except SegformerPlusPlusError as error:
            return Plan(table, row, name, problem=str(error))

    def _plan_row(self, table: Table, row: str, name: str) -> Plan:
        drawn = self.drawn_data(table)
        weights = find_weights(self.settings, self.store, table, row, self.training_of(table, row))
        problem = weights.problem
        if drawn is None:
            problem = '; '.join(
                filter(None, (problem, self._data_fault(table, bool(weights.step))))
            )
        config = table.config_of(row)
        fingerprint: Fingerprint = {
            'config': state.sha256(self._read(table, row)),
            'checkpoint': weights.sha256,
            'data': None if drawn is None and problem else self._signature(table, training=False),
            **state.code_fingerprint(),
        }
        record, changed = self._recorded(name, fingerprint)
        plan = Plan(
            table, row, name,
            fingerprint=fingerprint, record=record, changed=changed,
            training=weights.training, checkpoint=weights.path,
        )  # fmt: skip
        if record is not None:
            return plan
        if problem:
            return _with(plan, problem=problem)
        folder = self.store.folder / 'test' / f'{table.name}-{row}'
        metrics = folder / 'metrics.json'
        test = Step(
            'test',
            (
                'tools/test.py', config, str(weights.path or weights.guess),
                '--work-dir', str(folder), '--metrics-json', str(metrics),
                '--cfg-options', *self.options(table, row), *self._data_options(table, ['test']),
            ),
            self.log(f'{table.name}-{row}-test'),
            metrics,
            self.settings.device,
        )  # fmt: skip
        steps = [self._data_step(drawn), weights.step, test]
        return _with(plan, steps=tuple(step for step in steps if step is not None))

    def _plan_benchmark(self, table: Table, name: str) -> Plan:
        settings = self.settings
        height, width = small_shape(table.data) if settings.synthetic else table.shape
        options = [o for o in self.options(table, table.rows[0]) if o.startswith('model.')]
        models = {row: self._read(table, row)['model'] for row in table.rows}
        if 'decode_head' in models[table.rows[0]]:
            options.append('model.test_cfg.mode=whole')  # one window, not many
        gpu = state.environment()['gpu'] if settings.device == 'cuda' else None
        asked = {
            'timed': table.timed,
            'shape': [height, width],
            'batch_size': settings.batch_size_of(table),
            'rounds': settings.timed_rounds,
            'dtype': settings.dtype,
            'device': gpu or state.environment()['cpu'],
            'threads': torch.get_num_threads(),
        }
        fingerprint = {
            'models': state.sha256(models),
            'asked': asked,
            **state.code_fingerprint(),
        }
        record, changed = self._recorded(name, fingerprint)
        raw = self.store.folder / 'benchmarks' / f'{table.name}-raw.json'
        step = Step(
            BENCHMARK,
            (
                'tools/benchmark.py', *map(table.config_of, table.rows),
                '--shape', f'{height}x{width}', '--batch-size', str(asked['batch_size']),
                '--rounds', str(asked['rounds']), '--device', settings.device,
                '--dtype', settings.dtype, *(['--training'] if table.timed == 'training' else []),
                '--json', str(raw), *(['--cfg-options', *options] if options else []),
            ),
            self.log(f'{table.name}-benchmark'),
            raw,
            settings.device,
        )  # fmt: skip
        steps = () if record else (step,)
        return Plan(table, BENCHMARK, name, steps, fingerprint, record, changed=changed)

    def training_of(self, table: Table, row: str) -> Training:
        """How the weights that a row tests are trained here."""
        source = table.weights_row(row)
        config = table.config_of(source)
        fingerprint = {
            'config': state.sha256(self._read(table, source)),
            'data': self._signature(table, training=True),
            **state.code_fingerprint(),
        }
        options = (*self.options(table, source), *self._data_options(table, ['train', 'val']))
        loop = self._read(table, source)['train_cfg']
        length = loop['max_iters' if 'max_iters' in loop else 'max_epochs']
        return Training(config, options, length, fingerprint, self.store, self.log)

    def options(self, table: Table, row: str) -> tuple[str, ...]:
        """What is changed in the shipped config; part of the fingerprint."""
        if not self.settings.synthetic:
            return ()
        return small_options(self._read(table, row, shipped=True), self.settings.iterations)

    def drawn_data(self, table: Table) -> DrawnData | None:
        """The data that are drawn for a table; None for published ones."""
        if not self.settings.synthetic:
            return None
        return DrawnData(table.data, self.store.folder / 'data')

    def log(self, name: str) -> Path:
        """The file for the output of a step."""
        return self.store.folder / 'logs' / f'{name}.log'

    def _read(self, table: Table, row: str, shipped: bool = False) -> dict[str, Any]:
        """The config of a row, as it is shipped or as it is run."""
        key = table.config_of(row), shipped
        if key not in self._configs and shipped:
            self._configs[key] = state.read_config(self.settings.root / key[0])
        elif key not in self._configs:
            content = self._read(table, row, shipped=True)
            self._configs[key] = state.with_options(content, self.options(table, row))
        return self._configs[key]

    def _data_folder(self, table: Table) -> Path:
        drawn = self.drawn_data(table)
        return drawn.folder if drawn else self.settings.data_root / DATA_SETS[table.data].folder

    def _data_options(self, table: Table, splits: list[str]) -> list[str]:
        """Where the data lie: no part of the fingerprint."""
        folder = self._data_folder(table)
        return [f'{split}_dataloader.dataset.data_root={folder}' for split in splits]

    def _data_step(self, drawn: DrawnData | None) -> Step | None:
        if drawn is None or drawn.complete:
            return None
        return Step('data', drawn.command, self.log(f'data-{drawn.data}'))

    def _data_fault(self, table: Table, training: bool) -> str | None:
        key = table.data, training
        if key not in self._faults:
            self._faults[key] = find_fault(DATA_SETS[key[0]], self.settings.data_root, training)
        return self._faults[key]

    def _signature(self, table: Table, training: bool) -> str:
        if self.settings.synthetic:  # the folder is named after what is drawn in it
            return self._data_folder(table).name
        key = table.data, training
        if key not in self._signatures:
            self._signatures[key] = signature(DATA_SETS[key[0]], self._data_folder(table), training)
        return self._signatures[key]

    def _recorded(
        self, name: str, fingerprint: Fingerprint
    ) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
        """What was measured with this fingerprint, or else in what the last one differed."""
        record = self.store.read(name)
        if record is None or record.get('status') != DONE:
            return None, ()
        known = {key: value for key, value in fingerprint.items() if value is not None}
        old = {key: value for key, value in record['fingerprint'].items() if key in known}
        changed = tuple(state.changed(old, known))
        return (None, changed) if changed else (record, ())


def _with(plan: Plan, **values: Any) -> Plan:
    return Plan(**{**plan.__dict__, **values})
