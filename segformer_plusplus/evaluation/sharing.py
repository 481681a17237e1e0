"""Uploads a model of Transformers to the Hub with its strategy and what was measured of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import SegformerPlusPlusError, first_line
from ..libraries import require
from ..patching import find_backbones
from ..token_merging import TokenMerging, build_token_merging
from ..token_merging.config import find_preset
from ..token_merging.words import in_words
from .results import MILLISECONDS, SPEED_UP, ResultsTable, Row, measure_columns

_TASKS = {
    'SegformerForSemanticSegmentation': 'image-segmentation',
    'SegformerForImageClassification': 'image-classification',
}
"""What the Hub calls what a model is for, by the model's class."""


def push_to_hub(
    model: Any,
    repo: str,
    *,
    base_model: str | None,
    measured: str | os.PathLike[str] | None = None,
    preprocessor: Any = None,
    license: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> str:
    """Uploads weights, config and a model card in one commit; files of these names are replaced.

    Args:
        model: of Transformers, after ``apply_token_merging``.
        repo: name on the Hub, which is made if it is not there.
        base_model: name on the Hub of the model that this one comes from; None: of none.
        measured: file that ``segformer-plusplus fidelity --json`` wrote, with the model's strategy
            among what it measured. Without it the card says that nothing was measured.
        preprocessor: of Transformers, to go with the model.
        license: as the Hub calls it. Without it the card claims none.
        token: without it, that of the last login.
        private: whether nobody else sees a repository that is made.
        revision: branch, which is made if it is not there.

    Returns:
        The address of the commit.

    Raises:
        MissingDependencyError: huggingface_hub is not installed.
        TokenMergingError: the model's config keeps no strategy.
        SegformerPlusPlusError: a model of another library, a file that is not of fidelity or
            lacks the strategy, or an upload that failed.
    """
    hub = require('huggingface_hub', 'push_to_hub')
    backbone = find_backbones(model)[0]
    if backbone.saved_config() is None or not hasattr(model, 'save_pretrained'):
        raise SegformerPlusPlusError(
            f'push_to_hub is for a model of Transformers, not for a {type(model).__name__}'
        )
    merging = backbone.kept()
    table = None if measured is None else _read_measured(Path(measured), merging)
    kind = type(model).__name__
    data = hub.ModelCardData(
        base_model=base_model, library_name='transformers', license=license,
        pipeline_tag=_TASKS.get(kind), tags=['segformer', 'token-merging'],
    )  # fmt: skip
    api = hub.HfApi(token=token)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        if preprocessor is not None:
            preprocessor.save_pretrained(folder)
        try:
            name = api.create_repo(repo, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(name, branch=revision, exist_ok=True)
            card = [f'---\n{data.to_yaml()}\n---', *_describe(kind, name, revision, merging, table)]
            hub.ModelCard('\n\n'.join(card)).save(Path(folder, 'README.md'))
            return api.upload_folder(
                repo_id=name, folder_path=folder, revision=revision,
                commit_message='Upload a model with its token merging',
            ).commit_url  # fmt: skip
        except Exception as error:  # of the HTTP client, too, whichever the library uses
            reason = ' '.join(str(error).split())
            raise SegformerPlusPlusError(
                f'{repo} was not uploaded: {reason}; a token that may write comes by token=... or '
                'hf auth login'
            ) from error


def _read_measured(path: Path, merging: TokenMerging) -> str:
    """Returns the table of a fidelity as Markdown; raises unless the strategy has a row of it."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        rows = [Row.from_json(row) for row in content['rows']]
        columns = [*measure_columns(rows, content['main_measure']), MILLISECONDS, SPEED_UP]
        table = ResultsTable(rows, columns, caption=content['caption'], command=content['command'])
        markdown, stages = table.to_markdown(), len(merging.stages)
        found = [repr(build_token_merging(row.token_merging, stages)) for row in rows]
    except OSError as error:
        raise SegformerPlusPlusError(f'measured={path} cannot be read: {error}') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegformerPlusPlusError(
            f'measured={path} is not what segformer-plusplus fidelity --json writes '
            f'({type(error).__name__}: {first_line(error)})'
        ) from error
    if repr(merging) not in found:
        raise SegformerPlusPlusError(
            f"measured={path}: the model's strategy is none of {[row.name for row in rows]}; "
            'measure it, too'
        )
    return markdown


def _describe(
    kind: str, name: str, revision: str | None, merging: TokenMerging, table: str | None
) -> Iterator[str]:
    """Yields the paragraphs of a card."""
    yield f'# {name.rpartition("/")[2]}'
    yield (
        'A SegFormer that merges similar tokens before its attention and unmerges them after it, '
        'by segformer-plusplus.'
    )
    preset = find_preset(merging)
    yield f'## Strategy: {preset}' if preset else '## Strategy'
    yield '\n'.join(f'- stage {i}: {line}' for i, line in enumerate(in_words(merging), start=1))
    yield '## How to load it'
    given = ', '.join([repr(name), *([f'{revision=}'] if revision else [])])
    yield (
        '```python\n'
        'from segformer_plusplus import apply_token_merging\n'
        f'from transformers import {kind}\n\n'
        f'model = {kind}.from_pretrained({given}).eval()\n'
        'apply_token_merging(model)  # the strategy in config.json; without it nothing is merged\n'
        '```'
    )
    yield '## What was measured'
    yield table or 'Nothing was measured.\n'
