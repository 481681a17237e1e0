"""The console script: help, wrong calls, and that every command can be asked for its help."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from segformer_plusplus import __version__
from segformer_plusplus.cli.main import COMMANDS, main


def test_help_names_every_command(capsys):
    assert main(['--help']) == 0
    printed = capsys.readouterr().out
    assert all(f'  {name} ' in printed for name in COMMANDS)
    assert main([]) == 2


def test_version(capsys):
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'segformer-plusplus {__version__}\n'


def test_a_typo(capsys):
    assert main(['predcit']) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown command 'predcit'; did you mean 'predict'?")


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_has_help(name, capsys):
    assert main([name, '--help']) == 0
    printed = ' '.join(capsys.readouterr().out.split())
    assert printed.startswith(f'Usage: segformer-plusplus {name} ')
    assert ('program, which is run' in printed) == (name not in ('convert', 'models'))


def test_the_help_loads_no_command():
    code = (
        'import sys; from segformer_plusplus.cli import main\n'
        'print(sorted(set(sys.modules) & {"onnx", "gradio", "mmpose.apis"}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith('[]')


def test_it_is_installed():
    scripts = entry_points(group='console_scripts')
    assert 'segformer_plusplus.cli.main:main' in {script.value for script in scripts}
