"""The embedded corpus: docstrings and documentation topics of Python and of the installed dependencies."""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitnet.config.data import PydocsData
from bitnet.data.corpus import Corpus, Encode, Split, nonempty_lines

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


def pydocs_corpus(data: PydocsData) -> Corpus:
    documents = functools.cache(lambda: read_documentation(data.max_bytes))

    def read(split: Split, encode: Encode) -> Iterator[str]:
        for text in documents():
            if (_split_position(text) < data.heldout_fraction) == (split == "heldout"):
                yield from nonempty_lines(text + "\n") if encode == "lines" else (text,)

    installed = {name: distribution.version for name, distribution in _installed()}
    return Corpus("pydocs", {"python": platform.python_version(), "distributions": installed}, read)


def read_documentation(max_bytes: int) -> list[str]:
    """Docstrings and documentation topics of the standard library and of the installed `DISTRIBUTIONS`.

    Files are parsed, never imported. No document and no longer paragraph occurs twice, in any split. One library gives
    more than `SHARE` of `max_bytes` (UTF-8) only when all others are used up. Documents come in the order of their
    hashes, so that every stretch of the corpus mixes all libraries.
    """
    chosen: list[str] = []
    seen: set[int] = set()
    used: dict[str, int] = {}  # bytes, by library
    waiting = sorted(source_files(), key=lambda item: _digest(f"{item[0]}/{item[1]}"))
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


def source_files() -> Iterator[tuple[str, str, Path]]:
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
