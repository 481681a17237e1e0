"""The Hub of the tests answers huggingface_hub as the real one does."""

import subprocess
import sys

import pytest
from hub import TOKEN, USER

library = pytest.importorskip('huggingface_hub')
errors = pytest.importorskip('huggingface_hub.errors')

NAME = 'someone/tiny'
FILES = {'config.json': b'{"depths": [1]}', 'folder/weights.bin': bytes(range(256)) * 300}


def fetched(folder):
    found = {}
    for path in (p for p in sorted(folder.rglob('*')) if p.is_file()):
        found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


@pytest.fixture
def fetch(tmp_path):
    """Returns the files of a snapshot."""
    return lambda *args, **settings: fetched(
        tmp_path.joinpath(library.snapshot_download(*args, **settings))
    )


def test_a_snapshot_by_branch_and_by_commit(hub, fetch):
    first = hub.add(NAME, FILES)
    second = hub.add(NAME, {'config.json': b'{}'})
    other = hub.add(NAME, {'config.json': b'[]'}, revision='a/branch')
    assert fetch(NAME) == {**FILES, 'config.json': b'{}'} == hub.files(NAME)
    assert fetch(NAME, revision=first) == FILES
    assert fetch(NAME, revision='a/branch') == {'config.json': b'[]'}
    assert len({first, second, other}) == 3
    assert ('GET', f'/{NAME}/resolve/{second}/folder/weights.bin') in hub.requests


def test_what_was_fetched_needs_no_hub(hub, fetch, monkeypatch):
    commit = hub.add(NAME, FILES)
    assert fetch(NAME) == FILES
    hub.stop()
    before = len(hub.requests)
    assert (
        fetch(NAME) == fetch(NAME, revision=commit) == fetch(NAME, local_files_only=True) == FILES
    )
    monkeypatch.setattr(library.constants, 'HF_HUB_OFFLINE', True)
    assert fetch(NAME) == FILES
    with pytest.raises(errors.LocalEntryNotFoundError):
        fetch('someone/other')
    assert len(hub.requests) == before


def test_what_is_not_there(hub, fetch):
    hub.add(NAME, FILES)
    with pytest.raises(errors.RepositoryNotFoundError):
        fetch('someone/other')
    with pytest.raises(errors.RepositoryNotFoundError) as caught:
        fetch('someone/other', token=TOKEN)
    assert caught.value.response.status_code == 404
    with pytest.raises(errors.RevisionNotFoundError):
        fetch(NAME, revision='v9')
    with pytest.raises(errors.RevisionNotFoundError):
        library.hf_hub_download(NAME, 'config.json', revision='0' * 40)
    with pytest.raises(errors.EntryNotFoundError):
        library.hf_hub_download(NAME, 'other.json')


def test_a_private_repository(hub, fetch, monkeypatch):
    hub.add(NAME, FILES, private=True)
    with pytest.raises(errors.RepositoryNotFoundError) as caught:
        fetch(NAME)
    assert caught.value.response.status_code == 401
    with pytest.raises(errors.HfHubHTTPError, match='Invalid credentials'):
        fetch(NAME, token='hf_another')
    assert fetch(NAME, token=TOKEN) == FILES
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    assert library.file_exists(NAME, 'config.json')


def test_uploads(hub, tmp_path, monkeypatch):
    (tmp_path / 'up/sub').mkdir(parents=True)
    (tmp_path / 'up/sub/a.bin').write_bytes(FILES['folder/weights.bin'])
    with pytest.raises(errors.HfHubHTTPError):
        library.create_repo('mine')
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    url = library.create_repo('mine', private=True)
    assert url.repo_id == library.create_repo('mine', exist_ok=True).repo_id == f'{USER}/mine'
    card = library.ModelCard('---\nlicense: mit\n---\n\n# Mine\n')
    card.save(tmp_path / 'up/README.md')
    library.upload_folder(repo_id=url.repo_id, folder_path=tmp_path / 'up')
    assert hub.files(url.repo_id)['sub/a.bin'] == FILES['folder/weights.bin']
    assert hub.files(url.repo_id)['README.md'].decode() == str(card)
    assert hub.repos[url.repo_id].private


def test_another_process(hub):
    hub.add(NAME, FILES, private=True)
    code = (
        'import sys, huggingface_hub as h\n'
        'print(open(h.hf_hub_download(sys.argv[1], "config.json")).read())'
    )
    environment = {**hub.environment(), 'HF_TOKEN': TOKEN}
    result = subprocess.run(
        [sys.executable, '-c', code, NAME], env=environment, capture_output=True, text=True
    )
    assert result.stdout == '{"depths": [1]}\n', result.stderr
    assert list(hub.home.rglob('config.json'))
