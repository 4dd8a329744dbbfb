"""From a bundle to frames: `from dsmap.runtime import Translator`. Needs no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsmap.runtime.translator import Translator

__all__ = ["Translator"]


def __getattr__(name: str) -> Any:
    if name == "Translator":
        from dsmap.runtime.translator import Translator

        return Translator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
