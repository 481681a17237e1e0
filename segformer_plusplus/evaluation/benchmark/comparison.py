"""A benchmark: models with equal weights, checked against each other, then timed in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from ... import kernels
from ...errors import SegformerPlusPlusError, memory_errors
from ...export.description import describe_merging
from ...inference.configs import backbone_settings
from ...inference.exported import ExportedFile
from ...inference.opening import SEED, open_model
from ...inference.pretrained import own_weights
from ...mit.backbone import MixVisionTransformerPlusPlus
from ...mit.cpu import chunked, is_chunked
from ...patching import apply_token_merging
from ...token_merging import BASELINE
from ..timing import Call, Load, Timing, file_memory, gpu_clocks, measure, peak_memory
from .contenders import Contender, OpenMMLabModel, stage_calls
from .costs import (
    TOLERANCE,
    GraphedModel,
    TrainingStep,
    check_same_step,
    compile_contender,
    count_flops,
    count_kernels,
    count_parameters,
    first_call,
    matrix_product_rates,
    trace_errors,
)
from .files import ExportedModel, is_file
from .peers import (
    PEERS,
    OpenVinoModel,
    TransformersModel,
    check_openvino,
    check_peers,
    check_same_logits,
    make_levels_linear,
    mmseg_peer,
    tomesd_peer,
)

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

COMPILED = ', compiled'
BLOCKS = ', blocks compiled'
GRAPH = ', graph'
TOMESD = ' (tomesd)'
"""What follows the name of a row whose matching is that of tomesd."""


@dataclass(frozen=True)
class Options:
    """What all runs of a benchmark have in common.

    Attributes:
        against: the same weights in mmseg, transformers, openvino, openvino-mmseg or tomesd, in
            this order, checked for the same logits first; also with commas, mmseg,tomesd.
        checkpoint: weights, loaded strictly (default: seeded random ones).
        device: where it runs.
        dtype: of weights and images; in training, of autocast.
        rounds: timed rounds.
        warmup: rounds that are not timed, before those.
        backbone_only: time the backbone alone.
        stages: also time backbone, head and labels by themselves.
        training: time optimisation steps (forward, backward, AdamW) instead of inference.
        graph: also time everything in PyTorch as a CUDA graph.
        compile: also time everything in PyTorch through torch.compile.
        compile_blocks: also time ours with attention and Mix-FFN of the blocks compiled alone.
        compile_backend: the backend of torch.compile.
        peak: also measure the machine's plain matrix products, and what share a model reaches.
        requests: with more than one, also measure images per second, and how long each takes, with
            so many images in flight at a time; all of them share the threads.
    """

    against: Sequence[str] = ()
    checkpoint: str | None = None
    device: Literal['cpu', 'cuda'] = 'cpu'
    dtype: Literal['float32', 'bfloat16', 'float16'] = 'float32'
    rounds: int = 10
    warmup: int = 2
    backbone_only: bool = False
    stages: bool = False
    training: bool = False
    graph: bool = False
    compile: bool = False
    compile_blocks: bool = False
    compile_backend: str = 'inductor'
    peak: bool = False
    requests: int = 1

    def __post_init__(self) -> None:
        peers = tuple(dict.fromkeys(name for each in self.against for name in each.split(',')))
        object.__setattr__(self, 'against', peers)
        openvino = any(peer.startswith('openvino') for peer in peers)
        if self.device == 'cuda' and not torch.cuda.is_available():
            raise SegformerPlusPlusError('--device cuda: PyTorch finds no CUDA device here')
        if self.requests < 1:
            raise SegformerPlusPlusError(f'--requests {self.requests}: give at least 1')
        for flag in ('training', 'backbone-only', 'compile', 'compile-blocks'):
            if self.requests > 1 and getattr(self, flag.replace('-', '_')):
                raise SegformerPlusPlusError(f'--requests and --{flag} exclude each other')
        if self.requests > 1 and (self.device != 'cpu' or openvino):
            raise SegformerPlusPlusError(
                '--requests works with --device cpu, and with exported files in the place of '
                '--against openvino'
            )
        if self.rounds < 1 or self.warmup < 0:
            raise SegformerPlusPlusError(
                f'--rounds is {self.rounds} and --warmup {self.warmup}; give at least 1 and 0'
            )
        for name in peers:
            if name not in PEERS:
                raise SegformerPlusPlusError(
                    f'--against: {name!r} is no peer; choose from {", ".join(PEERS)}'
                )
        for flag in ('compile', 'compile-blocks', 'graph', 'backbone-only'):
            if self.training and getattr(self, flag.replace('-', '_')):
                raise SegformerPlusPlusError(f'--training and --{flag} exclude each other')
        if self.graph and self.device != 'cuda':
            raise SegformerPlusPlusError('--graph: CUDA graphs need --device cuda')
        if self.training and openvino:
            raise SegformerPlusPlusError('--against openvino: it does not train')
        if self.training and self.dtype == 'float16':
            raise SegformerPlusPlusError(
                '--training takes --dtype float32 or bfloat16 (autocast): float16 needs a scaled '
                'loss'
            )
        if openvino:
            check_openvino(self.device, DTYPES[self.dtype])

    @property
    def weight_dtype(self) -> torch.dtype:
        """Returns the precision of weights and images.

        In training, autocast rounds what float32 is multiplied with.
        """
        return torch.float32 if self.training else DTYPES[self.dtype]


@dataclass(frozen=True)
class Setting:
    """What differs between the runs of a benchmark.

    Attributes:
        shape: height and width of the images, in pixels.
        batch_size: images of one call.
        threads: of PyTorch, and of the runtimes.
    """

    shape: tuple[int, int]
    batch_size: int
    threads: int


class Comparison:
    """Builds all models once, and compares them in any number of runs.

    Args:
        variants: configs by name, of models of ours (without peers: of any model of OpenMMLab), and
            of exported files. The peers get the weights of the first model and are compared with it
            unmerged.
        options: what is measured.

    Raises:
        SegformerPlusPlusError: a peer's library is missing, or cannot express the model; or an
            option that no file can have.
    """

    def __init__(self, variants: Mapping[str, Any], options: Options) -> None:
        self.options = options
        self._files = {name: each for name, each in variants.items() if is_file(each)}
        models = {name: each for name, each in variants.items() if name not in self._files}
        if self._files:
            check_files(options, self._files, alone=not models)
        self._order = tuple(variants)
        self._trained = {
            name
            for name, each in models.items()
            if options.checkpoint is not None or own_weights(each) is not None
        }
        channels = {backbone_settings(each).get('in_channels', 3) for each in variants.values()}
        if len(channels) > 1:
            raise SegformerPlusPlusError(
                f'models of {sorted(channels)} channels take no image in common: time each alone'
            )
        self._channels = channels.pop()
        self._peers: dict[str, Contender] = {}
        self._modules: dict[str, nn.Module] = {}
        if not models:
            return
        first = next(iter(models.values()))
        check_peers(options.against, first.model)
        self._modules = self._build_all(models)
        if options.against:
            self._build_peers(first)
        else:
            share_weights(self._modules)

    def _build_all(self, variants: Mapping[str, Any]) -> dict[str, nn.Module]:
        """Builds every model that differs in more than its strategies; others share its weights."""
        modules: dict[str, nn.Module] = {}
        built: dict[str, nn.Module] = {}
        for name, config in variants.items():
            settings = backbone_settings(config)
            plain = copy.deepcopy(config)
            backbone_settings(plain).update(token_merging=None, tome_cfg=None)
            first = built.get(key := repr(plain.model))
            backbone = getattr(first, 'backbone', None)
            if isinstance(backbone, MixVisionTransformerPlusPlus) and not settings.get('tome_cfg'):
                modules[name] = twin(first)
                apply_token_merging(modules[name], settings.get('token_merging'))
            else:
                modules[name] = built[key] = self._build(config)
        return modules

    def _build(self, config: Any, trained: bool = True) -> nn.Module:
        options = self.options
        checkpoint = options.checkpoint if trained else None
        place: Any = dict(device=options.device, dtype=options.weight_dtype)
        opened: nn.Module = open_model(config, checkpoint, random_weights=True, **place)
        return opened

    def _build_peers(self, first: Any) -> None:
        cfg = copy.deepcopy(first)
        config = cfg.model
        config.backbone.update(token_merging=BASELINE, tome_cfg=None)
        unmerged = twin(next(iter(self._modules.values())))  # check_peers wants one of ours
        apply_token_merging(unmerged, BASELINE)
        share_weights({'unmerged': unmerged, **self._modules})
        self._unmerged = OpenMMLabModel(unmerged)
        for peer in self.options.against:
            if peer == 'mmseg':
                self._peers[peer] = OpenMMLabModel(self._build_mmseg(config, unmerged))
            elif peer == 'transformers':
                self._peers[peer] = TransformersModel(config, unmerged)
            elif peer == 'openvino':
                self._peers[peer] = OpenVinoModel(unmerged, 'our model, unmerged')
            elif peer == 'openvino-mmseg':
                theirs = self._build_mmseg(config, unmerged)
                self._peers[peer] = OpenVinoModel(theirs, "mmseg's own modules")
            else:
                self._peers |= self._build_tomesd()

    def _build_mmseg(self, config: Mapping[str, Any], unmerged: nn.Module) -> nn.Module:
        cfg = Config(dict(model=mmseg_peer(config), default_scope='mmseg'))
        theirs = self._build(cfg, trained=False)
        make_levels_linear(theirs, unmerged)
        theirs.load_state_dict(unmerged.state_dict(), strict=True)
        return theirs

    def _build_tomesd(self) -> dict[str, Contender]:
        made = {f'{name}{TOMESD}': tomesd_peer(each) for name, each in self._modules.items()}
        peers: dict[str, Contender] = {name: each for name, each in made.items() if each}
        if not peers:
            raise SegformerPlusPlusError(
                f'--against tomesd: none of {", ".join(self._modules)} merges by '
                'BipartiteSoftMatching2d; add --token-merging hq, or fast'
            )
        return peers

    def run(self, setting: Setting, record: dict[str, Any]) -> None:
        """Measures everything once, and fills the record as results come.

        So an interruption loses nothing. 'complete' is there, and True, only at the end.

        Raises:
            SegformerPlusPlusError: a peer is not the same model, a model cannot be compiled, or
                memory runs out.
        """
        options = self.options
        torch.set_num_threads(setting.threads)
        record.update(asdict(setting), results=[])
        torch.manual_seed(SEED)
        images = torch.randn(setting.batch_size, self._channels, *setting.shape)
        images = images.to(device=options.device, dtype=options.weight_dtype)
        contenders = self._rows(images)
        record['details'] = {
            name: each.details for name, each in contenders.items() if each.details
        }
        self._measure_matrix_products(record)
        clocks = [gpu_clocks()] if options.device == 'cuda' else []
        calls: dict[str, Call]
        if options.training:
            dtype = DTYPES[options.dtype]
            steps = {
                name: TrainingStep(each, images, each.random_targets(images), dtype)
                for name, each in contenders.items()
            }
            self._check_steps(steps, images, record)
            calls = dict(steps)
        else:
            self._check_logits(contenders, images, record)
            self._compare_files(contenders, images, record)
            rows = contenders
            if options.compile:
                contenders = self._compile(rows, images, record)
            if options.compile_blocks:
                contenders = self._compile_blocks(contenders, images, record)
            if options.graph:
                contenders = self._graphed(rows, contenders, images, record)
            calls = {name: self._call(each, images) for name, each in contenders.items()}
        taken: dict[str, list[float]] = {}
        try:
            measure(calls, options.rounds, options.warmup, options.device, taken)
        finally:
            record['results'] = list(_timing_records(taken, setting.batch_size))
            if clocks:
                record['gpu_clocks_before_and_after'] = [*clocks, gpu_clocks()]
        self._measure_matrix_products(record)
        if options.requests > 1:
            self._measure_load(record, contenders, images)
        self._count(record, contenders, calls, images)
        if options.stages:
            if options.training:
                parts = {name: step.parts() for name, step in steps.items()}
            else:
                with trace_errors('--stages'):
                    parts = {
                        name: stage_calls(each, images)
                        for name, each in contenders.items()
                        if not isinstance(each, GraphedModel | ExportedModel)
                    }
            self._measure_stages(record, parts)
        record['complete'] = True

    def _rows(self, images: Tensor) -> dict[str, Contender]:
        """Returns all contenders in their order: peers first, what tomesd merges after ours."""
        rows = {name: each for name, each in self._peers.items() if not name.endswith(TOMESD)}
        for name in self._order:
            if name in self._files:
                rows |= self._open_file(name, images)
                continue
            rows[name] = OpenMMLabModel(self._modules[name])
            if name + TOMESD in self._peers:
                rows[name + TOMESD] = self._peers[name + TOMESD]
        return rows

    def _open_file(self, name: str, images: Tensor) -> dict[str, Contender]:
        """Returns a row for each runtime that runs the file; anew, as threads may be others."""
        module: Any = open_model(self._files[name])
        loaders = module.backbone.loaders()
        return {
            name if len(loaders) == 1 else f'{name}, {runtime}': ExportedModel(
                module, runtime, load, images.float()
            )
            for runtime, load in loaders.items()
        }

    def _counterparts(self, rows: Mapping[str, Contender]) -> Iterator[tuple[str, Contender]]:
        """Yields each peer's name, and the contender of ours that it must equal."""
        for name in self._peers:
            ours = name.removesuffix(TOMESD)
            yield name, rows[ours] if ours != name else self._unmerged

    def _measure_matrix_products(self, record: dict[str, Any]) -> None:
        """Measures before and after the models: the better one counts, as others may be busy."""
        if self.options.peak:
            rates = matrix_product_rates(self.options.device, DTYPES[self.options.dtype])
            before = record.get('matrix_products_gflops_per_second', rates)
            record['matrix_products_gflops_per_second'] = {
                name: max(rate, before[name]) for name, rate in rates.items()
            }

    def _check_logits(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> None:
        errors: dict[str, float] = {}
        record['relative_error_of_logits'] = errors
        for name, ours in self._counterparts(rows):
            pair, inputs = (ours, rows[name]), images
            if name.endswith(TOMESD) and images.dtype != torch.float32:
                # tomesd compares tokens as rounded as they are, and so picks others than ours
                pair, inputs = (_in_float32(pair[0]), _in_float32(pair[1])), images.float()
            with memory_errors(name):
                errors[name] = check_same_logits(*pair, inputs, TOLERANCE[inputs.dtype], name)

    def _compare_files(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> None:
        """Notes what files are, and the labels that they share with the row of their strategy.

        Where that has random weights, or the file takes other images, nothing can be compared.
        """
        for name, row in rows.items():
            if not isinstance(row, ExportedModel):
                continue
            about = ExportedFile(row.file).record | dict(runtime=row.runtime)
            record.setdefault('files', {})[name] = about
            other = next(filter(self._has_strategy(about), self._trained), None)
            if other is not None and row.segments and not row.normalises:
                with torch.inference_mode(), memory_errors(name):
                    equal = row.predict(images) == rows[other].predict(images)
                about |= dict(compared_with=other, equal_labels=float(equal.double().mean()))

    def _has_strategy(self, about: Mapping[str, Any]) -> Callable[[str], bool]:
        def equal(name: str) -> bool:
            merging = getattr(self._modules[name].backbone, 'token_merging', None)
            return merging is not None and describe_merging(merging) == about['token_merging']

        return equal

    def _check_steps(
        self, steps: Mapping[str, TrainingStep], images: Tensor, record: dict[str, Any]
    ) -> None:
        errors: dict[str, dict[str, float]] = {}
        record['relative_error_of_training_step'] = errors
        rows = {name: step.contender for name, step in steps.items()}
        for name, ours in self._counterparts(rows):
            targets = steps[name].targets
            with memory_errors(name):
                # tomesd compares tokens as rounded as they are, and so picks others than ours
                dtype = torch.float32 if name.endswith(TOMESD) else steps[name].dtype
                errors[name] = check_same_step(
                    TrainingStep(ours, images, targets, dtype),
                    TrainingStep(rows[name], images, targets, dtype),
                    name,
                )

    def _compile(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> dict[str, Contender]:
        """Returns every row followed by its compiled one."""
        torch._dynamo.reset()  # what was compiled for another shape would ask for dynamic ones
        options, done = self.options, dict[str, dict[str, float]]()
        record['compiled'] = done
        result: dict[str, Contender] = {}
        for name, eager in rows.items():
            result[name] = eager
            if eager.uses_torch:
                result[name + COMPILED], done[name] = compile_contender(
                    eager, images, options.compile_backend, options.backbone_only, name
                )
        return result

    def _compile_blocks(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> dict[str, Contender]:
        """Returns every row, those of ours followed by one whose blocks are compiled."""
        from ...training.switches import compile_backbone  # which trains, where it is asked for

        torch._dynamo.reset()
        options, result = self.options, dict[str, Contender]()
        done = record['blocks_compiled'] = dict[str, dict[str, float]]()
        for name, eager in rows.items():
            result[name] = eager
            if isinstance(eager, OpenMMLabModel) and name in self._modules:
                module = twin(eager.module)
                settings = dict(blocks=True, dynamic=False, backend=options.compile_backend)
                with trace_errors(name):
                    compile_backbone(module, settings)
                result[name + BLOCKS] = compiled = OpenMMLabModel(module)
                done[name] = first_call(
                    compiled, eager, images, options.compile_backend, options.backbone_only, name
                )
        return result

    def _graphed(
        self,
        rows: Mapping[str, Contender],
        after: Mapping[str, Contender],
        images: Tensor,
        record: dict[str, Any],
    ) -> dict[str, Contender]:
        """Returns every row of ``after``, those of ``rows`` followed by their graph."""
        result: dict[str, Contender] = {}
        for name, each in after.items():
            result[name] = each
            if name in rows and each.uses_torch:
                only = self.options.backbone_only
                try:
                    result[name + GRAPH] = GraphedModel(each, images, only, name)
                except SegformerPlusPlusError as error:  # the other rows are worth their time
                    record.setdefault('without_graph', {})[name] = str(error)
        return result

    def _call(self, contender: Contender, images: Tensor) -> Call:
        function = contender.features if self.options.backbone_only else contender.predict
        return torch.inference_mode()(lambda: function(images))

    def _measure_load(
        self, record: dict[str, Any], rows: Mapping[str, Contender], images: Tensor
    ) -> None:
        """Adds images per second and the latencies with several images in flight, in turn."""
        options, count = self.options, len(images)
        workers = min(options.requests, record['threads'])
        loads = {
            name: Load(
                [torch.inference_mode()(each) for each in row.workers(images, workers)],
                options.requests,
            )
            for name, row in rows.items()
        }
        for name, load in loads.items():
            with memory_errors(name):
                load()
            load.seconds.clear()
        timings = measure(loads, options.rounds, warmup=0)
        for result in record['results']:
            load = loads[result['name']]
            middle, late = np.percentile(load.seconds, [50, 99]).tolist()
            result['load'] = dict(
                requests=options.requests,
                images_per_second=count * options.requests * load.calls
                / timings[result['name']].median,
                p50_seconds=middle,
                p99_seconds=late,
                seconds=load.seconds,
            )  # fmt: skip

    def _count(
        self,
        record: dict[str, Any],
        rows: Mapping[str, Contender],
        calls: Mapping[str, Call],
        images: Tensor,
    ) -> None:
        """Adds to every result what is counted, not timed."""
        options = self.options
        rates = record.get('matrix_products_gflops_per_second', {})
        for result in record['results']:
            name = result['name']
            row = rows[name]
            if isinstance(row, ExportedModel):
                result['megabytes'] = record['files'][name]['megabytes']
                result['process_bytes'] = file_memory(row.file, row.runtime, row.images)
                continue
            counted = row.arithmetic
            call = calls[name] if counted is row else self._call(counted, images)
            with memory_errors(name):
                result['parameters'] = count_parameters(
                    row.backbone if options.backbone_only else row.module
                )
                # other graphs hold no chunks, and no counter sees into a kernel
                with chunked(is_chunked() and row.uses_torch), kernels.enabled(False):
                    result['gflops'] = count_flops(call) / 1e9
                if row.uses_torch and not isinstance(row, GraphedModel):  # it keeps what it uses
                    result['peak_memory_bytes'] = peak_memory(calls[name], options.device)
                    if options.device == 'cuda':
                        result['kernels'] = count_kernels(calls[name])
            if rates:
                rate = result['gflops'] / result['median_seconds']
                result['gflops_per_second'] = rate
                result['share_of_matrix_products'] = rate / max(rates.values())

    def _measure_stages(
        self, record: dict[str, Any], parts: Mapping[str, Mapping[str, Call]]
    ) -> None:
        """Times the parts by themselves, all in turn, in the order in which they make the whole."""
        options = self.options
        calls = {(name, part): call for name, each in parts.items() for part, call in each.items()}
        named = {' '.join(key): call for key, call in calls.items()}
        timings = measure(named, options.rounds, options.warmup, options.device)
        results = {result['name']: result for result in record['results']}
        for (name, part), timing in zip(calls, timings.values(), strict=True):
            results[name].setdefault('stages', {})[part] = timing.median
            results[name].setdefault('stages_quartiles', {})[part] = timing.quartiles


def check_files(options: Options, files: Mapping[str, Any], alone: bool) -> None:
    """Raises a SegformerPlusPlusError for an option that files cannot have, or have no use for."""
    names = ', '.join(files)
    if options.device != 'cpu':
        raise SegformerPlusPlusError(f'--device {options.device}: {names}: files run on the CPU')
    flags = ['training', 'backbone-only']
    # of other models beside files, these are of use
    flags += ['checkpoint', 'against', 'compile', 'compile-blocks', 'stages'] if alone else []
    for flag in flags:
        if getattr(options, flag.replace('-', '_')):
            raise SegformerPlusPlusError(
                f'--{flag}: {names}: a file runs as a whole, with its own weights, in its own '
                'runtime; leave the option out, or name a config'
            )


def twin(model: Any) -> nn.Module:
    """Returns a copy of a model that has the same tensors: its strategy can be another one."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(each): each for each in tensors})


def share_weights(models: Mapping[str, nn.Module]) -> None:
    """Gives the weights of the first model to all models that have the same parameters."""
    first, *others = models.values()
    state = first.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for model in others:
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state, strict=True)


def _in_float32(contender: Contender) -> Contender:
    return OpenMMLabModel(copy.deepcopy(contender.module).float(), contender.one_graph)


def _timing_records(taken: Mapping[str, list[float]], batch_size: int) -> Iterator[dict[str, Any]]:
    """Yields the times of every model that ran at least once; speed-ups are against the first."""
    timings = {name: Timing(tuple(seconds)) for name, seconds in taken.items() if seconds}
    for name, timing in timings.items():
        yield dict(
            name=name,
            median_seconds=timing.median,
            quartiles_seconds=timing.quartiles,
            images_per_second=batch_size / timing.median,
            speed_up=next(iter(timings.values())).median / timing.median,
            seconds=timing.seconds,
        )
