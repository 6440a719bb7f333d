"""How this program was called, so that what it tells its user to type is spelt the same way."""

from __future__ import annotations

import sys
from pathlib import Path


def called(command: str) -> str:
    """How to type one of this package's commands: `bitnet-report` for one who typed an installed command, else
    `python -m bitnet.report`."""
    return f"bitnet-{command}" if Path(sys.argv[0]).name.startswith("bitnet-") else f"python -m bitnet.{command}"
