"""The corpus that a configuration asks for."""

from __future__ import annotations

from bitnet.config.data import HubData, PydocsData, TextData
from bitnet.data.corpus import Corpus
from bitnet.data.hub import hub_corpus
from bitnet.data.pydocs import pydocs_corpus
from bitnet.data.text_corpus import text_corpus


def open_corpus(data: PydocsData | TextData | HubData) -> Corpus:
    """The corpus that a text source describes.

    Raises:
        UserError: no paths, or a file that is missing, empty or not text. A hub is first asked when its texts are read.
    """
    match data:
        case PydocsData():
            return pydocs_corpus(data)
        case TextData():
            return text_corpus(data)
        case HubData():
            return hub_corpus(data)
