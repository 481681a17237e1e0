"""Where the weights of a row come from: a file that is there, a training here, or nowhere yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.paper_tables import state
from tools.paper_tables.settings import Settings
from tools.paper_tables.state import Fingerprint, Store
from tools.paper_tables.steps import Step, find_trained
from tools.paper_tables.tables import Table

SUFFIXES = '.pth', '.safetensors', '.pt'
# these change what is kept of a training, not its numbers; a kill costs less
_SAVE_OFTEN = {
    'IterBasedTrainLoop': (
        'default_hooks.checkpoint.interval=2000',
        'default_hooks.checkpoint.max_keep_ckpts=2',
    ),
    'EpochBasedTrainLoop': ('default_hooks.checkpoint.interval=1',),
}


@dataclass(frozen=True)
class Training:
    """One training, in a folder that is named after all that decides its numbers.

    Attributes:
        config: path from the root of the repository.
        options: KEY=VALUE.
        length: in iterations or epochs.
        fingerprint: of config, data and code: with others nothing is gone on with.
        store: the output folder.
        log_of: name -> file for the output.
    """

    config: str
    options: tuple[str, ...]
    length: int
    fingerprint: Fingerprint
    store: Store
    log_of: Callable[[str], Path]

    @property
    def name(self) -> str:
        """Of the folder, below the output folder."""
        return f'train/{Path(self.config).stem}-{state.sha256(self.fingerprint)[:8]}'

    @property
    def folder(self) -> Path:
        """The work dir."""
        return self.store.folder / self.name

    @property
    def record(self) -> dict[str, Any] | None:
        """What :meth:`finish` wrote, if training has ended and its weights are there."""
        record = self.store.read(f'{self.name}/trained.json')
        if record is None or not (self.folder / str(record.get('checkpoint'))).is_file():
            return None
        return record

    def step(self, settings: Settings) -> Step:
        """Start it, or go on where it was."""
        options = self.options
        if not settings.synthetic:
            cfg = state.read_config(settings.root / self.config)
            options = (*options, *_SAVE_OFTEN[cfg['train_cfg']['type']])
            address = cfg['model']['backbone']['init_cfg']['checkpoint']
            local = settings.checkpoints / Path(address).name
            if local.is_file():
                options = (*options, f'model.backbone.init_cfg.checkpoint={local}')
        command = ('tools/train.py', self.config, '--work-dir', str(self.folder), '--resume')
        log = self.log_of(f'{self.folder.name}-train')
        return Step('train', (*command, '--cfg-options', *options), log, device=settings.device)

    def finish(self) -> str | None:
        """Write down that it has ended; returns what is wrong if it left no weights."""
        checkpoint = find_trained(self.folder, self.length)
        if checkpoint is None:
            missing = f'no whole checkpoint {self.length} in {self.folder}'
            return f'training ended before its end ({missing})'
        self.store.write(
            f'{self.name}/trained.json',
            {
                'checkpoint': checkpoint.name,
                'sha256': state.hash_file(checkpoint),
                'fingerprint': self.fingerprint,
            },
        )
        return None


@dataclass(frozen=True)
class Weights:
    """What is known of the weights of a row.

    Attributes:
        path: the file, if it is there.
        sha256: of it.
        step: that makes it.
        training: what the step belongs to.
        guess: its name, for a command that is shown before it is there.
        problem: why there is neither a file nor a step, with how to get one.
    """

    path: Path | None = None
    sha256: str | None = None
    step: Step | None = None
    training: Training | None = None
    guess: str = ''
    problem: str | None = None


def find_weights(
    settings: Settings, store: Store, table: Table, row: str, training: Training
) -> Weights:
    """The weights that a row tests: a file in ``--checkpoints`` before a training here."""
    if not settings.synthetic:
        for name in file_names(table, row):
            path = settings.checkpoints / name
            if path.is_file():
                return Weights(path, state.hash_file(path))
    record = training.record
    if record is not None:
        path = training.folder / record['checkpoint']
        return Weights(path, state.hash_file(path), training=training)
    if settings.synthetic or settings.train:
        guess = str(training.folder / 'CHECKPOINT')
        return Weights(step=training.step(settings), training=training, guess=guess)
    return Weights(problem=how_to_get(settings, table, row))


def file_names(table: Table, row: str) -> list[str]:
    """What the weights of a row may be called."""
    source = table.weights_row(row)
    names = [Path(table.config_of(source)).stem + suffix for suffix in SUFFIXES]
    if source in table.published:
        names.append(Path(table.published[source]).name)
    return names


def how_to_get(settings: Settings, table: Table, row: str) -> str:
    """What would provide the weights of a row."""
    source = table.weights_row(row)
    usual = settings.checkpoints / file_names(table, row)[0]
    ways = [f'put them there as {usual}']
    if source in table.published:
        ways.append(f'wget -P {settings.checkpoints} {table.published[source]}')
    again = f'python tools/reproduce.py {table.name} --rows {row} --train'
    ways.append(f'train them: {again} --data-root {settings.data_root} --out {settings.out}')
    return f'no weights of {source!r} in {settings.checkpoints}: ' + ', or '.join(ways)
