"""Runs the notebooks of docs/notebooks; as a program, also saves what they gave.

python -m tests.docs.notebooks [NAME...]
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / 'docs/notebooks'
METADATA = dict(
    kernelspec=dict(display_name='Python 3', language='python', name='python3'),
    language_info=dict(name='python'),
)
"""All that a notebook says of what ran it."""

TIMEOUT = 600
"""Seconds that a cell may take; the whole of a notebook takes about sixty."""


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs a notebook by this Python, in a folder; its outputs are then those of the run.

    No kernel and no settings of the user count, and nothing can be downloaded from the Hub.

    Raises:
        CellExecutionError: a cell failed.
    """
    kernel = folder / 'jupyter/kernels/python3'
    kernel.mkdir(parents=True)
    argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    spec = dict(argv=argv, display_name='Python 3', language='python')
    (kernel / 'kernel.json').write_text(json.dumps(spec))
    commands = str(Path(sys.executable).parent)  # segformer-plusplus is beside it
    environment = dict(
        os.environ,
        JUPYTER_PATH=str(folder / 'jupyter'),
        IPYTHONDIR=str(folder / 'ipython'),
        HF_HUB_OFFLINE='1',
        OMP_NUM_THREADS='1',
        PATH=os.pathsep.join([commands, os.environ.get('PATH', '')]),
    )
    environment.pop('MPLBACKEND', None)  # figures go into the notebook
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        record_timing=False,
        coalesce_streams=True,
        resources=dict(metadata=dict(path=str(folder))),
    )
    with mock.patch.dict(os.environ, environment, clear=True):
        client.execute()
    notebook.metadata = nbformat.from_dict(METADATA)


def main() -> None:
    for path in sorted(FOLDER.glob('*.ipynb')):
        if path.stem in (sys.argv[1:] or [path.stem]):
            notebook, start = nbformat.read(path, as_version=4), time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                run(notebook, Path(folder))
            nbformat.write(notebook, path)
            print(f'{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()
