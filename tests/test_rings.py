"""Who loads whom: a light import, a quick console, a core that needs torch alone."""

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segformer_plusplus.cli.main import COMMANDS
from segformer_plusplus.libraries import installed_line
from segformer_plusplus.moved import MOVED, OUTSIDE
from segformer_plusplus.registration import REGISTERED

ROOT = Path(__file__).resolve().parents[1]
LIGHT = {'compat', 'errors', 'libraries', 'moved', 'registration'}
"""What is loaded by ``import segformer_plusplus``."""
CORE = {'arguments', 'kernels', 'token_merging', 'mit', 'patching'}
"""Rooms that merging on somebody's model may load besides."""

BLOCK = """
    import importlib.util
    import sys
    from importlib.abc import MetaPathFinder

    def blocked(name):
        return name.split('.')[0] in {names!r}

    class Block(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if blocked(name):
                raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

    sys.meta_path.insert(0, Block())
    real = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: (
        None if blocked(name) else real(name, package))
"""


def without(*names):
    """Code in which these cannot be imported."""
    return BLOCK.format(names=names)


WITHOUT_OPENMMLAB = without('mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmdet')
OURS = """
    print(*sorted(name.partition('.')[2] for name in sys.modules
                  if name.startswith('segformer_plusplus.')))
    print(*sorted({name.partition('.')[0] for name in sys.modules} & {
        'torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmdet', 'rich', 'matplotlib'}))
"""


def run(*code, arguments=()):
    text = '\n'.join(map(textwrap.dedent, code))
    return subprocess.run(
        [sys.executable, '-c', text, *arguments], capture_output=True, text=True, timeout=120
    )


def test_the_import_is_light():
    result = run('import sys, segformer_plusplus', OURS)
    ours, others = result.stdout.splitlines()
    assert set(ours.split()) == LIGHT, result.stderr
    assert others == ''
    assert result.stderr == ''


@pytest.mark.parametrize('arguments', [['--help'], ['--version'], ['predcit'], []])
def test_the_console_starts_without_torch(arguments):
    code = 'import sys\nfrom segformer_plusplus.cli.main import main\nmain(sys.argv[1:])'
    result = run(code, OURS, arguments=arguments)
    *_, ours, others = result.stdout.splitlines()
    assert set(ours.split()) <= LIGHT | {'cli', 'cli.main', 'version'}, result.stderr
    assert others == ''


def test_merging_loads_the_core_and_no_toolbox():
    result = run('import sys, segformer_plusplus as s; s.apply_token_merging', OURS)
    ours, others = result.stdout.splitlines()
    assert {name.partition('.')[0] for name in ours.split()} <= LIGHT | CORE, result.stderr
    assert not {'mmcv', 'mmseg', 'mmpose', 'mmdet', 'matplotlib'} & set(others.split())


def test_what_is_registered_is_there_and_costs_nothing_before():
    code = """
        import sys
        import segformer_plusplus
        from segformer_plusplus.registration import REGISTERED
        import mmengine.registry as registries
        for registry, names in REGISTERED.items():
            for name in names:
                assert getattr(registries, registry).get(name) is not None, name
        print(*sorted({n for n in sys.modules if n.count('.') == 1 and n.startswith('segf')}))
        print(*sorted({name.partition('.')[0] for name in sys.modules} & {'mmseg', 'mmpose'}))
    """
    ours, toolboxes = run(code).stdout.splitlines()
    assert {name.partition('.')[2] for name in ours.split()} == LIGHT
    assert toolboxes == ''


@pytest.mark.parametrize('first', ['mmengine', 'segformer_plusplus'])
def test_either_import_may_come_first(first):
    pytest.importorskip('mmseg')
    second = {'mmengine': 'segformer_plusplus', 'segformer_plusplus': 'mmengine'}[first]
    code = f"""
        import {first}
        import {second}
        from mmengine.registry import MODELS
        import torch
        backbone = MODELS.build(dict(type='MixVisionTransformerPlusPlus', arch='b0'))
        print(type(backbone).__module__, MODELS.get('MixVisionTransformerPlusPlus').__module__)
        head = MODELS.build(dict(type='SegformerHeadPlusPlus', in_channels=[32, 64], channels=8,
                                 in_index=[0, 1], num_classes=2, norm_cfg=dict(type='BN')))
        print(type(head).__module__)
        import mmseg.registry
        print(mmseg.registry.MODELS.get('SegformerHeadPlusPlus').__module__)
    """
    result = run(code)
    heads = 'segformer_plusplus.segmentation.heads'
    backbones = 'segformer_plusplus.mit.backbone'
    assert result.stdout.split() == [backbones, backbones, heads, heads], result.stderr


def test_every_registered_name_is_a_class_or_function_of_its_module():
    pytest.importorskip('mmseg')
    pytest.importorskip('xtcocotools')
    for names in REGISTERED.values():
        for name, place in names.items():
            module, _, attribute = place.partition(':')
            found = getattr(
                importlib.import_module(f'segformer_plusplus.{module}'), attribute or name
            )
            assert found.__module__.startswith(f'segformer_plusplus.{module}')


def test_a_stand_in_is_what_it_stands_for():
    code = """
        import segformer_plusplus
        from mmengine.registry import HOOKS, MODELS
        stand_in = HOOKS.get('StopOnNaN')
        hook = stand_in()
        from segformer_plusplus.training.hooks import StopOnNaN
        assert type(hook) is StopOnNaN and stand_in is not StopOnNaN
        assert isinstance(hook, stand_in) and issubclass(StopOnNaN, stand_in)
        assert stand_in.priority == StopOnNaN.priority
        assert HOOKS.get('StopOnNaN') is StopOnNaN
        try:
            MODELS.build(dict(type='MixVisionTransformerPlusPlus', arhc='b0'))
        except TypeError as error:
            print(error)
    """
    result = run(code)
    assert "unexpected keyword argument 'arhc'" in result.stdout, result.stderr


TINY = """
    import torch, transformers
    from segformer_plusplus import TOKEN_MERGERS, TokenMerger, apply_token_merging
    from segformer_plusplus import remove_token_merging
    from segformer_plusplus.token_merging import NeighborMerging2d

    torch.manual_seed(0)
    model = transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 40, 64], decoder_hidden_size=16, num_labels=3,
    )).eval()
    image = torch.randn(1, 3, 96, 64)
    with torch.inference_mode():
        plain = model(image).logits
        apply_token_merging(model, 'none')
        assert torch.allclose(model(image).logits, plain, atol=1e-5)
        for preset in ('hq', 'fast', '2x2', 'weighted', 'downsampling'):
            apply_token_merging(model, preset)
            assert not torch.equal(model(image).logits, plain)

        @TOKEN_MERGERS.register_module()
        class Mine(TokenMerger):
            def plan(self, tokens, grid):
                return NeighborMerging2d(2).plan(tokens, grid)

        apply_token_merging(model, [dict(q='Mine')] * 4)
        mine = model(image).logits
        apply_token_merging(model, '2x2')
        assert torch.equal(model(image).logits, mine)
        remove_token_merging(model)
        assert torch.equal(model(image).logits, plain)
    print('merged', type(TOKEN_MERGERS).__module__)
    try:
        TOKEN_MERGERS.register_module(module=Mine)
    except KeyError as error:
        print(error)
"""


@pytest.mark.parametrize('openmmlab', [True, False])
def test_merging_needs_torch_alone(openmmlab):
    pytest.importorskip('transformers', minversion='5')
    result = run('' if openmmlab else WITHOUT_OPENMMLAB, TINY)
    assert result.returncode == 0, result.stderr
    registry = 'mmengine.registry.registry' if openmmlab else 'segformer_plusplus.token_merging'
    assert f'merged {registry}' in result.stdout
    assert 'Mine is already registered in token merger' in result.stdout


def test_every_command_that_needs_openmmlab_says_so_in_one_line():
    code = """
        import contextlib, io
        from segformer_plusplus.cli.main import main
        for name in ('train', 'test', 'predict', 'benchmark', 'info', 'convert', 'tune', 'demo'):
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                code = main([name, 'config.py', 'weights.pth'])
            print(name, code, said.getvalue(), end='')
    """
    result = run(WITHOUT_OPENMMLAB, code)
    lines = result.stdout.splitlines()
    assert len(lines) == 8, result.stderr
    for line in lines:
        name = line.split()[0]
        assert line.startswith(f'{name} 2 error: segformer-plusplus {name} needs mm')
        assert 'install it with pip install' in line


NEEDY = {
    'segformer_plusplus': 'MixVisionTransformerPlusPlus SegformerHeadPlusPlus JumpBroadcastDataset',
    'segformer_plusplus.mit': 'MixVisionTransformerPlusPlus',
    'segformer_plusplus.inference': 'Segmenter merge_map',
    'segformer_plusplus.training': 'StrictRunner',
    'segformer_plusplus.checkpoints': 'read_checkpoint',
    'segformer_plusplus.loading': 'CheckedLoadImageFromFile',
    'segformer_plusplus.export': 'export_model',
    'segformer_plusplus.evaluation.fidelity': 'measure_fidelity',
    'segformer_plusplus.evaluation.tuning': 'tune',
    'segformer_plusplus.demo': 'Comparer',
}


def test_every_name_that_needs_openmmlab_says_so():
    code = f"""
        for module, names in {NEEDY!r}.items():
            for name in names.split():
                try:
                    exec(f'from {{module}} import {{name}}')
                except ImportError as error:
                    print(module, type(error).__name__, error)
    """
    lines = run(WITHOUT_OPENMMLAB, code).stdout.splitlines()
    assert len(lines) == sum(len(names.split()) for names in NEEDY.values())
    for line in lines:
        module = line.split()[0]
        assert re.match(rf'{module} MissingDependencyError {module}[.\w]* needs mm', line), line
        assert 'install it with pip install' in line


def test_without_toolboxes_the_backbone_works_and_the_rest_says_what_to_install():
    code = """
        import torch, segformer_plusplus
        from mmengine.registry import MODELS
        cfg = dict(type='MixVisionTransformerPlusPlus', arch='b0', token_merging='hq')
        model = MODELS.build(cfg)
        print([tuple(f.shape) for f in model(torch.randn(1, 3, 64, 64))][0])
        for name in ('SegformerHeadPlusPlus', 'SegformerHeatmapHead', 'JumpBroadcastDataset',
                     'BoxPCK', 'CheckedLoadImage', 'no_such_name'):
            try:
                getattr(segformer_plusplus, name)
            except (ImportError, AttributeError) as error:
                print('asked:', error)
        from segformer_plusplus.cli import fidelity
        from segformer_plusplus.evaluation.fidelity import measure_fidelity
        fidelity.main(['--help'])
    """
    result = run(without('mmseg', 'mmpose', 'mmdet'), code)
    assert '(1, 32, 16, 16)' in result.stdout, result.stderr
    what = {'maintained': "'segformer-plusplus[mmseg]'", 'original': 'mmsegmentation=='}
    asked = r'asked: segformer_plusplus\.SegformerHeadPlusPlus needs mmseg, .*; install it with '
    assert re.search(asked + re.escape(f'pip install {what[installed_line()]}'), result.stdout)
    assert len(re.findall(r'asked: segformer_plusplus\.\w+ needs mmpose', result.stdout)) == 4
    assert 'pip install --no-deps mmpose==' in result.stdout
    assert "no attribute 'no_such_name'" in result.stdout
    assert 'Usage: segformer-plusplus fidelity' in result.stdout


@pytest.mark.parametrize(
    'names, needy',
    [
        (('mmpose', 'xtcocotools', 'mmdet'), []),
        (('mmseg',), ['merge-map']),  # of segmentors alone
        (('transformers', 'huggingface_hub', 'safetensors'), []),
        (('onnx', 'onnxruntime', 'onnxscript', 'openvino', 'nncf', 'optuna', 'gradio', 'av'), []),
    ],
    ids=['mmpose', 'mmseg', 'hf', 'extras'],
)
def test_a_command_asks_for_nothing_that_another_model_needs(names, needy):
    code = """
        from segformer_plusplus.cli.main import COMMANDS, main
        for name in COMMANDS:
            if main([name, '--help']) == 2:
                print('needy', name)
    """
    result = run(without(*names), code)
    assert re.findall('^needy (.*)$', result.stdout, re.M) == needy, result.stderr
    assert result.stdout.count('Usage: segformer-plusplus') == len(COMMANDS) - len(needy)


def test_a_pose_config_without_mmpose_says_what_to_install():
    config = ROOT / 'configs/jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py'
    code = f"""
        from segformer_plusplus.inference.configs import load_config
        try:
            load_config({str(config)!r})
        except ImportError as error:
            print('asked:', error)
    """
    result = run(without('mmpose'), code)
    assert f'asked: {config} needs mmpose' in result.stdout, result.stderr
    assert 'pip install --no-deps mmpose==' in result.stdout


def test_without_mmcv_the_backbone_says_what_to_install():
    code = """
        import segformer_plusplus; segformer_plusplus.apply_token_merging
        print('light')
        from segformer_plusplus import MixVisionTransformerPlusPlus
    """
    result = run(without('mmcv'), code)
    last = result.stderr.strip().splitlines()[-1]
    assert result.stdout == 'light\n'
    assert 'MixVisionTransformerPlusPlus needs mmcv, which cannot be imported' in last
    assert 'pip install' in last


def test_one_registration_serves_every_scope():
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    code = """
        import segformer_plusplus
        from mmengine.registry import MODELS, init_default_scope
        import mmseg.registry, mmpose.registry
        for registry in (MODELS, mmseg.registry.MODELS, mmpose.registry.MODELS):
            for name in ('MixVisionTransformerPlusPlus', 'SegformerHeadPlusPlus',
                         'SegformerHeatmapHead'):
                assert registry.get(name).__name__ == name
                assert getattr(segformer_plusplus, name).__name__ == name
        ours = [name for name in sys.modules if name.startswith('segformer_plusplus.')]
        print('late', *{name.split('.')[1] for name in ours} & {
            'inference', 'export', 'training', 'evaluation', 'cli', 'demo'})
    """
    result = run('import sys', code)
    assert result.stdout == 'late\n', result.stderr  # only the commands need them


def test_ops_of_an_mmcv_without_them_import_and_say_so_on_call():
    pytest.importorskip('xtcocotools')
    code = """
        import importlib.util, sys
        import segformer_plusplus
        compiled = importlib.util.find_spec('mmcv._ext') is not None
        import mmpose.models, mmcv.ops, torch
        assert compiled or 'mmcv._ext' not in sys.modules
        assert compiled or importlib.util.find_spec('mmcv._ext') is None
        try:
            if not compiled:
                mmcv.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
            print('compiled')
        except ImportError as error:
            print(error)
    """
    result = run(code)
    assert 'without compiled ops' in result.stdout or 'compiled' in result.stdout, result.stderr


@pytest.mark.parametrize(
    'toolbox, part, fault',
    [
        ('mmseg', 'SegformerHeadPlusPlus', "AssertionError('MMCV==9 is incompatible')"),
        ('mmpose', 'BoxPCK', "ValueError('numpy.dtype size changed')"),  # an extension's NumPy
        ('ftfy', 'SegformerHeadPlusPlus', "ModuleNotFoundError('No module named ftfy')"),
    ],
)
def test_a_broken_toolbox_does_not_take_the_rest_away(tmp_path, toolbox, part, fault):
    package = tmp_path / toolbox
    package.mkdir()
    (package / '__init__.py').write_text(f'raise {fault}')
    code = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import segformer_plusplus
        print(segformer_plusplus.MixVisionTransformerPlusPlus.__name__)
        try:
            segformer_plusplus.{part}
        except ImportError as error:
            print(error)
    """
    result = run(code)
    assert 'MixVisionTransformerPlusPlus' in result.stdout, result.stderr
    needed = 'mmseg.models' if toolbox == 'ftfy' else toolbox
    assert fault.split("'")[1] in result.stdout and f'needs {needed}' in result.stdout


PUBLIC = {
    'segformer_plusplus': {'MixVisionTransformerPlusPlus', 'TOKEN_MERGERS', 'TokenMerger'},
    'segformer_plusplus.mit': {'MixVisionTransformerPlusPlus', 'ARCHS'},
    'segformer_plusplus.segmentation': {'SegformerHeadPlusPlus', 'EncoderDecoderPlusPlus'},
    'segformer_plusplus.pose': {'SegformerHeatmapHead', 'JumpBroadcastDataset'},
    'segformer_plusplus.training': {'StrictRunner'},
}


@pytest.mark.parametrize('module', PUBLIC)
def test_public_names(module):
    if module.endswith('pose'):
        pytest.importorskip('mmpose')
    names: dict = {}
    exec(f'from {module} import *', names)
    assert PUBLIC[module] <= names.keys()


@pytest.mark.parametrize(
    ('installed', 'line'),
    [
        ({'onedl-mmengine', 'onedl-mmcv'}, 'maintained'),
        ({'mmengine', 'mmcv-lite'}, 'original'),
        ({'mmcv'}, 'original'),
        (set(), 'maintained'),
    ],
)
def test_what_is_proposed_fits_the_line_that_is_installed(installed, line, monkeypatch):
    from segformer_plusplus import libraries

    monkeypatch.setattr(libraries, 'has_distribution', installed.__contains__)
    assert installed_line() == line
    for toolbox in ('mmengine', 'mmcv', 'mmseg', 'mmpose'):
        with pytest.raises(ImportError) as info:
            libraries.require(f'{toolbox}.no_such_part', 'this')
        extra = 'segformer-plusplus[' in str(info.value) or 'onedl' in str(info.value)
        assert extra == (line == 'maintained')


@pytest.mark.parametrize(
    ('library', 'command'),
    [
        ('safetensors.torchh', "pip install 'segformer-plusplus[hf]'"),
        ('onnx.nothing', "pip install 'segformer-plusplus[export]'"),
        ('optuna.nothing', "pip install 'segformer-plusplus[tune]'"),
        ('gradio.nothing', "pip install 'segformer-plusplus[demo]'"),
        ('av.nothing', "pip install 'segformer-plusplus[video]'"),
        ('segmentation_models_pytorch.nothing', 'pip install segmentation-models-pytorch'),
        ('a_library_of_somebody', 'pip install a_library_of_somebody'),
    ],
)
def test_the_command_that_installs_a_library(library, command):
    from segformer_plusplus.libraries import require

    with pytest.raises(ImportError, match='the thing needs') as info:
        require(library, 'the thing')
    assert str(info.value).endswith(command)
    assert '\n' not in str(info.value)


def test_what_libraries_print_when_imported_is_not_in_the_results():
    pytest.importorskip('mmseg')
    config = 'segformer_plusplus::cityscapes/segformer_mit-b0_hq_1xb4-160k_cityscapes-1024x1024.py'
    result = subprocess.run(
        [sys.executable, '-m', 'segformer_plusplus', 'info', config],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert 'OneDL' not in result.stdout and 'INFO' not in result.stdout
    assert 'MixVisionTransformerPlusPlus' in result.stdout
    assert result.stderr == ''


@pytest.mark.parametrize('first', ['', 'import mmengine'])
def test_toolboxes_say_nothing_on_stdout_when_imported(first):
    pytest.importorskip('mmseg')
    code = """
        import segformer_plusplus
        import mmseg.datasets, mmdet.datasets
        from mmengine.logging import print_log
        print_log('said')
    """
    assert run(first, code).stdout == 'said\n'


OLD = [
    ('segformer_plusplus.backbones', 'MixVisionTransformerPlusPlus'),
    ('segformer_plusplus.backbones.mit', 'MixVisionTransformerPlusPlus'),
    ('segformer_plusplus.backbones.archs', 'ARCHS'),
    ('segformer_plusplus.layers', 'EfficientAttention'),
    ('segformer_plusplus.layers.mix_ffn', 'depthwise_conv'),
    ('segformer_plusplus.engine', 'StrictRunner'),
    ('segformer_plusplus.engine', 'measure'),
    ('segformer_plusplus.engine', 'count_flops'),
    ('segformer_plusplus.engine.cli', 'load_config'),
    ('segformer_plusplus.engine.cli', 'write_json'),
    ('segformer_plusplus.engine.models', 'without_init_cfg'),
    ('segformer_plusplus.hooks', 'MergeMapHook'),
    ('segformer_plusplus.hooks', 'PreemptionHook'),
    ('segformer_plusplus.transforms', 'CheckedLoadImageFromFile'),
    ('segformer_plusplus.fidelity', 'measure_fidelity'),
    ('segformer_plusplus.fidelity.base', 'Fidelity'),
    ('segformer_plusplus.fidelity.data', 'build_test_set'),
    ('segformer_plusplus.fidelity.strategies', 'read_presets'),
    ('segformer_plusplus.tuning.points', 'Budget'),
    ('segformer_plusplus.tuning', 'tune'),
    ('segformer_plusplus.visualization', 'merge_map'),
    ('segformer_plusplus.visualization', 'draw'),
    ('segformer_plusplus.token_merging.presets', 'PRESETS'),
    ('segformer_plusplus.token_merging.spec', 'build_token_merging'),
    ('segformer_plusplus.datasets.keypoints', 'JBD'),
    ('segformer_plusplus.datasets.leave_out', 'without_listed'),
]


@pytest.mark.parametrize(('module', 'name'), OLD)
def test_an_old_import_works_and_says_the_new_name(module, name):
    pytest.importorskip('mmseg')
    for loaded in [each for each in sys.modules if each == module]:
        del sys.modules[loaded]
    with pytest.warns(FutureWarning, match=rf'{module} is segformer_plusplus\.'):
        found = getattr(importlib.import_module(module), name)
    parts = found.__module__ if hasattr(found, '__module__') else type(found).__module__
    assert not parts.startswith(f'{module}.')


@pytest.mark.parametrize(
    ('module', 'name'),
    [('datasets', 'draw_scene'), ('reporting', 'StrategyTable'), ('reproduction', 'TABLES')],
)
def test_what_left_the_package_says_where_it_is(module, name):
    old = importlib.import_module(f'segformer_plusplus.{module}')
    with pytest.raises(ImportError, match=f'a checkout has it in {OUTSIDE[module]}'):
        getattr(old, name)
    with pytest.raises(ImportError, match='a checkout has it in'):
        importlib.import_module(f'segformer_plusplus.{module}.anything')
    for folder in OUTSIDE[module].replace(',', ' ').replace(' and ', ' ').split():
        assert (ROOT / folder).is_dir()


def test_new_names_are_there():
    pytest.importorskip('mmseg')
    for new in {each for names in MOVED.values() for each in names}:
        importlib.import_module(f'segformer_plusplus.{new}')


def test_no_such_module_is_an_ordinary_error():
    with pytest.raises(ModuleNotFoundError, match='no_such_room'):
        importlib.import_module('segformer_plusplus.no_such_room')
    with pytest.raises(ModuleNotFoundError, match='nothing'):
        importlib.import_module('segformer_plusplus.fidelity.nothing')


@pytest.mark.parametrize('toolbox', ['mmengine', 'mmcv', 'mmseg', 'mmpose'])
def test_two_lines_in_one_environment_are_said(toolbox, monkeypatch):
    from segformer_plusplus import libraries

    installed = {'onedl-mmengine', 'mmcv-lite', 'mmengine'}
    monkeypatch.setattr(libraries, 'has_distribution', installed.__contains__)
    with pytest.raises(ImportError) as info:
        libraries.require(f'{toolbox}.no_such_part', 'this')
    said = str(info.value)
    assert 'both lines of OpenMMLab are installed' in said and 'pip install' not in said
    assert '(onedl-mmengine, mmengine, mmcv-lite)' in said
    with pytest.raises(ImportError, match='pip install'):
        libraries.require('no_such_library', 'this')
