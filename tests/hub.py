"""A Hub on this machine that speaks as much of the protocol as huggingface_hub needs of it.

    with FakeHub(tmp_path) as hub:
        commit = hub.add('someone/model', {'config.json': b'{}'})

The fixture ``hub`` is one that huggingface_hub asks in this process, and in those that are started
from it: no other Hub can be reached, no token and no cache of the developer is seen.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = 'hf_token_that_the_tests_made_up'
USER = 'someone'
"""Whose token it is: repositories without an owner become this one's."""

_ROUTES = {
    rf'{method} {path}': name
    for method, path, name in (
        ('GET', r'/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?', 'info'),
        ('GET', r'/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)', 'tree'),
        ('(GET|HEAD)', r'/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)', 'file'),
        ('GET', r'/api/whoami-v2', 'whoami'),
        ('POST', r'/api/repos/create', 'create'),
        ('POST', r'/api/validate-yaml', 'validate'),
        ('POST', r'/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)', 'preupload'),
        ('POST', r'/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)', 'commit'),
        ('POST', r'/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)', 'branch'),
    )
}
"""Method and path, as a pattern -> the method of the handler that answers."""


class RefusedError(Exception):
    """An answer that is none, with the code by which huggingface_hub knows it."""

    def __init__(self, status: int, code: str = '', message: str = '', commit: str = '') -> None:
        self.status = status
        said = {'X-Error-Code': code, 'X-Error-Message': message or code, 'X-Repo-Commit': commit}
        self.headers = {name: value for name, value in said.items() if value}


@dataclass
class Repo:
    """Holds every commit, as a whole, and the branches that lead to them."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str) -> str:
        """Puts files on top of what a branch has, and returns the commit."""
        content = {**self.commits.get(self.branches.get(branch, ''), {}), **files}
        names = ''.join(f'{name} {blob_id(content[name])}\n' for name in sorted(content))
        commit = hashlib.sha1(f'{len(self.commits)}\n{names}'.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = content, commit
        return commit


def blob_id(content: bytes) -> str:
    """Returns what git calls these bytes."""
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


class FakeHub:
    """Serves repositories that live as long as it does.

    Args:
        home: folder that takes the place of ~/.cache/huggingface.

    Attributes:
        url: where it listens.
        requests: method and path of each, in order, also of those that were refused.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(('127.0.0.1', 0), type('', (_Handler,), {'hub': self}))
        self.url = f'http://127.0.0.1:{self._server.server_port}'

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leaves the address to nobody, as a Hub that cannot be reached."""
        self._server.shutdown()
        self._server.server_close()

    def add(
        self, repo: str, files: dict[str, bytes], private: bool = False, revision: str = 'main'
    ) -> str:
        """Puts files on top of what a branch of a repository has, and returns the commit."""
        known = self.repos.setdefault(repo, Repo())
        known.private = private
        return known.commit(files, revision)

    def files(self, repo: str, revision: str = 'main') -> dict[str, bytes]:
        """Returns what a branch holds now."""
        known = self.repos[repo]
        return known.commits[known.branches[revision]]

    def environment(self) -> dict[str, str]:
        """Returns the environment for a process that is to know this Hub alone."""
        kept = {name: value for name, value in os.environ.items() if not _of_a_hub(name)}
        return kept | {
            'HF_ENDPOINT': self.url, 'HF_HOME': str(self.home), 'NO_PROXY': '127.0.0.1',
            'HF_HUB_DISABLE_XET': '1', 'HF_HUB_DISABLE_TELEMETRY': '1',
        }  # fmt: skip


def _of_a_hub(name: str) -> bool:
    return name.startswith(('HF_', 'HUGGING')) or name == 'TRANSFORMERS_OFFLINE'


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    wbufsize = -1  # one packet for an answer

    def do_GET(self) -> None:
        self._answer_request()

    def do_HEAD(self) -> None:
        self._answer_request()

    def do_POST(self) -> None:
        self._answer_request()

    def _answer_request(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        try:
            for pattern, name in _ROUTES.items():
                if found := re.fullmatch(pattern, f'{self.command} {path}'):
                    given = {k: v and unquote(v) for k, v in found.groupdict().items()}
                    getattr(self, name)(**given)
                    return
            raise RefusedError(404)
        except RefusedError as refused:
            self._send(b'{}', refused.headers, refused.status)

    def log_message(self, *_: object) -> None:
        """Says nothing on the terminal."""

    def info(self, repo: str, revision: str | None) -> None:
        commit, files = self._revision(repo, revision or 'main')
        siblings = [{'rfilename': name} for name in files]
        private = self.hub.repos[repo].private
        self._answer({'id': repo, 'sha': commit, 'private': private, 'siblings': siblings})

    def tree(self, repo: str, revision: str) -> None:
        self._answer([
            {'type': 'file', 'path': name, 'size': len(content), 'oid': blob_id(content)}
            for name, content in self._revision(repo, revision)[1].items()
        ])  # fmt: skip

    def file(self, repo: str, revision: str, file: str) -> None:
        commit, files = self._revision(repo, revision)
        if file not in files:
            raise RefusedError(404, 'EntryNotFound', 'Entry not found', commit)
        headers = {'ETag': f'"{blob_id(files[file])}"', 'X-Repo-Commit': commit}
        self._send(files[file], headers)

    def whoami(self) -> None:
        self._check_token(needed=True)
        self._answer({'type': 'user', 'name': USER, 'orgs': []})

    def create(self) -> None:
        self._check_token(needed=True)
        asked = json.loads(self.body)
        repo = f'{asked.get("organization") or USER}/{asked["name"]}'
        if repo in self.hub.repos:
            self._answer({'url': f'{self.hub.url}/{repo}'}, 409)
            return
        # huggingface_hub 1 asks for private, 2 for a visibility
        private = asked.get('private', False) or asked.get('visibility') == 'private'
        self.hub.add(repo, {'.gitattributes': b''}, private)
        self._answer({'url': f'{self.hub.url}/{repo}'})

    def validate(self) -> None:
        """Finds everything valid that starts as metadata do."""
        valid = json.loads(self.body)['content'].startswith('---\n')
        errors = [] if valid else [{'message': 'no metadata'}]
        self._answer({'errors': errors, 'warnings': []}, 200 if valid else 400)

    def preupload(self, repo: str, revision: str) -> None:
        self._check_token(needed=True)
        files = self._revision(repo, revision)[1]
        self._answer({
            'files': [
                {
                    'path': name, 'uploadMode': 'regular', 'shouldIgnore': False,
                    'oid': blob_id(files[name]) if name in files else None,
                }
                for name in (each['path'] for each in json.loads(self.body)['files'])
            ]
        })  # fmt: skip

    def commit(self, repo: str, revision: str) -> None:
        self._check_token(needed=True)
        self._revision(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        kinds = {line['key'] for line in lines}
        assert kinds <= {'header', 'file'}, f'a commit with {kinds}, which no test needed yet'
        files = [line['value'] for line in lines if line['key'] == 'file']
        content = {each['path']: base64.b64decode(each['content']) for each in files}
        commit = self.hub.repos[repo].commit(content, revision)
        self._answer({'commitUrl': f'{self.hub.url}/{repo}/commit/{commit}', 'commitOid': commit})

    def branch(self, repo: str, revision: str) -> None:
        self._check_token(needed=True)
        branches = self.hub.repos[repo].branches
        self._answer({}, 409 if revision in branches else 200)
        branches.setdefault(revision, branches['main'])

    def _check_token(self, needed: bool = False) -> bool:
        """Says whether the right token came; a wrong one is refused wherever it comes."""
        given = self.headers.get('Authorization')
        if given is None and not needed:
            return False
        if given != f'Bearer {TOKEN}':
            raise RefusedError(401, message='Invalid credentials in Authorization header')
        return True

    def _revision(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        """Returns a commit and its files; says of what may not be seen that it is not there."""
        known = self._check_token()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not known):
            raise RefusedError(404 if known else 401, 'RepoNotFound', 'Repository not found')
        commit = repo.branches.get(revision, revision)
        if commit not in repo.commits:
            raise RefusedError(404, 'RevisionNotFound', f'Invalid rev id: {revision}')
        return commit, repo.commits[commit]

    def _answer(self, content: object, status: int = 200) -> None:
        self._send(json.dumps(content).encode(), {'Content-Type': 'application/json'}, status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, 'Content-Length': str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that is the only one, in this process and in those that it starts."""
    library = pytest.importorskip('huggingface_hub', minversion='1.0')
    api = pytest.importorskip('huggingface_hub.hf_api').api
    constants = library.constants
    with FakeHub(tmp_path / 'huggingface') as fake:
        for name in filter(_of_a_hub, list(os.environ)):
            monkeypatch.delenv(name)
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        home = fake.home
        for name, value in {
            'ENDPOINT': fake.url,
            'HUGGINGFACE_CO_URL_TEMPLATE': fake.url + '/{repo_id}/resolve/{revision}/{filename}',
            'HF_URL_HOSTS': frozenset({'127.0.0.1'}),
            'HF_HOME': str(home),
            'HF_HUB_CACHE': str(home / 'hub'),
            'HUGGINGFACE_HUB_CACHE': str(home / 'hub'),
            'HF_TOKEN_PATH': str(home / 'token'),
            'HF_STORED_TOKENS_PATH': str(home / 'stored_tokens'),
            'AGENT_HARNESSES_PATH': str(home / '.agent_harnesses.json'),
            'HF_HUB_DISABLE_TELEMETRY': True,
            'HF_HUB_OFFLINE': False,
        }.items():
            monkeypatch.setattr(constants, name, value, raising=False)
        monkeypatch.setattr(api, 'endpoint', fake.url)
        _forget_clients()
        yield fake
    _forget_clients()


def _forget_clients() -> None:
    """Transformers keeps one that knows the address it was made with."""
    if 'transformers.utils.hub' in sys.modules:
        sys.modules['transformers.utils.hub']._hf_api = None  # type: ignore[attr-defined]
