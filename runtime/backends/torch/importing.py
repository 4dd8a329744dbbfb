"""Imports PyTorch, or says what to install."""

from types import ModuleType

from dsmap.errors import DsmapError

_INSTALL = "pip install 'dsmap[torch]'"


def import_torch() -> ModuleType:
    """The module `torch`. DsmapError says what to install when it or `onnx` cannot be imported."""
    try:
        import onnx  # noqa: F401  # reads the graphs
        import torch
    except ImportError as error:
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):  # Ctrl-C while it was loading
            raise KeyboardInterrupt from error
        name = "onnx" if error.name == "onnx" else "torch"
        raise DsmapError(f"{name} cannot be imported ({error})", _INSTALL) from error
    if not hasattr(torch, "nn"):  # a folder of that name, or what is left of another version
        raise DsmapError("the installed torch is empty", f"Run pip uninstall torch, then: {_INSTALL}")
    return torch
