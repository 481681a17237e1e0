"""The paper's tables, measured by the ordinary tools; see tools/reproduce.py."""

from tools.paper_tables.plan import BENCHMARK, Plan, Planner
from tools.paper_tables.report import Report, write_report
from tools.paper_tables.run import Reproduction, exit_code, show_plan
from tools.paper_tables.settings import DTYPES, SYNTHETIC, Settings
from tools.paper_tables.state import Store
from tools.paper_tables.steps import Outcome, Step, SubprocessRunner
from tools.paper_tables.tables import TABLES, Table, find_rows, find_tables

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
