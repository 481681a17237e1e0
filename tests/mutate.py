"""Makes random small faults in the package and asks whether a test notices: `make mutate`.

    python -m tests.mutate --mutants 150 --seed 0 --out work_dirs/mutants

The faults are mutmut's operators (a number off by one, < for <=, an argument left out, a value
that is None, ...); a mutant is tried on the tests that run the lines it changes, the fastest first.
Texts of errors and annotations stay as they are. What was tried stands in OUT, in a file for each
state of the sources, and is taken up again by the same call.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from typing import Any

import libcst as cst
from coverage import CoverageData
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators, operator_string

PACKAGE = 'segformer_plusplus'
MUTATED = 'token_merging mit patching segmentation pose checkpoints evaluation/fidelity'.split()
RINGS = 'test_rings.py'
USERS = f'fuzz inference test_arguments.py {RINGS} evaluation/test_results.py'.split()
USERS += 'evaluation/test_peers.py tools/test_layouts.py tools/test_jbd_conversion.py'.split()
TESTS = [f'tests/{name}' for name in [*MUTATED, *USERS]]
"""The tests of these folders, and of those who use the most of them."""

PLAIN = cst.Raise, cst.Annotation, cst.Decorator, cst.ImportFrom, cst.Import
"""What is left as it is, and all that is in it; decorators run before any test."""

HINTS = 'strict', 'sorted', 'encoding'
"""Arguments of ``zip`` and ``topk`` that no right code can notice; the last is ruff's to find."""

SPEEDS = 'ROUNDS', 'WARMUP', 'ROWS', 'HIDDEN', 'SCORES', 'CELLS'
"""Numbers that only a watch notices: how often is timed, how much is worked on at a time."""

GENERIC = 'dict', 'tuple', 'list', 'Callable', 'Mapping', 'Sequence'

PRELOADED = 'torch numpy pytest mmengine mmcv mmseg.apis transformers segmentation_models_pytorch'
"""Imported once, before a process is forked for every mutant."""

TIMEOUT = 600
"""Seconds until the tests of a mutant count as failed: a loop that does not end."""


@dataclass(frozen=True)
class Mutant:
    """One file with one fault: the lines of the statement it is in, and the new source."""

    file: str
    lines: range
    before: str
    after: str

    def diff(self) -> str:
        """Returns the lines that differ."""
        lines = unified_diff(self.before.splitlines(), self.after.splitlines(), n=0, lineterm='')
        return '\n'.join(line for line in list(lines)[2:])


class Mutations(cst.CSTVisitor):
    """Collects line, node and its faulty copies."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, cst.CSTNode, list[cst.CSTNode]]] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, PLAIN) or _is_left(node):
            return False
        copies = [
            copy
            for kind, operator in mutation_operators
            if isinstance(node, kind) and operator is not operator_string
            for copy in operator(node)
        ]
        if copies:
            place = self.get_metadata(PositionProvider, node, None)
            self.found.append((place.start.line if place else 0, node, copies))
        return True


def _is_left(node: cst.CSTNode) -> bool:
    """Says whether it names a type, which nothing reads at run time, or one of ``SPEEDS``."""
    if isinstance(node, cst.AnnAssign):
        return getattr(node.annotation.annotation, 'value', None) == 'TypeAlias'
    if not isinstance(node, cst.Assign):
        return False
    if isinstance(node.value, cst.Subscript):
        return getattr(node.value.value, 'value', None) in GENERIC
    return getattr(node.targets[0].target, 'value', None) in SPEEDS


def meaning(source: str) -> str:
    """Returns what a source says, without what no right code can notice."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [each for each in node.keywords if each.arg not in HINTS]
    return ast.dump(tree)


@dataclass(frozen=True)
class Place:
    """A piece of code of a file, its faulty copies, and the random numbers that belong to it."""

    file: str
    module: cst.Module
    line: int
    node: cst.CSTNode
    copies: list[cst.CSTNode]
    chosen: random.Random

    def mutant(self) -> Mutant | None:
        """Returns the file with one of the copies, None if it says the same or nothing at all."""
        source = self.module.code
        changed = self.module.deep_replace(self.node, self.chosen.choice(self.copies)).code
        with contextlib.suppress(SyntaxError):
            if meaning(changed) != meaning(source):
                return Mutant(self.file, statement(source, self.line), source, changed)
        return None


def find_places(root: Path, seed: int) -> Iterator[Place]:
    """Yields what can be changed; the random numbers come of its own text, whatever is around."""
    for folder in MUTATED:
        for path in sorted((root / PACKAGE / folder).glob('*.py')):
            wrapper = MetadataWrapper(cst.parse_module(path.read_text()), unsafe_skip_copy=True)
            visitor, module = Mutations(), wrapper.module
            wrapper.visit(visitor)
            file, texts = path.relative_to(root).as_posix(), module.code.splitlines()
            seen: Counter[str] = Counter()
            for line, node, copies in visitor.found:
                text = f'{seed} {file} {texts[line - 1].strip()} {module.code_for_node(node)}'
                seen[text] += 1
                chosen = random.Random(f'{text} {seen[text]}')
                yield Place(file, module, line, node, copies, chosen)


def draw(root: Path, count: int, seed: int) -> list[Mutant]:
    """Draws mutants of all files: first a place, each as likely as another, then a fault there."""
    places = sorted(find_places(root, seed), key=lambda place: place.chosen.random())
    mutants = (place.mutant() for place in places)
    return list(islice(filter(None, mutants), count))


def statement(source: str, line: int) -> range:
    """Returns the lines of the innermost statement that holds a line, of its head if it has one."""
    best = range(line, line + 1)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt) and node.lineno <= line <= (node.end_lineno or node.lineno):
            body = getattr(node, 'body', None)
            end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            if line <= max(end, node.lineno):
                best = range(node.lineno, max(end, node.lineno) + 1)
    return best


def runs_on_import(source: str, line: int) -> bool:
    """Says whether it stands in no function's body; the test that imports first is no witness."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node for node in ast.walk(ast.parse(source)) if isinstance(node, functions)]
    return not any(
        node.body[0].lineno <= line <= (node.end_lineno or node.lineno) for node in bodies
    )


class Coverage:
    """Knows which tests run a line, and how long each of them takes."""

    def __init__(self, tree: Path, out: Path) -> None:
        self._tree, data, times = tree, out / 'coverage', out / 'times.xml'
        if not data.exists() or not times.exists():
            options = [f'--cov={PACKAGE}', '--cov-context=test', '--cov-report=']
            environ = {**os.environ, 'COVERAGE_FILE': str(data), 'PYTHONPATH': str(tree)}
            call = [sys.executable, '-m', 'pytest', '-q', f'--junitxml={times}', *options, *TESTS]
            if subprocess.run(call, cwd=tree, env=environ).returncode:
                raise SystemExit('the tests fail without any fault; mend them first')
        self._data = CoverageData(str(data))
        self._data.read()
        self._seconds = {
            f'{case.get("classname", "").replace(".", "/")}.py::{case.get("name")}': float(
                case.get('time', 0)
            )
            for case in ElementTree.parse(times).iter('testcase')
        }

    def tests(self, mutant: Mutant) -> list[str]:
        """Lists the tests of a mutant, the fastest first.

        Of a line that runs on import, or in processes of their own: all of the file, of its folder
        and of who imports whom.
        """
        by_line = self._data.contexts_by_lineno(str(self._tree / mutant.file))

        def names(lines: Any) -> set[str]:
            found = {context for line in lines for context in by_line.get(line, [])}
            return {context.rpartition('|')[0] for context in found if context}

        folder = Path('tests', *Path(mutant.file).parts[1:-1]).as_posix()
        beside = {
            name for name in self._seconds if name.startswith((f'{folder}/', f'tests/{RINGS}'))
        }
        found = names(mutant.lines)
        if not found or runs_on_import(mutant.before, mutant.lines.start):
            found |= names(by_line) | beside
        return sorted(found, key=lambda name: self._seconds.get(name, 0))


def run(tree: Path, mutant: Mutant, tests: list[str], log: Path) -> str:
    """Runs tests on a mutant in a forked process; returns the one that fails, '' if none does."""
    path = tree / mutant.file
    path.write_text(mutant.after)
    try:
        child = os.fork()
        if child == 0:
            _run_in_child(tree, tests, log)
        end = time.monotonic() + TIMEOUT
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return 'takes for ever'
            time.sleep(0.05)
    finally:
        path.write_text(mutant.before)
    code = os.waitstatus_to_exitcode(done[1])
    lines = log.read_text().splitlines()
    failed = [line for line in lines if line.startswith(('FAILED tests', 'ERROR tests'))]
    lost = any(line.startswith('ERROR: not found') for line in lines)
    if code == 5 or (lost and not failed):  # that says nothing of the mutant
        raise SystemExit('\n'.join(lines[-9:]))
    return '' if code == 0 else (failed or [f'pytest ends with {code}'])[0]


def _run_in_child(tree: Path, tests: list[str], log: Path) -> None:
    os.setsid()
    with log.open('w') as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(tree)
    sys.path.insert(0, str(tree))
    os.environ['PYTHONPATH'] = str(tree)
    import pytest

    code = 3
    try:
        code = int(pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-p', 'no:cov', *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def copy_sources(tree: Path) -> str:
    """Copies the tracked files, in which the faults are made; returns a hash of them."""
    digest = hashlib.sha256()
    shutil.rmtree(tree, ignore_errors=True)
    for name in subprocess.check_output(['git', 'ls-files', '-z'], text=True).split('\0'):
        if name and Path(name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, tree / name)
            digest.update(f'{name}\0'.encode() + Path(name).read_bytes())
    return digest.hexdigest()[:12]


def main() -> None:
    """Tries mutants and prints the survivors and the score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--mutants', type=int, default=150)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/mutants'))
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sys.dont_write_bytecode = True
    os.environ |= {'PYTHONDONTWRITEBYTECODE': '1', 'OMP_NUM_THREADS': '1'}
    tree = out / 'tree'
    out /= copy_sources(tree)
    out.mkdir(exist_ok=True)
    record = out / 'mutants.json'
    done: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    coverage = Coverage(tree, out)
    for name in PRELOADED.split():
        __import__(name)
    mutants = draw(tree, args.mutants, args.seed)
    for number, mutant in enumerate(mutants, 1):
        key = f'{mutant.file}\n{mutant.diff()}'
        if key not in done:
            tests = coverage.tests(mutant)
            done[key] = run(tree, mutant, tests, out / 'log') if tests else ''
            record.write_text(json.dumps(done, indent=1))
        print(f'{number}/{len(mutants)} {done[key] or "SURVIVED"}\n{key}\n', flush=True)
    keys = [f'{mutant.file}\n{mutant.diff()}' for mutant in mutants]
    killed = sum(bool(done[key]) for key in keys)
    print('\n\n'.join(key for key in keys if not done[key]))
    print(f'{killed} of {len(keys)} killed ({killed / len(keys):.1%}), the others are above')


if __name__ == '__main__':
    main()
