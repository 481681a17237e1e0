"""What is pushed comes back as it was, and its card says no more than is known."""

import json
import random

import pytest
import torch
from hub import TOKEN
from patching.models import BOTH, CASES
from patching.test_reversible import run

from segformer_plusplus import SegformerPlusPlusError, apply_token_merging, push_to_hub
from segformer_plusplus.errors import TokenMergingError
from segformer_plusplus.evaluation.presets import spell_out
from segformer_plusplus.evaluation.results import MILLISECONDS, SPEED_UP, ResultsTable, Row
from segformer_plusplus.token_merging import build_token_merging
from segformer_plusplus.token_merging.words import in_words

transformers = pytest.importorskip('transformers', minversion='5')
huggingface_hub = pytest.importorskip('huggingface_hub')

SEGMENTOR = CASES['SegformerForSemanticSegmentation']
CLASSIFIER = CASES['SegformerForImageClassification']
BASE = 'somebody/base'
COMMAND = 'segformer-plusplus fidelity config.py weights.pth --json measured.json'


@pytest.fixture
def model():
    built = SEGMENTOR.build(random.randrange(1000))
    apply_token_merging(built, 'hq')
    return built


@pytest.fixture
def pushed(hub, monkeypatch):
    """Pushes with the right token, and returns the card."""
    monkeypatch.setenv('HF_TOKEN', TOKEN)

    def push(model, repo='someone/tiny', **settings):
        push_to_hub(model, repo, **{'base_model': BASE, **settings})
        content = hub.files(repo, settings.get('revision') or 'main')['README.md'].decode()
        return huggingface_hub.ModelCard(content)

    return push


@pytest.fixture
def measured(tmp_path):
    """Writes what fidelity would, of these presets, and returns the table as well."""

    def write(presets, **changes):
        rows = [
            Row(name, spell_out(each), {'changed': random.random()}, median_seconds=random.random())
            for name, each in presets.items()
        ]
        table = ResultsTable(
            rows, [MILLISECONDS, SPEED_UP], caption='8 images.', command=COMMAND,
            more=dict(main_measure='changed'),
        )  # fmt: skip
        path = tmp_path / 'measured.json'
        path.write_text(json.dumps({**table.to_json(), **changes}))
        return path, rows

    return write


@pytest.mark.parametrize('strategy', ['weighted', BOTH], ids=['preset', 'list'])
def test_the_card_lets_one_load_what_was_pushed(strategy, model, hub, pushed):
    apply_token_merging(model, strategy)
    card = pushed(model)
    assert card.data.to_dict() == {
        'base_model': BASE,
        'library_name': 'transformers',
        'pipeline_tag': 'image-segmentation',
        'tags': ['segformer', 'token-merging'],
    }
    for number, line in enumerate(in_words(build_token_merging(strategy)), start=1):
        assert f'\n- stage {number}: {line}\n' in card.text
    assert ('## Strategy: weighted' in card.text) == (strategy == 'weighted')
    assert 'Nothing was measured.' in card.text
    (code,) = [block.partition('```')[0] for block in card.text.split('```python\n')[1:]]
    names = {}
    exec(code, names)
    assert torch.allclose(run(SEGMENTOR, names['model']), run(SEGMENTOR, model), atol=1e-5)
    assert len(hub.repos['someone/tiny'].commits) == 2  # the first makes it


def test_what_is_known_besides_stands_there(hub, pushed):
    model = CLASSIFIER.build()
    apply_token_merging(model, 'none')
    processor = transformers.SegformerImageProcessor(size={'height': 96, 'width': 64})
    settings = dict(license='mit', private=True, revision='v2', preprocessor=processor)
    card = pushed(model, **settings, base_model=None)
    assert card.data.license == 'mit' and card.data.pipeline_tag == 'image-classification'
    assert card.data.base_model is None
    assert "from_pretrained('someone/tiny', revision='v2')" in card.text
    assert hub.repos['someone/tiny'].private
    assert set(hub.files('someone/tiny')) == {'.gitattributes'}
    loaded = transformers.AutoImageProcessor.from_pretrained('someone/tiny', revision='v2')
    assert dict(loaded.size) == {'height': 96, 'width': 64}


def test_an_owner_need_not_be_named(model, hub, pushed, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    address = push_to_hub(model, 'tiny', base_model=BASE)
    assert address.startswith(f'{hub.url}/someone/tiny/commit/')
    assert "'someone/tiny'" in hub.files('someone/tiny')['README.md'].decode()


def test_what_was_measured_stands_in_the_card(model, measured, pushed):
    path, rows = measured({'none': 'none', 'mine': 'hq', 'fast': 'fast'})
    text = pushed(model, measured=path).text
    assert 'Nothing was measured' not in text and f'\n    {COMMAND}\n' in text
    for row in rows:
        assert f'\n| {row.name} | {row.values["changed"]:.3f} |' in text
    assert '8 images.' in text


def test_the_table_has_to_be_of_the_strategy(model, measured, hub, pushed):
    path, _ = measured({'none': 'none', 'fast': 'fast'})
    with pytest.raises(SegformerPlusPlusError, match=r"is none of \['none', 'fast'\]; measure it"):
        pushed(model, measured=path)
    assert not hub.requests


@pytest.mark.parametrize(
    'content', ['', '[]', '{}', '{"rows": 5}', dict(rows=[5]), dict(main_measure=None, rows=[{}])]
)
def test_another_file_is_named(content, model, measured, hub, pushed):
    if isinstance(content, dict):
        path, _ = measured({'none': 'none', 'hq': 'hq'}, **content)
    else:
        path, _ = measured({})
        path.write_text(content)
    with pytest.raises(SegformerPlusPlusError, match=rf'^measured={path} is not what .* writes'):
        pushed(model, measured=path)
    path.unlink()
    with pytest.raises(SegformerPlusPlusError, match=rf'^measured={path} cannot be read'):
        pushed(model, measured=path)
    assert not hub.requests


def test_only_models_that_keep_a_strategy(hub, pushed):
    for name in ('smp.Unet', 'own'):
        other = CASES[name].build()
        apply_token_merging(other, 'hq')
        with pytest.raises(SegformerPlusPlusError, match='of Transformers, not for a'):
            pushed(other)
    with pytest.raises(TokenMergingError, match='has no token_merging; give one'):
        pushed(SEGMENTOR.build())
    assert not hub.requests


@pytest.mark.parametrize('trouble', ['no token', 'a wrong token', 'a name', 'nobody there'])
def test_an_upload_that_fails_says_so_in_one_line(trouble, model, hub, monkeypatch):
    token = {'no token': None, 'a wrong token': 'hf_wrong'}.get(trouble, TOKEN)
    repo = 'a/b/c' if trouble == 'a name' else 'someone/tiny'
    if trouble == 'nobody there':
        hub.stop()
    with pytest.raises(SegformerPlusPlusError, match=f'^{repo} was not uploaded: ') as caught:
        push_to_hub(model, repo, base_model=BASE, token=token)
    assert '\n' not in str(caught.value) and 'hf auth login' in str(caught.value)
    assert not hub.repos
