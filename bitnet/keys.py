"""Which keys of a configuration can change a run's result."""

from __future__ import annotations

# What can't: where a run is written, how it is carried out and shown, what it belongs to, and where its data came from (the
# hash of its tokens stands in for that).
NOT_DECISIVE = {"device", "threads", "out", "overwrite", "resume", "checkpoint", "launcher"}
NOT_DECISIVE |= {"sweep", "scale", "tokenizer", "data"}
OF_DATA = {"order", "at_end"}  # what of `data` says how its tokens are read


def is_decisive(key: str) -> bool:
    """Whether a group, or a dotted key, can change the result of a run whose tokens are the same."""
    group, _, rest = key.partition(".")
    return group not in NOT_DECISIVE or (group == "data" and rest in OF_DATA)
