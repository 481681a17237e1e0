"""The paper's tables, measured by the ordinary tools; see tools/reproduce.py."""

from .plan import BENCHMARK, Plan, Planner
from .report import Report, write_report
from .run import Reproduction, exit_code, show_plan
from .settings import DTYPES, SYNTHETIC, Settings
from .state import Store
from .steps import Outcome, Step, SubprocessRunner
from .tables import TABLES, Table, find_rows, find_tables

__all__ = [
    'BENCHMARK',
    'DTYPES',
    'SYNTHETIC',
    'TABLES',
    'Outcome',
    'Plan',
    'Planner',
    'Report',
    'Reproduction',
    'Settings',
    'Step',
    'Store',
    'SubprocessRunner',
    'Table',
    'exit_code',
    'find_rows',
    'find_tables',
    'show_plan',
    'write_report',
]
