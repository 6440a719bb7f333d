"""What a run is, as a hash: everything that can change its result, and nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from bitnet.config.run import RunConfig

# Raised with every change of code that gives a configuration another result (the golden losses change with it), so that
# no result of the older code is taken for one of the newer.
RESULTS = 1


def source_key(config: RunConfig) -> str:
    """What decides a run's tokens, as far as its configuration goes: their stand-in until they are prepared and hashed."""
    return config.data.model_dump_json() + config.tokenizer.model_dump_json()


def identity(config: RunConfig, data_sha256: str) -> dict[str, Any]:
    """What decides a run's result, as plain values."""
    values = config.model_dump(mode="json", exclude=NOT_IN_IDENTITY)
    tokens = {"sha256": data_sha256} | config.data.model_dump(mode="json", include=OF_DATA)
    return values | {"results": RESULTS, "data": tokens}


def digest(identity_values: dict[str, Any], *, without_seed: bool = False) -> str:
    """Ten hex digits for an identity; `without_seed` names the arm that its seeds share."""
    values = {k: v for k, v in identity_values.items() if not (without_seed and k == "seed")}
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:10]


# Left out of a run's identity: where it is written, how it is carried out and shown, what it belongs to, and where its data
# came from (the hash of its tokens stands in for that).
NOT_IN_IDENTITY = {
    "device", "threads", "out", "overwrite", "resume", "checkpoint", "launcher", "sweep", "scale", "tokenizer", "data",
}  # fmt: skip

OF_DATA = {"order", "at_end"}  # what of `data` says how its tokens are read


def affects_result(key: str) -> bool:
    """Whether a group, or a dotted key, can change the result of a run whose tokens are the same."""
    group, _, rest = key.partition(".")
    return group not in NOT_IN_IDENTITY or (group == "data" and rest in OF_DATA)
