"""How a function becomes a command: its options, its help, its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from segformer_plusplus.cli.options import (
    CfgOptions,
    Flat,
    LocalRank,
    On,
    Positive,
    Shapes,
    command,
)


@dataclass(frozen=True)
class Amounts:
    """How much.

    Attributes:
        rounds: that are timed.
        share: of them.
    """

    rounds: Positive = 3
    share: float = 0.5


def run(argv):
    """What a command of these options gets."""
    got = {}

    @command(bare={'--resume': 'auto'})
    def sample(
        config: str,
        /,
        *others: str,
        shape: Shapes = [(8, 8)],  # noqa: B006
        resume: str | None = None,
        level: float | None = None,
        progress: On = True,
        fresh: bool = False,
        device: Literal['cpu', 'cuda'] | None = None,
        local_rank: LocalRank = 0,
        cfg_options: CfgOptions = None,
        amounts: Annotated[Amounts, Flat] = Amounts(),
    ) -> int:
        """Does nothing.

        Args:
            config: of a model.
            fresh: forget the old one.
        """
        got.update(locals())
        return 7

    return sample(argv), got


@pytest.mark.parametrize(
    'words, name, value',
    [
        ('', 'others', ()),
        ('b c', 'others', ('b', 'c')),
        ('', 'shape', [(8, 8)]),
        ('--shape 4x6 7x5', 'shape', [(4, 6), (7, 5)]),
        ('--shape=4x6', 'shape', [(4, 6)]),
        ('', 'resume', None),
        ('--resume', 'resume', 'auto'),
        ('--resume --fresh', 'resume', 'auto'),
        ('--resume it.pth', 'resume', 'it.pth'),
        ('--no-progress', 'progress', False),
        ('--fresh', 'fresh', True),
        ('--device cpu', 'device', 'cpu'),
        ('--local_rank 2', 'local_rank', 2),
        ('--local-rank=3', 'local_rank', 3),
        ('--cfg-options a.b=1 c=[x,2]', 'cfg_options', {'a.b': 1, 'c': ['x', 2]}),
        ('--cfg-options a=1 --fresh --cfg-options d=-1e-3', 'cfg_options', {'a': 1, 'd': -1e-3}),
        ('--rounds 9', 'amounts', Amounts(9)),
        ('--share -2.5', 'amounts', Amounts(3, -2.5)),
        ('--level 1e-3', 'level', 1e-3),
        ('--rounds 2 --rounds 9', 'amounts', Amounts(9)),
        ('--traceback', 'fresh', False),
    ],
)
def test_what_is_given_arrives(words, name, value):
    code, got = run(['a', *words.split()])
    assert code == 7 and got['config'] == 'a'
    assert got[name] == value


@pytest.mark.parametrize(
    'words, message',
    [
        ([], 'CONFIG requires an argument'),
        (['a', '--rounds', '0'], "'0' is no whole number above 0"),
        (['a', '--rounds', '9' * 20], '9999999999... is too large: give a number below 10^9'),
        (['a', '--rounds', '9' * 5000], '9999999999... is too large: give a number below 10^9'),
        (['a', '--rounds', 'nan'], "'nan' is no whole number above 0"),
        (['a', '--shape', f'{"9" * 20}x1'], 'is no shape; write HEIGHTxWIDTH'),
        (['a', '--level', 'nan'], 'Invalid value "nan" for --level. Give a finite number'),
        (['a', '--level', 'inf'], 'Invalid value "inf" for --level. Give a finite number'),
        (['a', '--local-rank', '9' * 20], 'Give a finite number'),
        (['a', '--shape', '4x'], "'4x' is no shape; write HEIGHTxWIDTH, as 512x1024"),
        (['a', '--device', 'tpu'], 'Choose from: "cpu", "cuda"'),
        (['a', '--cfg-options', 'b'], "'b' is not KEY=VALUE"),
        (['a', '--cfg-options', 'b=dict(c=1,d=2)'], 'what is in a dict as b.name=value'),
        (['a', '--cfg-options', 'b=1,dict(c=1,d=2)'], 'what is in a dict as b.name=value'),
        (['a', '--cfg-options', 'b=[1,(2,3]'], 'write lists as b="[a,b]"'),
        (['a', '--frehs'], 'Did you mean --fresh?'),
        (['a', '--no-fresh'], 'Unknown option: --no-fresh'),
    ],
)
def test_a_wrong_call_is_one_line(words, message, capsys):
    code, got = run(words)
    printed = capsys.readouterr()
    assert code == 2 and not got and not printed.out
    assert printed.err.startswith('error: ') and printed.err.count('\n') == 1
    assert message in printed.err
    assert printed.err.endswith('; see segformer-plusplus test-options --help\n')


@pytest.mark.parametrize('number, said', [('nan', 'nan'), ('-inf', '-inf'), ('1e400', 'inf')])
def test_a_number_among_other_options_must_be_finite(number, said, capsys):
    assert run(['a', '--share', number]) == (2, {})
    assert capsys.readouterr().err == f'error: --share is {said}; give a finite number\n'


def test_the_help_is_the_docstring(capsys):
    assert run(['--help']) == (0, {})
    printed = capsys.readouterr().out
    assert printed.startswith('Usage: segformer-plusplus test-options [OPTIONS] CONFIG')
    for text in ('Does nothing.', 'of a model.', 'forget the old one.', 'that are timed.'):
        assert text in printed
    assert 'local' not in printed and '--no-progress' in printed
