"""Export of trained networks to bundles that `dsmap.runtime` runs. Needs torch and onnx; light to import.

from dsmap.export import EngineRequest, ExportRequest, UpdateRequest, export_model, update_bundle
"""

from dsmap.export.request import EngineRequest, ExportRequest, UpdateRequest
from dsmap.export.run import export_model, update_bundle

__all__ = ["EngineRequest", "ExportRequest", "UpdateRequest", "export_model", "update_bundle"]
