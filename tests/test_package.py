"""What importing the package does, with and without the toolboxes."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segformer_plusplus.libraries import installed_line


def run(code):
    return subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )


BLOCK = """
    import sys
    from importlib.abc import MetaPathFinder

    class Block(MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] in {blocked!r}:
                raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

    sys.meta_path.insert(0, Block())
    import importlib.util
    real = importlib.util.find_spec
    def find_spec(name, package=None):
        return None if name.split('.')[0] in {blocked!r} else real(name, package)
    importlib.util.find_spec = find_spec
"""


def test_without_toolboxes_the_backbone_works_and_the_head_says_what_to_install():
    code = textwrap.dedent(BLOCK.format(blocked=['mmseg', 'mmpose', 'mmdet'])) + textwrap.dedent("""
        import torch, segformer_plusplus
        from mmengine.registry import MODELS
        cfg = dict(type='MixVisionTransformerPlusPlus', arch='b0', token_merging='hq')
        model = MODELS.build(cfg)
        print([tuple(f.shape) for f in model(torch.randn(1, 3, 64, 64))][0])
        try:
            segformer_plusplus.SegformerHeadPlusPlus
        except ImportError as error:
            print('asked:', error)
        for name in ('SegformerHeatmapHead', 'JumpBroadcastDataset', 'BoxPCK', 'CheckedLoadImage'):
            try:
                getattr(segformer_plusplus, name)
            except ImportError as error:
                print('pose:', error)
        try:
            segformer_plusplus.no_such_name
        except AttributeError as error:
            print('attribute:', error)
        """)
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert '(1, 32, 16, 16)' in result.stdout
    what = {'maintained': "'segformer-plusplus[mmseg]'", 'original': 'mmsegmentation=='}
    asked = r'asked: segformer_plusplus\.SegformerHeadPlusPlus needs mmseg, .*; install it with '
    assert re.search(asked + re.escape(f'pip install {what[installed_line()]}'), result.stdout)
    assert len(re.findall(r'pose: segformer_plusplus\.\w+ needs mmpose', result.stdout)) == 4
    assert 'pip install --no-deps mmpose==' in result.stdout
    assert "no attribute 'no_such_name'" in result.stdout


def test_a_pose_config_without_mmpose_says_what_to_install():
    config = Path(__file__).parents[1] / 'configs/jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py'
    code = textwrap.dedent(BLOCK.format(blocked=['mmpose'])) + textwrap.dedent(f"""
        from segformer_plusplus.inference.configs import load_config
        try:
            load_config({str(config)!r})
        except ImportError as error:
            print('asked:', error)
        """)
    result = run(code)
    assert f'asked: {config} needs mmpose' in result.stdout, result.stderr
    assert 'pip install --no-deps mmpose==' in result.stdout


@pytest.mark.parametrize('missing', ['mmengine', 'mmcv'])
def test_without_its_foundation_the_backbone_says_what_to_install(missing):
    code = textwrap.dedent(BLOCK.format(blocked=[missing]))
    result = run(code + 'import segformer_plusplus; segformer_plusplus.apply_token_merging')
    assert result.returncode == 0, result.stderr
    result = run(code + 'from segformer_plusplus import MixVisionTransformerPlusPlus')
    last = result.stderr.strip().splitlines()[-1]
    assert f'MixVisionTransformerPlusPlus needs {missing}, which cannot be imported' in last
    assert 'pip install' in last


def test_one_registration_serves_every_scope():
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    code = """
        import segformer_plusplus
        from mmengine.registry import MODELS, init_default_scope
        import mmseg.registry, mmpose.registry
        for registry in (MODELS, mmseg.registry.MODELS, mmpose.registry.MODELS):
            print(registry.get('MixVisionTransformerPlusPlus').__name__)
        print(mmseg.registry.MODELS.get('SegformerHeadPlusPlus').__name__)
        print(segformer_plusplus.SegformerHeadPlusPlus.__name__)
        print(mmpose.registry.MODELS.get('SegformerHeatmapHead').__name__)
        print(segformer_plusplus.SegformerHeatmapHead.__name__)
        import sys
        ours = [name for name in sys.modules if name.startswith('segformer_plusplus.')]
        rooms = {name.split('.')[1] for name in ours}
        late = rooms & {'inference', 'export', 'training', 'evaluation', 'cli', 'demo'}
        assert not late, late  # only the commands need them
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    expected = ['MixVisionTransformerPlusPlus'] * 3 + ['SegformerHeadPlusPlus'] * 2
    expected += ['SegformerHeatmapHead'] * 2
    assert result.stdout.split()[-7:] == expected  # mmseg may print before


def test_ops_of_an_mmcv_without_them_import_and_say_so_on_call():
    pytest.importorskip('xtcocotools')
    code = """
        import importlib.util, sys
        import segformer_plusplus
        compiled = importlib.util.find_spec('mmcv._ext') is not None
        import mmpose.models, mmcv.ops, torch
        assert compiled or 'mmcv._ext' not in sys.modules
        assert compiled or importlib.util.find_spec('mmcv._ext') is None
        if not compiled:
            try:
                mmcv.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
            except ImportError as error:
                print(error)
        else:
            print('compiled')
    """
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert 'without compiled ops' in result.stdout or 'compiled' in result.stdout


@pytest.mark.parametrize(
    'toolbox, part, fault',
    [
        ('mmseg', 'SegformerHeadPlusPlus', "AssertionError('MMCV==9 is incompatible')"),
        ('mmpose', 'BoxPCK', "ValueError('numpy.dtype size changed')"),  # an extension's NumPy
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
    assert result.returncode == 0, result.stderr
    assert 'MixVisionTransformerPlusPlus' in result.stdout
    assert fault.split("'")[1] in result.stdout and f'needs {toolbox}' in result.stdout


def test_a_toolbox_that_breaks_deep_inside():
    code = textwrap.dedent(BLOCK.format(blocked=['ftfy'])) + textwrap.dedent("""
        import segformer_plusplus
        print(segformer_plusplus.MixVisionTransformerPlusPlus.__name__)
        try:
            segformer_plusplus.SegformerHeadPlusPlus
        except ImportError as error:
            print('asked:', error)
        """)
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert 'MixVisionTransformerPlusPlus' in result.stdout
    assert 'asked: ' in result.stdout and "'ftfy" in result.stdout
    assert "needs mmseg.models, which cannot be imported (No module named 'ftfy" in result.stdout


@pytest.mark.parametrize('name', ['MixVisionTransformerPlusPlus', 'TOKEN_MERGERS', 'TokenMerger'])
def test_public_names(name):
    import segformer_plusplus

    assert name in segformer_plusplus.__all__
    assert hasattr(segformer_plusplus, name)


def test_fidelity_needs_no_toolbox_until_it_opens_a_model():
    code = textwrap.dedent(BLOCK.format(blocked=['mmseg', 'mmpose', 'mmdet'])) + textwrap.dedent("""
        from segformer_plusplus.cli import fidelity
        from segformer_plusplus.evaluation.fidelity import measure_fidelity
        fidelity.main(['--help'])
        """)
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith('Usage: segformer-plusplus fidelity')
