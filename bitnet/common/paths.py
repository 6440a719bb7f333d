"""Where the files that travel with the package lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def share() -> Path:
    """The folder that holds `conf/` and `sweeps/`: the checkout, or the copy that an installed wheel carries."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "conf" / "config.yaml").is_file() else PACKAGE / "_share"
