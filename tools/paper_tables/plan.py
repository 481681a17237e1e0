"""Plans a table: the step of every row and of its benchmark, with what each of them depends on."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config

import segformer_plusplus
from segformer_plusplus.cli.options import Positive, parse_settings
from segformer_plusplus.errors import SegformerPlusPlusError, describe_error
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.files import hash_file, sha256, written_beside
from tools.paper_tables.data import DATA_SETS, find_fault, signature
from tools.paper_tables.small import SMALL, small_options, small_shape
from tools.paper_tables.steps import Fingerprint, Step, read_json
from tools.paper_tables.tables import METRICS, DrawnImages, Table

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = 'benchmark'
PICTURE = 'picture'
SUFFIXES = '.pth', '.safetensors', '.pt'
VERSIONS = 'torch', 'mmengine', 'mmcv', 'mmseg', 'mmpose', 'tomesd'

_MODEL = (
    *(
        'arguments.py',
        'checkpoints',
        'compat.py',
        'kernels',
        'loading',
        'mit',
        'pose',
        'registration.py',
    ),
    *('segmentation', 'token_merging'),
)
_OPENING = 'inference/configs.py', 'inference/opening.py'
_WRITING = 'inference/reader.py', 'inference/writing.py'
SOURCES = {
    'train': (*_MODEL, 'training', *_OPENING, 'cli/train.py'),
    'test': (*_MODEL, 'training', *_OPENING, *_WRITING, 'cli/test.py'),
    BENCHMARK: (
        *(*_MODEL, *_OPENING, 'evaluation/benchmark', 'evaluation/timing.py'),
        *('evaluation/presets.py', 'cli/benchmark.py'),
    ),
}
"""The rooms and files of the package whose code decides the result of each kind of step."""

# iterations or epochs between checkpoints at most: a kill costs less, and the numbers stay
_SAVE_EVERY = {'IterBasedTrainLoop': 2000, 'EpochBasedTrainLoop': 1}
# what mmengine's --cfg-options take apart or away
_NOT_IN_OPTIONS = re.compile(r"""[\s,()\[\]'"]""")
_PACKAGE = Path(segformer_plusplus.__file__).parent
_DEFAULT_OUT = Path('work_dirs', 'reproduce'), Path('work_dirs', 'reproduce-synthetic')


def _default_device() -> Literal['cpu', 'cuda']:
    return 'cuda' if torch.cuda.is_available() else 'cpu'


@dataclass(frozen=True)
class Settings:
    """Holds the options of one call of tools/reproduce.py.

    Attributes:
        data: synthetic draws the data, and measures the paper's tables at a small size with MiT-B0
            (default: real; a demo always draws its data).
        data_root: holds cityscapes, ade, jump_broadcast, coco, camvid and what the demos draw.
        checkpoints: holds weights of rows (default: checkpoints).
        train: train rows that have no weights.
        out: results and state (default: work_dirs/reproduce, or work_dirs/reproduce-synthetic).
        device: where everything runs (default: cuda if there is one).
        dtype: of the speed-up.
        batch_size: of the speed-up (default: the table's on a GPU, 1 on a CPU).
        rounds: of the speed-up (default: 10 on a GPU, 3 on a CPU).
        iters: of training on drawn data (default: 60, or what the config of a demo says).
    """

    data: Literal['real', 'synthetic'] | None = None
    data_root: Path = Path('data')
    checkpoints: Path | None = None
    train: bool = False
    out: Path | None = None
    device: Literal['cpu', 'cuda'] = field(default_factory=_default_device)
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
    batch_size: Positive | None = None
    rounds: Positive | None = None
    iters: Positive | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the data are drawn."""
        return self.data == 'synthetic'

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return (self.out or _DEFAULT_OUT[self.synthetic]).resolve()

    @property
    def weights(self) -> Path:
        """Where weights of rows are looked for."""
        return (self.checkpoints or Path('checkpoints')).resolve()

    @property
    def timed_rounds(self) -> int:
        """How many rounds are timed."""
        return self.rounds or (10 if self.device == 'cuda' else 3)

    def is_small(self, table: Table) -> bool:
        """Returns whether a table of the paper is measured at a small size, on drawn data."""
        return self.synthetic and table.images is None

    @property
    def small_iters(self) -> int:
        """How long small models are trained."""
        return self.iters or 60

    def shape_of(self, table: Table) -> tuple[int, int]:
        """Returns height and width of the images that are timed."""
        return small_shape(table.data) if self.is_small(table) else table.shape

    def batch_size_of(self, table: Table) -> int:
        """Returns how many images are timed at once."""
        if self.batch_size is not None:
            return self.batch_size
        return table.batch_size if self.device == 'cuda' and not self.synthetic else 1

    def completed(self, tables: Sequence[Table]) -> Settings:
        """Returns the settings with the data that the tables need.

        Raises:
            SegformerPlusPlusError: these tables cannot be measured with these settings.
        """
        demos = [table.name for table in tables if table.images]
        training = [table.name for table in tables if table.timed == 'training']
        undrawn = [t.name for t in tables if t.images is None and t.data not in SMALL]
        settings = replace(self, data='synthetic' if demos else self.data or 'real')
        paths = {'--out': settings.folder, '--data-root': self.data_root.resolve()}
        unfit = next((each for each in paths.items() if _NOT_IN_OPTIONS.search(str(each[1]))), None)
        fault = None
        if undrawn and settings.synthetic:
            fault = (
                f'{undrawn[0]} is measured on photographs, which nothing draws: run it in a call '
                'of its own, without --data synthetic'
            )
        elif demos and (self.data == 'real' or (len(demos) < len(tables) and not self.synthetic)):
            fault = (
                f'{demos[0]} draws its data, which are never mixed with real ones: run it in a '
                'call of its own, or all with --data synthetic'
            )
        elif settings.synthetic and self.checkpoints:
            fault = '--checkpoints goes with --data real: on drawn data small models are trained'
        elif self.iters and not settings.synthetic:
            fault = '--iters goes with --data synthetic: configs say how long'
        elif self.device == 'cuda' and not torch.cuda.is_available():
            fault = '--device cuda: PyTorch finds no CUDA device here'
        elif unfit:
            fault = (
                f'{unfit[0]} {unfit[1]}: spaces, commas, brackets and quotes cannot be passed on '
                'to the tools; name another folder'
            )
        elif self.dtype == 'float16' and training:
            fault = (
                f'--dtype float16: {", ".join(training)} time training steps, which take float32 '
                'or bfloat16'
            )
        if fault:
            raise SegformerPlusPlusError(fault)
        return settings


class Planner:
    """Makes steps out of what it finds on disk; it writes nothing and reads every file once.

    Args:
        settings: completed.
        root: of the repository.
    """

    def __init__(self, settings: Settings, root: Path = ROOT) -> None:
        self.settings = settings
        self.root = root
        self.data_root = settings.data_root.resolve()
        self._config = functools.cache(self._load)
        self._fault = functools.cache(find_fault)
        self._signature = functools.cache(signature)

    def plan(self, table: Table) -> dict[str, Step]:
        """Returns the steps of the benchmark, of each row and, of a demo, of its picture, by name.

        A step that cannot be planned has the reason as its problem.
        """
        steps: dict[str, Step] = {}
        for key in (BENCHMARK, *table.rows, *([PICTURE] if table.picture else [])):
            try:
                if key == BENCHMARK:
                    steps[key] = self._benchmark(table)
                elif key == PICTURE:
                    steps[key] = self._picture(table, steps)
                else:
                    steps[key] = self._test(table, key)
            except SegformerPlusPlusError as error:
                kind = key if key in (BENCHMARK, PICTURE) else 'test'
                name = table.name if kind == key else f'{table.name}-{key}'
                steps[key] = Step(kind, name, problem=str(error))
        return steps

    def data_folder(self, table: Table) -> Path:
        """Returns where the data of a table lie."""
        settings = self.settings
        if not settings.synthetic:
            return self.data_root / DATA_SETS[table.data].folder
        images = self._images(table)
        if images.folder:
            return self.data_root / images.folder
        return settings.folder / 'data' / f'{table.data}-{_drawing(images)[:8]}'

    def _test(self, table: Table, row: str) -> Step:
        settings = self.settings
        folder = settings.folder / 'test' / f'{table.name}-{row}'
        metrics = folder / 'metrics.json'
        given = self._given_weights(table, row)
        training: tuple[Step, ...] = () if given else (self._train(table, row),)
        weights = given or training[0].result
        fault = self._data_fault(table, training=bool(training) and settings.train)
        command = (
            'tools/test.py', table.config_of(row), str(weights),
            '--work-dir', str(folder), '--metrics-json', str(metrics),
            *(('--out', str(folder / 'predictions')) if table.picture == 'comparison' else ()),
            '--cfg-options', *self._options(table, row), *self._data_options(table, ['test']),
        )  # fmt: skip
        return Step(
            'test',
            f'{table.name}-{row}',
            command,
            metrics,
            functools.partial(read_accuracy, table),
            {
                'config': sha256(self._config(table.config_of(row), self._options(table, row))),
                'data': None if fault else self._data_signature(table, training=False),
                **_weights_fingerprint(weights, training),
                **code_fingerprint('test'),
            },
            needs=(*self._data_steps(table), *training),
            stale=folder,
            device=settings.device,
            problem=fault,
        )

    def _train(self, table: Table, row: str) -> Step:
        """Returns the training of the weights that a row tests."""
        settings, source = self.settings, table.weights_row(row)
        config, options = table.config_of(source), self._options(table, source)
        content = self._config(config, options)
        fingerprint: Fingerprint = {
            'config': sha256(content),
            'data': self._data_signature(table, training=True),
            **code_fingerprint('train'),
        }
        name = f'{Path(config).stem}-{sha256(fingerprint)[:8]}'
        folder = settings.folder / 'train' / name
        loop, problem = content['train_cfg'], None
        if not settings.synthetic:
            hook, shipped = 'default_hooks.checkpoint', content['default_hooks']['checkpoint']
            interval = min(_SAVE_EVERY[loop['type']], shipped['interval'])
            options = (*options, f'{hook}.interval={interval}', f'{hook}.max_keep_ckpts=2')
            init = content['model']['backbone']['init_cfg']  # None: random weights
            local = init and settings.weights / Path(init['checkpoint']).name
            if local and local.is_file():
                options = (*options, f'model.backbone.init_cfg.checkpoint={local}')
            problem = None if settings.train else how_to_get_weights(settings, table, row)
        length = loop['max_iters' if 'max_iters' in loop else 'max_epochs']
        command = (
            'tools/train.py', config, '--work-dir', str(folder), '--resume',
            '--cfg-options', *options, *self._data_options(table, ['train', 'val']),
        )  # fmt: skip
        return Step(
            'train',
            name,
            command,
            folder / 'weights.pth',
            functools.partial(link_weights, length),
            fingerprint,
            needs=self._data_steps(table),
            device=settings.device,
            problem=problem,
        )

    def _benchmark(self, table: Table) -> Step:
        settings = self.settings
        configs = {row: table.config_of(row) for row in table.rows}
        models = {
            row: self._config(config, self._options(table, row))['model']
            for row, config in configs.items()
        }
        first = table.rows[0]
        options = [o for o in self._options(table, first) if o.startswith('model.')]
        if 'decode_head' in models[first]:
            options.append('model.test_cfg.mode=whole')  # one window, not many
        asked = {
            'timed': table.timed,
            'shape': list(settings.shape_of(table)),
            'batch_size': settings.batch_size_of(table),
            'rounds': settings.timed_rounds,
            'dtype': settings.dtype,
            'device': _environment()['gpu' if settings.device == 'cuda' else 'cpu'],
            'threads': torch.get_num_threads(),
        }
        result = settings.folder / BENCHMARK / f'{table.name}.json'
        command = (
            'tools/benchmark.py', *configs.values(),
            '--shape', 'x'.join(map(str, settings.shape_of(table))),
            '--batch-size', str(asked['batch_size']), '--rounds', str(asked['rounds']),
            '--device', settings.device, '--dtype', settings.dtype,
            *(['--training'] if table.timed == 'training' else []),
            '--json', str(result), *(['--cfg-options', *options] if options else []),
        )  # fmt: skip
        return Step(
            BENCHMARK,
            table.name,
            command,
            result,
            functools.partial(read_times, table),
            {'models': sha256(models), 'asked': asked, **code_fingerprint(BENCHMARK)},
            stale=result,
            device=settings.device,
        )

    def _picture(self, table: Table, steps: Mapping[str, Step]) -> Step:
        """Returns the drawing of what the strategies of a demo change."""
        result = self.settings.folder / f'{table.picture}.png'
        tool = 'tools/paper_tables/pictures.py'
        command: tuple[str, ...] = (tool, table.picture, str(result), str(self.data_folder(table)))
        if table.picture == 'comparison':
            tests = {row: steps[row] for row in ('none', 'hq', 'downsampling')}
            needs = tuple(tests.values())
            folders = {row: step.result.with_name('predictions') for row, step in tests.items()}
            command += tuple(f'{row}={folder}' for row, folder in folders.items())
        else:
            needs = (self._train(table, table.rows[0]),)
            command += (table.config_of(table.rows[0]), str(needs[0].result), *table.rows)
        fingerprint = {
            'inputs': sha256([step.fingerprint for step in needs]),
            'sources': hash_file(Path(__file__).with_name('pictures.py')),
        }
        return Step(PICTURE, table.name, command, result, fingerprint=fingerprint, needs=needs)

    def _data_steps(self, table: Table) -> tuple[Step, ...]:
        """Returns the drawing of the data, where they are drawn."""
        settings = self.settings
        if not settings.synthetic:
            return ()
        images, folder = self._images(table), self.data_folder(table)
        tool = f'tools/dataset_generators/synthetic_{images.kind}.py'
        result = folder / f'{images.kind}.json'
        fingerprint = {'images': self._data_signature(table, training=True)}
        workers = '1' if settings.is_small(table) else '2'
        command = (tool, str(folder), *images.arguments, '--workers', workers)
        return (Step('data', folder.name, command, result, check_drawn, fingerprint),)

    def _images(self, table: Table) -> DrawnImages:
        return table.images or SMALL[table.data]

    def _options(self, table: Table, row: str) -> tuple[str, ...]:
        """Returns what is changed in the shipped config; it is part of the fingerprint."""
        settings = self.settings
        if settings.is_small(table):
            shipped = self._config(table.config_of(row), ())
            return small_options(shipped, settings.small_iters)
        if settings.synthetic and settings.iters:
            length = settings.iters
            return f'train_cfg.max_iters={length}', f'default_hooks.checkpoint.interval={length}'
        return ()

    def _data_options(self, table: Table, splits: Sequence[str]) -> Iterator[str]:
        """Yields where the data lie, which is no part of the fingerprint."""
        for split in splits:
            yield f'{split}_dataloader.dataset.data_root={self.data_folder(table)}'

    def _data_fault(self, table: Table, training: bool) -> str | None:
        if self.settings.synthetic:
            return None
        return self._fault(DATA_SETS[table.data], self.data_root, training)

    def _data_signature(self, table: Table, training: bool) -> str:
        if self.settings.synthetic:
            return _drawing(self._images(table))
        return self._signature(DATA_SETS[table.data], self.data_folder(table), training)

    def _given_weights(self, table: Table, row: str) -> Path | None:
        if self.settings.synthetic:
            return None
        paths = (self.settings.weights / name for name in weight_names(table, row))
        return next((path for path in paths if path.is_file()), None)

    def _load(self, config: str, options: tuple[str, ...]) -> dict[str, Any]:
        return read_config(self.root / config, options)


def read_config(path: Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """Returns a config, resolved, as plain values, with KEY=VALUE options as the tools read them.

    Raises:
        SegformerPlusPlusError: the config cannot be read, or an option does not fit.
    """
    try:
        cfg = Config.fromfile(str(path))
        cfg.merge_from_dict(parse_settings(options))
    except Exception as error:  # a config is a program: it can fail in any way
        reason = describe_error(error) or f'{type(error).__name__}: {error}'
        raise SegformerPlusPlusError(f'cannot read config {path}: {reason}') from error
    return cfg.to_dict()


def _drawing(images: DrawnImages) -> str:
    """Returns the SHA-256 of what is drawn, and by which code."""
    files = sorted((ROOT / 'tools/dataset_generators').glob('*.py'))
    return sha256([{path.name: hash_file(path) for path in files}, images.arguments])


@functools.cache
def _environment() -> dict[str, Any]:
    return describe_environment()


@functools.cache
def hash_sources(kind: str) -> str:
    """Returns the SHA-256 of the package's code that decides the result of a kind of step."""
    files = [
        path
        for name in SOURCES[kind]
        for path in ([_PACKAGE / name] if name.endswith('.py') else (_PACKAGE / name).rglob('*.py'))
    ]
    return sha256({path.relative_to(_PACKAGE).as_posix(): hash_file(path) for path in files})


def code_fingerprint(kind: str) -> Fingerprint:
    """Returns what of the code decides a result: our sources, and the versions of libraries."""
    versions = _environment()['versions']
    return {
        'sources': hash_sources(kind),
        'versions': {name: versions[name] for name in VERSIONS},
    }


def _weights_fingerprint(weights: Path, training: Sequence[Step]) -> Fingerprint:
    """Returns what decides the weights that are tested; None for a file that is gone."""
    for step in training:
        if not step.problem or weights.exists():
            return {f'training {part}': value for part, value in step.fingerprint.items()}
    return {'weights': hash_file(weights) if weights.exists() else None}


def weight_names(table: Table, row: str) -> list[str]:
    """Returns the names that a file with the weights of a row may have."""
    source = table.weights_row(row)
    names = [Path(table.config_of(source)).stem + suffix for suffix in SUFFIXES]
    if source in table.published:
        names.append(Path(table.published[source]).name)
    return names


def how_to_get_weights(settings: Settings, table: Table, row: str) -> str:
    """Returns what would provide the weights of a row."""
    source = table.weights_row(row)
    ways = [f'put them there as {settings.weights / weight_names(table, row)[0]}']
    if source in table.published:
        ways.append(f'wget -P {settings.weights} {table.published[source]}')
    folders = f'--data-root {settings.data_root.resolve()} --out {settings.folder}'
    again = f'python tools/reproduce.py {table.name} --rows {row} --train {folders}'
    ways.append(f'train them: {again}')
    return f'no weights of {source!r} in {settings.weights}: ' + ', or '.join(ways)


def check_drawn(record: Path) -> dict[str, Any]:
    """Returns the record of a generator.

    Raises:
        ValueError: not everything is drawn.
    """
    content = read_json(record)
    if content is None or content.get('complete') is not True:
        raise ValueError('not everything is drawn')
    return content


def link_weights(length: int, link: Path) -> dict[str, Any]:
    """Links the best weights of a training, if it looked for them, or its last ones.

    Args:
        length: of the training in iterations or epochs.
        link: in the folder of the training.

    Raises:
        SegformerPlusPlusError: the training stopped before its end.
    """
    folder = link.parent
    ends = (folder / f'{unit}_{length}.pth' for unit in ('iter', 'epoch'))
    # a file that was cut short lacks the directory at the end of a zip file
    whole = [path for path in ends if zipfile.is_zipfile(path)]
    if not whole:
        raise SegformerPlusPlusError(
            f'training ended before its end (no whole checkpoint {length} in {folder})'
        )
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    chosen = (best or whole)[-1]
    with written_beside(link) as place:
        place.unlink()
        place.symlink_to(chosen.name)
    return {'checkpoint': chosen.name}


def read_accuracy(table: Table, metrics: Path) -> dict[str, Any]:
    """Returns the accuracies in percent from the JSON of tools/test.py.

    Raises:
        KeyError: one is missing.
        TypeError: one is no number.
    """
    content = read_json(metrics) or {}
    sources = {name: METRICS[name] for name in table.metrics}
    return {name: factor * content[source] for name, (source, factor) in sources.items()}


def read_times(table: Table, path: Path) -> dict[str, Any]:
    """Returns speed and memory of every row from the JSON of tools/benchmark.py.

    Raises:
        LookupError, TypeError: it does not hold them.
        ValueError: it was interrupted, or has other rows.
    """
    (run,) = (read_json(path) or {})['runs']
    if run.get('complete') is not True:
        raise ValueError('the benchmark was interrupted')
    kept = 'speed_up', 'median_seconds', 'quartiles_seconds', 'peak_memory_bytes', 'parameters'
    pairs = zip(table.rows, run['results'], strict=True)
    return {
        'rows': {row: {key: result[key] for key in kept} for row, result in pairs},
        'threads': run['threads'],
    }
