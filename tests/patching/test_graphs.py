"""When a model is recorded, and that a replay is never of another model than the present one.

There need not be a GPU: what stands in for a graph here is a copy of the model as it was recorded.
"""

import copy
import logging
import pickle
import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from segformer_plusplus import TokenMerger, apply_token_merging, remove_token_merging
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.merge_maps import record_plans
from segformer_plusplus.kernels.runtime import recording
from segformer_plusplus.patching import apply_cuda_graphs, graphs, remove_cuda_graphs
from segformer_plusplus.token_merging import StageMerging, TokenMerging
from segformer_plusplus.token_merging.plans import CellPlan

from .models import CASES, own_segmentor


class Tape:
    """Records copies of modules in the place of CUDA graphs, and counts."""

    def __init__(self):
        self.recorded = self.replayed = 0
        self.fails = None

    def record(self, run, tensors, memory):
        if self.fails:
            raise self.fails
        self.recorded += 1
        with torch.inference_mode(False), torch.no_grad(), recording() as held:
            inputs = [each.clone() for each in tensors]
            outputs = run(inputs)
        forward = run.func.__self__
        frozen = copy.deepcopy(forward.module)

        def replay():
            self.replayed += 1
            present, forward.module = forward.module, frozen
            try:
                for output, each in zip(outputs, run(inputs), strict=True):
                    output.copy_(each)
            finally:
                forward.module = present

        return graphs.Recording(replay, inputs, outputs, held)


@pytest.fixture
def tape(monkeypatch):
    tape = Tape()
    monkeypatch.setattr(graphs, 'record', tape.record)
    monkeypatch.setattr(graphs, '_has_graphs', lambda device: True)
    monkeypatch.setattr(graphs, '_is_capturing', lambda: False)
    return tape


@pytest.fixture
def model():
    model = own_segmentor(token_merging='hq')
    apply_cuda_graphs(model)
    return model


PARTS = 2  # backbone and head


def image(height=64, width=96, batch=1, **settings):
    return torch.randn(batch, 3, height, width, **settings)


def predict(model, images):
    with torch.no_grad():
        return model(images, mode='tensor')


def expected(model, images):
    """The output of a copy without graphs."""
    plain = copy.deepcopy(model)
    remove_cuda_graphs(plain)
    return predict(plain, images)


def warm(model, images):
    for _ in range(3):
        predict(model, images)


@pytest.mark.parametrize('case', CASES)
def test_replays_give_what_the_model_gives(case, tape):
    case = CASES[case]
    model = case.build()
    apply_token_merging(model, 'fast')
    images = [image(), image()]
    with torch.no_grad():
        outputs = [case.output(model, each) for each in images]
        apply_cuda_graphs(model)
        for _ in range(3):
            found = [case.output(model, each) for each in images]
    assert tape.recorded and tape.replayed
    assert torch.equal(found[0], outputs[0]) and torch.equal(found[1], outputs[1])
    assert not torch.equal(found[0], found[1])


def test_the_second_input_of_a_kind_is_recorded_and_the_third_replayed(model, tape):
    for count, (recorded, replayed) in enumerate([(0, 0), (1, 1), (1, 2), (1, 3)], start=1):
        images = image()
        torch.testing.assert_close(predict(model, images), expected(model, images), rtol=0, atol=0)
        found = tape.recorded, tape.replayed
        assert found == (PARTS * recorded, PARTS * replayed), count


def test_each_shape_and_layout_has_a_recording(model, tape):
    turned = image().contiguous(memory_format=torch.channels_last)
    kinds = [image(), image(96, 64), image(batch=2), turned]
    for _ in range(3):
        for images in kinds:
            assert torch.equal(predict(model, images), expected(model, images))
    # the head gets the same features, whatever the layout of the image
    assert tape.recorded == PARTS * len(kinds) - 1


def test_few_recordings_are_kept(model, tape):
    for width in range(64, 64 + 8 * graphs.KEPT, 4):
        warm(model, image(64, width))
    forward = vars(model.backbone)['forward']
    assert len(forward._entries) == graphs.KEPT
    assert len(forward._seen) <= graphs.SEEN


def test_a_result_is_not_overwritten_by_the_next_one(model, tape):
    first, second = image(), image()
    warm(model, first)
    result = predict(model, first)
    before = result.clone()
    predict(model, second)
    assert torch.equal(result, before)


def halve_in_place(model):
    with torch.no_grad():
        model.backbone.layers[1][1][0].ffn.layers[0].weight.mul_(0.5)


def load(model):
    other = own_segmentor(seed=1)
    model.load_state_dict(other.state_dict(), strict=True)


def replace(model):
    model.backbone.layers[0][1][0].norm1.weight = nn.Parameter(torch.rand(8))


def statistics(model):
    model.decode_head.fusion_conv.norm.running_mean.add_(1)


def strategy(model):
    apply_token_merging(model, 'fast')


def own_strategy(model):
    model.backbone.token_merging.stages[0].kv.ratio = 0.1


def exchange(model):
    model.decode_head.conv_seg = copy.deepcopy(model.decode_head.conv_seg)
    with torch.no_grad():
        model.decode_head.conv_seg.weight.neg_()


def average(model):
    """As mmengine swaps in the weights of an average: no version counts it."""
    model.train()
    model.decode_head.fusion_conv.conv.weight.data.mul_(2)
    model.eval()


def resizing(model):
    model.decode_head.interpolate_mode = 'nearest'


def epsilon(model):
    model.backbone.layers[2][2].eps = 1.0


CHANGES = [average, halve_in_place, load, replace, statistics, strategy, own_strategy, exchange]
CHANGES += [resizing, epsilon]


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_model_is_never_replayed_as_it_was(change, model, tape):
    images = image()
    warm(model, images)
    before = predict(model, images)
    change(model)
    for _ in range(4):
        found = predict(model, images)
        assert torch.equal(found, expected(model, images))
    assert not torch.equal(found, before)
    assert tape.recorded > PARTS  # recorded anew


def test_each_strategy_has_a_recording(model, tape):
    images = image()
    right = {}
    for _ in range(3):
        for preset in ('hq', 'none'):
            apply_token_merging(model, preset)
            found = predict(model, images)
            assert torch.equal(found, right.setdefault(preset, expected(model, images)))
    # the head does not know the strategy
    assert tape.recorded == PARTS + 1
    assert not torch.equal(*right.values())


class Hidden(TokenMerger):
    """A strategy whose settings do not show."""

    def __init__(self, rows):
        self._settings = {'rows': rows}

    def plan(self, tokens, grid):
        return CellPlan(grid, (self._settings['rows'], 1), tokens.device)


def test_strategies_that_only_look_alike_are_told_apart(model, tape):
    images = image()
    for _ in range(3):
        for rows in (1, 2, 3):
            stage = StageMerging(kv=Hidden(rows))
            apply_token_merging(model, TokenMerging((stage,) * 4))
            assert torch.equal(predict(model, images), expected(model, images)), rows


def test_every_plan_is_seen_by_those_who_look_for_plans(model, tape):
    images = image()
    for _ in range(4):
        with record_plans(model) as seen:
            predict(model, images)
        assert len(seen) == 2 * sum(len(blocks) for _, blocks, _ in model.backbone.layers)
    with record_plans(model) as seen:
        warm(model, images)
    assert len(seen) == 3 * 2 * sum(len(blocks) for _, blocks, _ in model.backbone.layers)


def test_sizes_in_turn_are_not_recorded_again_and_again(model, tape):
    kinds = [image(64, width) for width in range(64, 64 + 8 * (graphs.KEPT + 2), 8)]
    for _ in range(12):
        for images in kinds:
            assert torch.equal(predict(model, images), expected(model, images))
    calls = 12 * len(kinds) * PARTS
    assert tape.recorded < calls / 5
    warm(model, kinds[0])
    for _ in range(graphs.WORTH):
        predict(model, kinds[0])
    assert tape.replayed > graphs.WORTH  # one that stays is recorded in the end


def test_eval_before_each_prediction_costs_the_backbone_nothing(model, tape):
    images = image()
    for _ in range(40):
        model.eval()  # folded weights are made anew
        predict(model, images)
    assert tape.recorded < 10
    assert vars(model.backbone)['forward']._entries


class Remembering(nn.Module):
    """A head that mixes in what it gave before."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.before = inner, None

    def forward(self, features):
        result = self.inner.forward(features)
        result = result if self.before is None else (result + self.before) / 2
        self.before = result
        return result


class Writing(nn.Module):
    """A head that changes what it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, features):
        features[0].mul_(2)
        return self.inner.forward(features)


@pytest.mark.parametrize('kind', [Remembering, Writing])
def test_a_part_that_changes_itself_or_its_input_is_not_recorded(kind, model, tape, caplog):
    remove_cuda_graphs(model)
    head = model.decode_head
    del model.decode_head
    model.decode_head = kind(head).eval()
    plain = copy.deepcopy(model)
    apply_cuda_graphs(model)
    for _ in range(6):
        images = image()
        assert torch.equal(predict(model, images), predict(plain, images))
    assert vars(model.backbone)['forward']._entries
    assert not vars(model.decode_head)['forward']._entries
    assert len(caplog.records) == 1 and 'changes itself or its input' in caplog.text


def test_a_part_in_training_mode_runs_as_always(model, tape):
    norm = model.decode_head.fusion_conv.norm.train()
    before = int(norm.num_batches_tracked)
    warm(model, image())
    assert norm.num_batches_tracked == before + 3
    assert not vars(model.decode_head)['forward']._entries


def test_a_model_that_leaves_gives_the_memory_back(model, tape, monkeypatch):
    images = image()
    warm(model, images)
    monkeypatch.setattr(graphs, '_has_graphs', lambda device: False)
    predict(model, images)
    assert not vars(model.backbone)['forward']._entries


def test_recordings_make_room_where_memory_runs_out(model, tape, monkeypatch):
    warm(model, image())
    forward, full = type(model.decode_head).forward, [True]

    def fails_once(self, features):
        if full:
            full.clear()
            raise torch.OutOfMemoryError('CUDA out of memory')
        return forward(self, features)

    monkeypatch.setattr(type(model.decode_head), 'forward', fails_once)
    images = image(96, 96)
    assert torch.equal(predict(model, images), expected(model, images))
    assert not full and not vars(model.decode_head)['forward']._entries


def test_a_wrapped_model_is_recorded_inside(tape):
    model = own_segmentor(token_merging='hq')
    wrapped = nn.ModuleDict({'net': model}).eval()
    apply_cuda_graphs(wrapped)
    warm(model, image())
    assert tape.replayed
    remove_cuda_graphs(wrapped)
    assert 'forward' not in vars(model.backbone)


@pytest.mark.skipif(not hasattr(torch.backends, 'fp32_precision'), reason='torch has no newer ones')
def test_newer_settings_of_precision_are_known(model, tape, monkeypatch):
    def mixed():
        raise RuntimeError('mix of the legacy and new APIs')

    monkeypatch.setattr(torch, 'get_float32_matmul_precision', mixed)
    warm(model, image())
    assert tape.replayed


def test_hooks_are_called(model, tape):
    images = image()
    warm(model, images)
    seen = []
    handle = model.backbone.layers[0][1][0].register_forward_hook(lambda *each: seen.append(1))
    for _ in range(3):
        predict(model, images)
    assert len(seen) == 3
    handle.remove()
    replayed = tape.replayed
    warm(model, images)
    assert tape.replayed > replayed


def test_training_and_gradients_run_as_always(model, tape):
    images = image()
    warm(model, images)
    count = tape.replayed
    model(images, mode='tensor').sum().backward()
    assert model.backbone.layers[0][0].projection.weight.grad is not None
    model.train()
    with torch.no_grad():
        model(images, mode='tensor')
    assert tape.replayed == count


def test_autocast_and_fake_tensors_run_as_always(model, tape):
    images = image()
    warm(model, images)
    count = tape.replayed
    with torch.autocast('cpu', dtype=torch.bfloat16):
        predict(model, images)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        predict(model, images)
    assert counter.get_total_flops() > 0
    assert tape.replayed == count


def test_launch_blocking_records_nothing(model, tape, monkeypatch):
    monkeypatch.setenv('CUDA_LAUNCH_BLOCKING', '1')
    warm(model, image())
    assert tape.recorded == 0


def test_inside_of_a_recording_nothing_is_recorded(model, tape, monkeypatch):
    monkeypatch.setattr(graphs, '_is_capturing', lambda: True)
    warm(model, image())
    assert tape.recorded == 0


@pytest.mark.parametrize(
    'error',
    [
        torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
        RuntimeError('CUDA error: operation not permitted when stream is capturing\nlong story'),
    ],
)
def test_what_cannot_be_recorded_runs_as_always_and_is_said_once(error, model, tape, caplog):
    tape.fails = error
    images = image()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert torch.equal(predict(model, images), expected(model, images))
    assert len(caplog.records) == PARTS
    assert str(error).splitlines()[0] in caplog.text and 'long story' not in caplog.text


def test_on_a_cpu_nothing_is_recorded():
    model = own_segmentor(token_merging='hq')
    images = image()
    before = predict(model, images)
    apply_cuda_graphs(model)
    for _ in range(3):
        assert torch.equal(predict(model, images), before)
    assert not vars(model.backbone)['forward']._seen


def test_on_and_off(model, tape):
    images = image()
    keys = list(model.state_dict())
    apply_cuda_graphs(model)
    warm(model, images)
    remove_cuda_graphs(model)
    assert not any('forward' in vars(each) for each in model.modules())
    count = tape.replayed
    warm(model, images)
    assert tape.replayed == count
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_recordings_of_their_own(duplicate, model, tape):
    images = image()
    warm(model, images)
    twin = duplicate(model)
    assert vars(twin.backbone)['forward'].module is twin.backbone
    assert not vars(twin.backbone)['forward']._entries
    halve_in_place(twin)
    warm(twin, images)
    assert torch.equal(predict(twin, images), expected(twin, images))
    assert torch.equal(predict(model, images), expected(model, images))


def test_recorded_in_inference_mode_and_replayed_without(model, tape):
    images = image()
    with torch.inference_mode():
        for _ in range(3):
            model(images, mode='tensor')
    found = predict(model, images)
    assert torch.equal(found, expected(model, images))
    assert not found.is_inference()


def test_threads_do_not_mix_their_images(model, tape):
    images = [image() for _ in range(4)]
    warm(model, images[0])
    results = {}

    def work(index):
        results[index] = [predict(model, images[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, each in results.items():
        right = expected(model, images[index])
        assert all(torch.equal(found, right) for found in each)


def test_merging_goes_on_and_off_under_graphs(model, tape):
    images = image()
    warm(model, images)
    apply_token_merging(model, 'none')
    assert torch.equal(predict(model, images), expected(model, images))
    remove_token_merging(model)
    warm(model, images)
    assert torch.equal(predict(model, images), expected(model, images))


def test_a_model_without_a_segformer_is_refused():
    with pytest.raises(SegformerPlusPlusError, match='nothing to merge'):
        apply_cuda_graphs(nn.Linear(2, 2))
    with pytest.raises(SegformerPlusPlusError, match='a model'):
        apply_cuda_graphs('b0')


def test_a_forward_of_somebody_else_is_refused(model):
    remove_cuda_graphs(model)
    model.decode_head.forward = lambda inputs: inputs[0]
    with pytest.raises(SegformerPlusPlusError, match='decode_head has a forward of its own'):
        apply_cuda_graphs(model)
    assert 'forward' not in vars(model.backbone)


@pytest.mark.parametrize('waits', [True, False])
def test_waiting_is_noticed_before_a_capture(waits, monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, 'get_sync_debug_mode', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', modes.append)
    outcome = pytest.raises(RuntimeError, match='waits') if waits else nullcontext()
    with outcome, graphs._refusing_to_wait():
        warnings.warn('called a synchronizing CUDA operation' if waits else 'x', stacklevel=1)
    assert modes == ['warn', 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('preset', ['none', 'hq', 'fast', '2x2', 'weighted'])
def test_a_gpu_replays_what_it_recorded(preset, caplog):
    model = own_segmentor(token_merging=preset).cuda().bfloat16()
    images = [image(device='cuda', dtype=torch.bfloat16) for _ in range(4)]
    right = [expected(model, each) for each in images]
    apply_cuda_graphs(model)
    found = [predict(model, each) for each in images]
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)
    assert vars(model.backbone)['forward']._entries and not caplog.records
    load(model)
    fresh, right = predict(model, images[0]), expected(model, images[0])
    torch.testing.assert_close(fresh, right, rtol=0.05, atol=0.05)


class Waiting(TokenMerger):
    """A strategy that waits for the GPU."""

    def plan(self, tokens, grid):
        return CellPlan(grid, (1 + int(tokens.sum() > 1e9), 1), tokens.device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_strategy_that_waits_for_the_gpu_runs_as_always(caplog):
    model = own_segmentor().cuda()
    apply_token_merging(model, TokenMerging((StageMerging(kv=Waiting()),) * 4))
    images = image(device='cuda')
    right = predict(model, images)
    apply_cuda_graphs(model)
    for _ in range(4):
        torch.testing.assert_close(predict(model, images), right)
    assert 'without a CUDA graph' in caplog.text
