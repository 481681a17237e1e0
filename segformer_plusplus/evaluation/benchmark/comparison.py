"""A benchmark: models with equal weights, checked against each other, then timed in turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ...errors import memory_errors
from ...inference.opening import SEED
from ...mit.cpu import chunked, is_chunked
from ..timing import Call, Timing, measure, peak_memory
from .compiling import TOLERANCE, compile_contender, trace_errors
from .complexity import count_flops, count_parameters, matrix_product_rates
from .contenders import Contender, OpenMMLabModel, stage_calls
from .peers import check_same_logits
from .settings import DTYPES, TOMESD, Field, Options, Setting
from .training_step import TrainingStep, check_same_step

COMPILED = ', compiled'


class Comparison:
    """Runs of a field of contenders.

    Args:
        variants: see :class:`~.settings.Field`.
        options: what is measured.
    """

    def __init__(self, variants: Mapping[str, Any], options: Options) -> None:
        self.options = options
        self._field = Field(variants, options)

    def run(self, setting: Setting, record: dict[str, Any]) -> None:
        """Measure everything once.

        Args:
            setting: shape, batch size and threads.
            record: filled as results come, so that an interruption loses nothing; 'complete' is
                there, and True, only at the end.

        Raises:
            SegformerPlusPlusError: a peer is not the same model, a model cannot be compiled, or
                memory runs out.
        """
        options = self.options
        torch.set_num_threads(setting.threads)
        record.update(
            shape=setting.shape, batch_size=setting.batch_size, threads=setting.threads, results=[]
        )
        images = self._images(setting)
        contenders = self._field.rows()
        record['details'] = {
            name: each.details for name, each in contenders.items() if each.details
        }
        self._measure_matrix_products(record)
        calls: dict[str, Call]
        if options.training:
            steps = self._training_steps(contenders, images)
            self._check_steps(steps, images, record)
            calls = dict(steps)
        else:
            self._check_logits(contenders, images, record)
            if options.compile:
                contenders = self._compile(contenders, images, record)
            calls = {name: self._call(each, images) for name, each in contenders.items()}
        taken: dict[str, list[float]] = {}
        try:
            measure(calls, options.rounds, options.warmup, options.device, taken)
        finally:
            record['results'] = list(_timing_records(taken, setting.batch_size))
        self._measure_matrix_products(record)
        self._count(record, contenders, calls, images)
        if options.stages:
            if options.training:
                parts = {name: step.parts() for name, step in steps.items()}
            else:
                with trace_errors('--stages'):
                    parts = {name: stage_calls(each, images) for name, each in contenders.items()}
            self._measure_stages(record, parts)
        record['complete'] = True

    def _measure_matrix_products(self, record: dict[str, Any]) -> None:
        """Before and after the models: the better one counts, as a busy machine is slower."""
        if self.options.peak:
            rates = matrix_product_rates(self.options.device, DTYPES[self.options.dtype])
            before = record.get('matrix_products_gflops_per_second', rates)
            record['matrix_products_gflops_per_second'] = {
                name: max(rate, before[name]) for name, rate in rates.items()
            }

    def _images(self, setting: Setting) -> Tensor:
        torch.manual_seed(SEED)
        images = torch.randn(setting.batch_size, 3, *setting.shape)
        return images.to(device=self.options.device, dtype=self.options.weight_dtype)

    def _check_logits(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> None:
        errors: dict[str, float] = {}
        record['relative_error_of_logits'] = errors
        for name, ours in self._field.counterparts(rows):
            pair, inputs = (ours, rows[name]), images
            if name.endswith(TOMESD) and images.dtype != torch.float32:
                # tomesd compares tokens as rounded as they are, and so picks others than ours
                pair, inputs = (_in_float32(pair[0]), _in_float32(pair[1])), images.float()
            with memory_errors(name):
                errors[name] = check_same_logits(*pair, inputs, TOLERANCE[inputs.dtype], name)

    def _compile(
        self, rows: Mapping[str, Contender], images: Tensor, record: dict[str, Any]
    ) -> dict[str, Contender]:
        """Every row followed by its compiled one."""
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

    def _call(self, contender: Contender, images: Tensor) -> Call:
        function = contender.features if self.options.backbone_only else contender.predict
        return torch.inference_mode()(lambda: function(images))

    def _training_steps(
        self, rows: Mapping[str, Contender], images: Tensor
    ) -> dict[str, TrainingStep]:
        dtype = DTYPES[self.options.dtype]
        return {
            name: TrainingStep(each, images, each.random_targets(images), dtype)
            for name, each in rows.items()
        }

    def _check_steps(
        self, steps: Mapping[str, TrainingStep], images: Tensor, record: dict[str, Any]
    ) -> None:
        errors: dict[str, dict[str, float]] = {}
        record['relative_error_of_training_step'] = errors
        rows = {name: step.contender for name, step in steps.items()}
        for name, ours in self._field.counterparts(rows):
            targets = steps[name].targets
            with memory_errors(name):
                # tomesd compares tokens as rounded as they are, and so picks others than ours
                dtype = torch.float32 if name.endswith(TOMESD) else steps[name].dtype
                errors[name] = check_same_step(
                    TrainingStep(ours, images, targets, dtype),
                    TrainingStep(rows[name], images, targets, dtype),
                    name,
                )

    def _count(
        self,
        record: dict[str, Any],
        rows: Mapping[str, Contender],
        calls: Mapping[str, Call],
        images: Tensor,
    ) -> None:
        """Add to every result what is counted, not timed."""
        options = self.options
        rates = record.get('matrix_products_gflops_per_second', {})
        for result in record['results']:
            name = result['name']
            row = rows[name]
            counted = row.arithmetic
            call = calls[name] if counted is row else self._call(counted, images)
            with memory_errors(name):
                result['parameters'] = count_parameters(
                    row.backbone if options.backbone_only else row.module
                )
                with chunked(is_chunked() and row.uses_torch):  # other graphs hold no chunks
                    result['gflops'] = count_flops(call) / 1e9
                if row.uses_torch:
                    result['peak_memory_bytes'] = peak_memory(calls[name], options.device)
            if rates:
                result['gflops_per_second'] = result['gflops'] / result['median_seconds']
                result['share_of_matrix_products'] = result['gflops_per_second'] / max(
                    rates.values()
                )

    def _measure_stages(
        self, record: dict[str, Any], parts: Mapping[str, Mapping[str, Call]]
    ) -> None:
        """The parts by themselves, all in turn, in the order in which they make the whole."""
        options = self.options
        calls = {(name, part): call for name, each in parts.items() for part, call in each.items()}
        timings = measure(
            {' '.join(key): call for key, call in calls.items()},
            options.rounds,
            options.warmup,
            options.device,
        )
        results = {result['name']: result for result in record['results']}
        for (name, part), timing in zip(calls, timings.values(), strict=True):
            results[name].setdefault('stages', {})[part] = timing.median
            results[name].setdefault('stages_quartiles', {})[part] = timing.quartiles


def _in_float32(contender: Contender) -> Contender:
    module = copy.deepcopy(contender.module).float()
    return OpenMMLabModel(module, contender.one_graph)


def _timing_records(taken: Mapping[str, list[float]], batch_size: int) -> Iterator[dict[str, Any]]:
    """What is known of every model that ran at least once; speed-ups are against the first."""
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
