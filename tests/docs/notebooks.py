"""Runs the notebooks of docs/notebooks; as a program, also saves what they gave.

python -m tests.docs.notebooks [NAME...]
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / 'docs/notebooks'
METADATA = dict(
    kernelspec=dict(display_name='Python 3', language='python', name='python3'),
    language_info=dict(name='python'),
)
"""What a notebook says of where it ran: nothing."""

TIMEOUT = 600
"""Seconds that a cell may take; all of a notebook takes about one minute."""


def run(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Runs a notebook by this Python, in a folder; its outputs are then those of the run.

    Of the user's, no kernel, no settings and no proxy of a display count, and nothing is downloaded.

    Raises:
        CellExecutionError: a cell failed.
    """
    kernel = folder / 'jupyter/kernels/python3'
    kernel.mkdir(parents=True)
    argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
    spec = dict(argv=argv, display_name='Python 3', language='python')
    (kernel / 'kernel.json').write_text(json.dumps(spec))
    commands = Path(sys.executable).parent  # segformer-plusplus is beside it
    changed = dict(
        JUPYTER_PATH=str(folder / 'jupyter'),
        IPYTHONDIR=str(folder / 'ipython'),
        HF_HUB_OFFLINE='1',
        OMP_NUM_THREADS='1',
        PATH=os.pathsep.join([str(commands), os.environ.get('PATH', '')]),
    )
    before = dict(os.environ)
    try:
        os.environ.update(changed)
        os.environ.pop('MPLBACKEND', None)  # the kernel draws into the notebook
        resources = dict(metadata=dict(path=str(folder)))
        options = dict(timeout=TIMEOUT, record_timing=False, coalesce_streams=True)
        NotebookClient(notebook, resources=resources, **options).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
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
