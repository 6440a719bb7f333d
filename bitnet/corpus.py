"""Where training text comes from: Python's own documentation, the user's files, a hub dataset, or a synthetic chain.

A `Corpus` says what determines its content (`fingerprint`) before it is read, and then yields texts, split by split.
The order is fixed, so the same fingerprint always gives the same texts. Nothing here tokenises.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import io
import platform
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from bitnet.errors import UserError
from bitnet.hub import load_dataset
from bitnet.sources import HubData, PydocsData, SyntheticData, TextData

Split = Literal["train", "heldout"]
Encode = Literal["lines", "documents"]


@dataclass(frozen=True)
class Corpus:
    """A source of text.

    `name`: short and readable, fit for a folder's name. `fingerprint`: what determines the content, as plain JSON.
    `read(split, encode)`: the texts in order; with `lines` the non-empty lines, each with its blanks and its newline.
    """

    name: str
    fingerprint: dict[str, Any]
    read: Callable[[Split, Encode], Iterator[str]]


def open_corpus(data: PydocsData | TextData | HubData) -> Corpus:
    """The corpus that a text source describes.

    Raises:
        UserError: no paths, or a file that is missing, empty or not text. A hub is first asked when its texts are read.
    """
    match data:
        case PydocsData():
            return _pydocs_corpus(data)
        case TextData():
            return _text_corpus(data)
        case HubData():
            return _hub_corpus(data)


def nonempty_lines(text: str) -> Iterator[str]:
    """The lines of `text` that are more than white space, unchanged: leading blanks and the newline belong to a line.

    This is how the study's loader saw its lines: a row of WikiText on the hub keeps both, and only then does the
    training split give the 18,700 batches of 128 tokens that the study counts.
    """
    return (line for line in io.StringIO(text, newline="\n") if line.strip())


# ------------------------------------------------------------------------------------------------------------- pydocs
# The dependencies of this project, direct and not; those that are installed are read.
DISTRIBUTIONS = (
    "anyio", "click", "contourpy", "datasets", "dill", "filelock", "fonttools", "fsspec", "httpx", "httpx2",
    "huggingface_hub", "hydra-core", "Jinja2", "markdown-it-py", "matplotlib", "mpmath", "multiprocess", "networkx",
    "numpy", "omegaconf", "packaging", "pandas", "pillow", "pyarrow", "pydantic", "Pygments", "pyparsing",
    "python-dateutil", "PyYAML", "regex", "requests", "rich", "safetensors", "scipy", "submitit", "sympy", "tabulate",
    "tokenizers", "torch", "tqdm", "transformers", "typer", "typing_extensions", "urllib3",
)  # fmt: skip
NOT_DOCUMENTATION = frozenset({"test", "tests", "testing", "idle_test", "site-packages", "dist-packages"})
SHARE = 1 / 8  # of the budget: the most that one library gives while others still have something to say
MIN_WORDS = 3  # a shorter docstring is a label, not prose
MIN_PARAGRAPH = 40  # characters; shorter repeated paragraphs ("For example:") hold a text together and stay
_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_WORD = re.compile(r"[A-Za-z]{2,}")
_DOCUMENTED = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_BLOCK = ast.If | ast.Try | ast.With | ast.For | ast.While


def _pydocs_corpus(data: PydocsData) -> Corpus:
    documents = functools.cache(lambda: pydocs(data.max_bytes))

    def read(split: Split, encode: Encode) -> Iterator[str]:
        for text in documents():
            if (_split_position(text) < data.heldout_fraction) == (split == "heldout"):
                yield from nonempty_lines(text + "\n") if encode == "lines" else (text,)

    installed = {name: distribution.version for name, distribution in _installed()}
    return Corpus("pydocs", {"python": platform.python_version(), "distributions": installed}, read)


def pydocs(max_bytes: int) -> list[str]:
    """Docstrings and documentation topics of the standard library and of the installed `DISTRIBUTIONS`.

    Files are parsed, never imported. No document and no longer paragraph occurs twice, in any split. One library gives
    more than `SHARE` of `max_bytes` (UTF-8) only when all others are used up. Documents come in the order of their
    hashes, so that every stretch of the corpus mixes all libraries.
    """
    chosen: list[str] = []
    seen: set[int] = set()
    used: dict[str, int] = {}  # bytes, by library
    waiting = sorted(_source_files(), key=lambda item: _digest(f"{item[0]}/{item[1]}"))
    with tqdm(total=max_bytes, desc="reading documentation", unit="B", unit_scale=True, disable=None) as bar, _no_gc():
        for most in (int(SHARE * max_bytes), max_bytes):
            later = []
            for library, name, path in waiting:
                if used.get(library, 0) >= most:
                    later.append((library, name, path))
                    continue
                for text in _prose(documents_of(path), seen):
                    size = len(text.encode())
                    if sum(used.values()) + size > max_bytes:
                        return sorted(chosen, key=_digest)
                    chosen.append(text)
                    used[library] = used.get(library, 0) + size
                    bar.update(size)
            waiting = later
    return sorted(chosen, key=_digest)


def documents_of(path: Path) -> list[str]:
    """The docstrings of a Python file, cleaned of indentation; of pydoc's topics file, the topics.

    A file that does not parse gives none: packages hold a few templates and files for other versions of Python.
    """
    source = path.read_bytes()
    topics = path.parts[-2:] == ("pydoc_data", "topics.py")
    if not topics and b'"""' not in source and b"'''" not in source:
        return []  # parsing is what costs the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    if topics:
        return [c.value for n in tree.body if isinstance(n, ast.Assign) for c in ast.walk(n.value) if _is_topic(c)]
    return [text for text in _docstrings(tree) if text]


def _is_topic(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value


def _docstrings(node: Any) -> Iterator[str]:
    """In the order of the file. Only statements are visited: expressions are most of a tree and document nothing."""
    if not isinstance(node, _BLOCK):
        yield _as_text(ast.get_docstring(node))
    for child in (*node.body, *getattr(node, "orelse", ())):
        if isinstance(child, _DOCUMENTED | _BLOCK):
            yield from _docstrings(child)


def _as_text(docstring: str | None) -> str:
    """Without the lone surrogates that a docstring's escapes may hold and no UTF-8 file can."""
    return "" if docstring is None else docstring.strip().encode("utf-8", "ignore").decode()


def _prose(documents: Iterable[str], seen: set[int]) -> Iterator[str]:
    """The documents less doctests and less what came before; `seen` holds the hashes of what came, and grows."""
    for document in documents:
        kept = []
        for paragraph in _BLANK_LINE.split(document):
            if paragraph.lstrip().startswith(">>>"):
                continue
            if len(paragraph) < MIN_PARAGRAPH or _is_new(paragraph.strip(), seen):
                kept.append(paragraph)
        text = "\n\n".join(kept).strip("\n")
        if len(_WORD.findall(text)) >= MIN_WORDS and _is_new("document " + text, seen):
            yield text


def _is_new(text: str, seen: set[int]) -> bool:
    mark = int.from_bytes(_digest(text)[:8], "big")
    new = mark not in seen
    seen.add(mark)
    return new


def _source_files() -> Iterator[tuple[str, str, Path]]:
    """(library, name in it, path) of the Python files that may hold documentation, tests left out."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in root.rglob("*.py"):
        inside = path.relative_to(root)
        if NOT_DOCUMENTATION.isdisjoint(inside.parts):
            yield "python", inside.as_posix(), path
    for name, distribution in _installed():
        for file in distribution.files or ():
            if file.suffix == ".py" and NOT_DOCUMENTATION.isdisjoint(file.parts):
                path = Path(str(distribution.locate_file(file)))
                if path.is_file():
                    yield name, file.as_posix(), path


def _installed() -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # those present are used
            yield name, importlib.metadata.distribution(name)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _split_position(text: str) -> float:
    """A uniform number in [0, 1) that is the text's own, other bytes of the hash than the ones that order documents."""
    return int.from_bytes(_digest(text)[16:24], "big") / 2**64


@contextlib.contextmanager
def _no_gc() -> Iterator[None]:
    """Syntax trees are millions of objects without a cycle: collecting garbage among them costs a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --------------------------------------------------------------------------------------------------------------- text
@dataclass(frozen=True)
class _Span:
    """Bytes `start` to `end` of a file, both at the start of a line."""

    path: Path
    start: int
    end: int

    def read(self, encode: Encode) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            if encode == "documents":
                text = _unix(file.read(self.end - self.start))
                yield from (text,) if text.strip() else ()
                return
            position = self.start
            while position < self.end:
                line = file.readline()
                position += len(line)
                if text := _unix(line):
                    yield from nonempty_lines(text)


def _unix(raw: bytes) -> str:
    return raw.decode().replace("\r\n", "\n")


def _text_corpus(data: TextData) -> Corpus:
    if not data.paths:
        raise UserError("data.paths=[]: data=text needs files or folders of *.txt or *.md, as in data.paths=[book.txt]")
    train = text_files(data.paths, "data.paths")
    heldout = text_files(data.heldout_paths, "data.heldout_paths")
    if both := set(train) & set(heldout):
        raise UserError(f"data.heldout_paths: {min(both)} is also in data.paths; held-out text must not be trained on")
    hashes = {"train": [checked_hash(path) for path in train], "heldout": [checked_hash(path) for path in heldout]}
    spans = {"train": _whole(train), "heldout": _whole(heldout)}
    if not heldout:
        spans["train"], spans["heldout"] = _cut(spans["train"], data.heldout_fraction)

    def read(split: Split, encode: Encode) -> Iterator[str]:
        for span in spans[split]:
            yield from span.read(encode)

    return Corpus(re.sub(r"[^\w.-]+", "_", Path(data.paths[0]).resolve().stem)[:40] or "text", hashes, read)


def text_files(paths: Iterable[str], key: str) -> list[Path]:
    """The files that `paths` name, resolved: a file itself, a folder's `*.txt` and `*.md` at any depth, sorted.

    Raises:
        UserError: a path that does not exist, or a folder without such a file.
    """
    files: list[Path] = []
    for name in paths:
        path = Path(name).expanduser().resolve()
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix in {".txt", ".md"} and p.is_file())
            if not found:
                raise UserError(f"{key}: the folder {name} holds no *.txt or *.md file")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise UserError(f"{key}: there is no file or folder {name}")
    return files


def checked_hash(path: Path) -> str:
    """The file's sha256.

    Raises:
        UserError: the file is empty, can't be read, or is not UTF-8 text.
    """
    sha256, decoder, blank = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), True
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                if b"\0" in block:
                    raise UserError(f"data: {path} is not text: it holds NUL bytes")
                blank = blank and not decoder.decode(block).strip()
                sha256.update(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 text ({error.reason}); convert it to UTF-8") from None
    except OSError as error:
        raise UserError(f"data: {path} can't be read: {error.strerror}") from None
    if blank:
        raise UserError(f"data: {path} is empty: it holds no text")
    return sha256.hexdigest()


def _whole(files: Iterable[Path]) -> list[_Span]:
    return [_Span(path, 0, path.stat().st_size) for path in files]


def _cut(spans: list[_Span], fraction: float) -> tuple[list[_Span], list[_Span]]:
    """All but the last `fraction` of the bytes, and the rest, cut at the next start of a line."""
    left = int((1 - fraction) * sum(span.end for span in spans))
    train: list[_Span] = []
    for i, span in enumerate(spans):
        if left < span.end:
            with span.path.open("rb") as file:
                file.seek(left)
                file.readline()
                cut = file.tell()
            parts = [_Span(span.path, 0, cut), _Span(span.path, cut, span.end)]
            return train + parts[:1], [part for part in parts[1:] if part.start < part.end] + spans[i + 1 :]
        train.append(span)
        left -= span.end
    return train, []


# ---------------------------------------------------------------------------------------------------------------- hub
def _hub_corpus(data: HubData) -> Corpus:
    load = functools.cache(lambda: load_dataset(data))

    def read(split: Split, encode: Encode) -> Iterator[str]:
        rows = load()[data.train_split if split == "train" else data.heldout_split]
        for start in range(0, len(rows), 10_000):
            for text in rows[start : start + 10_000][data.column]:
                yield from nonempty_lines(text) if encode == "lines" else ((text,) if text.strip() else ())

    name = re.sub(r"[^\w.-]+", "_", data.dataset.split("/")[-1] if data.subset is None else data.subset)
    return Corpus(name, {"dataset": data.dataset, "subset": data.subset}, read)


# ---------------------------------------------------------------------------------------------------------- synthetic
_CHAIN_SEED = 20_240_227  # the chain is data, not part of a run's randomness: the run's seed does not touch it


def synthetic_tokens(data: SyntheticData, split: Split) -> np.ndarray:
    """int64 tokens of a chain in which each token has `branching` equally likely successors.

    On a ring of V hidden places the chain moves on by 1..branching places, uniformly, and shows the label of the place;
    the labels are a fixed permutation. Each place is reached from equally many, so unigrams are uniform (entropy ln V)
    and a token given the one before has entropy ln(branching), exactly.

    Raises:
        UserError: more branches than tokens.
    """
    if data.branching > data.vocab_size:
        raise UserError(f"data.branching={data.branching}: at most data.vocab_size={data.vocab_size} successors exist")
    count, stream = (data.tokens, 1) if split == "train" else (data.heldout_tokens, 2)
    labels = np.random.default_rng(_CHAIN_SEED).permutation(data.vocab_size)
    moves = np.random.default_rng([_CHAIN_SEED, stream]).integers(1, data.branching + 1, size=count)
    return labels[np.cumsum(moves) % data.vocab_size]
