"""Bytes and seconds as people read them."""

from __future__ import annotations


def amount(size: float) -> str:
    """Bytes in the unit that suits them, decimal."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"


def clock(seconds: float) -> str:
    """Seconds as [h:]mm:ss."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"
