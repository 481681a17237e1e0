"""Exports models to files that run without this package: ONNX, OpenVINO, torch.export."""

from ..libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .checking import Check, check_export
    from .exporting import Export, export_model
    from .formats import FORMATS, read_metadata
    from .options import ExportOptions

__all__ = [
    'FORMATS',
    'Check',
    'Export',
    'ExportOptions',
    'check_export',
    'export_model',
    'read_metadata',
]
