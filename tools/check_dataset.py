"""Checks the data of a config: python tools/check_dataset.py CONFIG [--fix-list FILE]."""

import os
import sys
from pathlib import Path
from typing import Literal

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from segformer_plusplus.cli.options import CfgOptions, On, command
from segformer_plusplus.files import write_json
from segformer_plusplus.inference.configs import load_config
from tools.dataset_checks.inspection import inspect_data, write_fix_lists
from tools.dataset_checks.summary import print_summary

FOUND = 1


@command
def main(
    config: str,
    /,
    *,
    splits: list[Literal['train', 'val', 'test']] | None = None,
    jobs: int = min(4, os.cpu_count() or 1),
    limit: int | None = None,
    hash: On = True,
    json: str | None = None,
    fix_list: str | None = None,
    cfg_options: CfgOptions = None,
) -> int:
    """Check all data that a config reads.

    Every image and label map is opened, every annotation compared with its image. Exit code: 0, no
    problems; 1, problems; 2, the data cannot be checked.

    Args:
        config: config file.
        splits: what to check (default: all of the config).
        jobs: processes at most, one for each 50 images.
        limit: check only the first so many images of each dataset.
        hash: compare the images by content.
        json: write all findings to this file.
        fix_list: write the images to leave out, a file for each dataset: fix.txt gives
            fix.train.txt and fix.val.txt, for LeaveOut in the config.
    """
    cfg = load_config(config, cfg_options)
    report = inspect_data(cfg, splits=splits, jobs=jobs, limit=limit, hashes=hash)
    console = Console()
    print_summary(report, console)
    written = [] if json is None else [json]
    if json:
        write_json(json, report.as_dict())
    if fix_list:
        written += map(str, write_fix_lists(report, fix_list))
    for path in written:
        console.print(f'Wrote {path}', markup=False, highlight=False, soft_wrap=True)
    return FOUND if report.problems else 0


if __name__ == '__main__':
    sys.exit(main(prog='tools/check_dataset.py'))
