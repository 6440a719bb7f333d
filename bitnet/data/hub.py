"""The Hugging Face hub, or its local cache where there is no network; a failure takes seconds and is one sentence."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any

from bitnet.common.console import command_name
from bitnet.common.errors import UserError
from bitnet.config.data import HubData
from bitnet.data.corpus import Corpus, Encode, Split, nonempty_lines

PROBE_SECONDS = 5.0


def hub_unreachable() -> str | None:
    """Why the Hugging Face hub does not answer, or None if it does: one short request, not minutes of retries."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception as error:  # requests and httpx share no base class; the reason goes into the message
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def load_dataset(data: HubData) -> Any:
    """The `datasets.DatasetDict` of the hub, or of its local cache when the hub can't be reached.

    Raises:
        UserError: neither has it, or it has no such split or column.
    """
    reason = hub_unreachable()
    import datasets

    try:
        with _offline() if reason is not None else contextlib.nullcontext():
            found = datasets.load_dataset(data.dataset, data.subset)
    except (OSError, ValueError) as error:
        why = f"the hub can't be reached ({reason}) and no cache has it"
        if reason is None:
            why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data.dataset={data.dataset} can't be loaded: {why}; use data=pydocs, or data=text data.paths=[your.txt], "
            f"or run `{command_name('prepare')}` with this data once where there is a network"
        ) from error
    for key, split in (("data.train_split", data.train_split), ("data.heldout_split", data.heldout_split)):
        if split not in found:
            raise UserError(f"{key}={split}: {data.dataset} has the splits {', '.join(found)}")
        if data.column not in found[split].column_names:
            raise UserError(f"data.column={data.column}: {data.dataset} has the columns {found[split].column_names}")
    return found


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Caches only. Both libraries read their environment variable at import, which may be long past."""
    import datasets.config
    import huggingface_hub.constants

    places = (datasets.config, huggingface_hub.constants)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def hub_corpus(data: HubData) -> Corpus:
    load = functools.cache(lambda: load_dataset(data))

    def read(split: Split, encode: Encode) -> Iterator[str]:
        rows = load()[data.train_split if split == "train" else data.heldout_split]
        for start in range(0, len(rows), 10_000):
            for text in rows[start : start + 10_000][data.column]:
                yield from nonempty_lines(text) if encode == "lines" else ((text,) if text.strip() else ())

    name = re.sub(r"[^\w.-]+", "_", data.dataset.split("/")[-1] if data.subset is None else data.subset)
    return Corpus(name, {"dataset": data.dataset, "subset": data.subset}, read)
