"""Presets by name and from files, and every one that cannot be is refused."""

import json

import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.presets import check_presets, read_presets, spell_out
from segformer_plusplus.token_merging import PRESETS, TokenMerger, build_token_merging

OWN = [dict(kv=dict(type='BipartiteSoftMatching2d', ratio=0.5, stride=[2, 4])), {}, {}, {}]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'own.json').write_text(json.dumps(OWN))
    (tmp_path / 'mine.py').write_text(f'token_merging = {OWN!r}\n')
    (tmp_path / 'other.py').write_text('stages = []\n')
    (tmp_path / 'no.json').write_text('{')
    (tmp_path / 'short.json').write_text('[{}, 3]')
    (tmp_path / 'hq.json').write_text(json.dumps(OWN))
    (tmp_path / 'none.json').write_text(json.dumps(OWN))
    return tmp_path


def test_presets_and_files(folder):
    assert list(read_presets()) == ['none', *(name for name in PRESETS if name != 'none')]
    found = read_presets(['fast', 'own.json', 'mine.py', 'none'])
    assert found == {'none': 'none', 'fast': 'fast', 'own': OWN, 'mine': OWN}
    assert type(found['mine']) is list and type(found['mine'][0]) is dict
    (folder / 'both.py').write_text(f'presets = dict(a={OWN!r}, b="hq")\n')
    assert read_presets(['both.py']) == {'none': 'none', 'a': OWN, 'b': 'hq'}
    (folder / 'old.py').write_text('strategies = dict(b="hq")\n')
    with pytest.warns(FutureWarning, match="old.py: 'strategies' is 'presets' now"):
        assert read_presets(['old.py']) == {'none': 'none', 'b': 'hq'}


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['fasd'], "'fasd' is unknown; did you mean 'fast'.*a file that ends in .py or .json"),
        (['gone.json'], 'gone.json cannot be read'),
        (['gone.py'], 'gone.py'),
        (['no.json'], 'no.json cannot be read'),
        (['other.py'], 'other.py: a file has either token_merging'),
        (['short.json'], 'short.json'),
        (['hq', 'hq'], "two presets are called 'hq'"),
        (['hq', 'hq.json'], "two presets are called 'hq'"),
        (['none.json'], "two presets are called 'none'"),
    ],
)
def test_what_is_refused(names, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        read_presets(names)


def test_by_name_in_python():
    assert list(check_presets({'a': OWN, 'none': None})) == ['none', 'a']
    for stages in (OWN[:2], dict(stages=OWN[:2])):  # for a backbone of two stages
        assert check_presets({'a': stages})['a'] == stages
    with pytest.raises(SegformerPlusPlusError, match="'none' is the name of no merging"):
        check_presets({'none': 'hq'})
    with pytest.raises(SegformerPlusPlusError, match="'hd' is unknown"):
        check_presets({'a': 'hd'})


@pytest.mark.parametrize('name', PRESETS)
def test_a_preset_spelt_out_survives_json(name):
    spelt = json.loads(json.dumps(spell_out(name)))
    assert repr(_plain(build_token_merging(spelt))) == repr(_plain(build_token_merging(name)))


def _plain(merging):
    return merging.downsampling, [
        {
            key: (type(each).__name__, vars(each)) if isinstance(each, TokenMerger) else each
            for key, each in vars(stage).items()
        }
        for stage in merging.stages
    ]
