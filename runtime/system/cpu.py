"""Name of the processor, and the cores that this process may use. Imports nothing heavy."""

import platform
from functools import cache
from pathlib import Path

from dsmap.common.cpu import allowed_cores

__all__ = ["allowed_cores", "cpu_name"]


@cache
def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Vendor and model in one line, as "GenuineIntel Intel(R) Xeon(R) ..."; else what Python knows.

    A virtual machine may hide the model, but not the vendor.
    """
    try:
        lines = cpuinfo.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    known = {key.strip(): value.strip() for key, _, value in reversed([line.partition(":") for line in lines])}
    found = [known[key] for key in ("vendor_id", "model name") if known.get(key)]
    if not found and platform.system() == "Darwin" and platform.machine() == "x86_64":
        return "GenuineIntel"  # every Mac of that kind
    return " ".join(found) or platform.processor() or platform.machine()
