"""What a user's text becomes before it is tokenised, and what is refused."""

import itertools
import math

import numpy as np
import pytest
from huggingface_hub.utils import get_session

from bitnet.common.errors import UserError
from bitnet.config.data import HubData, PydocsData, SyntheticData, TextData
from bitnet.data import hub, pydocs, text_files
from bitnet.data.corpus import nonempty_lines
from bitnet.data.pydocs import documents_of, read_documentation
from bitnet.data.sources import open_corpus
from bitnet.data.synthetic import synthetic_tokens

BUDGET = 150_000


def text_data(*paths, heldout=(), **more):
    return TextData(source="text", cache="unused", paths=[*map(str, paths)], heldout_paths=[*map(str, heldout)], **more)


def pydocs_data(**more):
    return PydocsData(source="pydocs", cache="unused", max_bytes=BUDGET, **more)


def hub_data(**more):
    return HubData(source="hub", cache="unused", dataset="owner/words", **more)


# ------------------------------------------------------------------------------------------------------------- pydocs
@pytest.fixture(scope="module")
def documents():
    return read_documentation(BUDGET)


def test_pydocs_fills_its_budget_with_prose_in_a_fixed_order(documents):
    size = sum(len(text.encode()) for text in documents)
    assert 0.9 * BUDGET < size <= BUDGET
    assert all(len(text.split()) >= 2 for text in documents)
    assert not any(line.startswith(">>>") for text in documents for line in text.split("\n\n"))
    assert documents == read_documentation(BUDGET)


def test_pydocs_repeats_neither_documents_nor_paragraphs(documents):
    assert len(set(documents)) == len(documents)
    paragraphs = [p.strip() for text in documents for p in text.split("\n\n") if len(p) >= pydocs.MIN_PARAGRAPH]
    assert len(set(paragraphs)) == len(paragraphs)


def test_pydocs_holds_documents_out_by_their_own_hash():
    few, many = (open_corpus(pydocs_data(heldout_fraction=f)) for f in (0.1, 0.3))
    train, heldout = set(few.read("train", "documents")), set(few.read("heldout", "documents"))
    assert not train & heldout
    assert 0.05 < len(heldout) / len(train | heldout) < 0.2
    assert heldout < set(many.read("heldout", "documents"))


def library(folder, name, count):
    for i in range(count):
        path = folder / f"{name}{i}.py"
        path.write_text(f'"""Module number {i} of {name} says something new."""')
        yield name, path.name, path


def test_one_library_does_not_fill_the_budget_while_others_wait(tmp_path, monkeypatch):
    files = [f for i in range(8) for f in library(tmp_path, f"small{i}", 3)] + list(library(tmp_path, "large", 200))
    monkeypatch.setattr(pydocs, "source_files", lambda: iter(files))
    chosen = pydocs.read_documentation(2000)
    assert sum("small" in text for text in chosen) == 24
    assert sum(map(len, chosen)) > 1900  # what the small ones leave over goes to the large one


def test_pydocs_mixes_the_documents_of_all_files(tmp_path, monkeypatch):
    path = tmp_path / "many.py"
    path.write_text("\n".join(f'def f{i}():\n    """Function number {i:02} is here."""' for i in range(20)))
    monkeypatch.setattr(pydocs, "source_files", lambda: iter([("one", "many.py", path)]))
    chosen = pydocs.read_documentation(10_000)
    assert len(chosen) == 20 and chosen != sorted(chosen)


def test_documentation_is_read_without_running_the_file(tmp_path):
    (tmp_path / "module.py").write_text(
        'raise SystemExit\n"""not a docstring"""\n'
        'if True:\n    def f():\n        """First line.\n\n        Second."""\n'
        'else:\n    def f():\n        """Otherwise."""\n'
        'class C:\n    """Of a class."""\n    async def g(self):\n        """Of a method."""\n        x = """no"""\n'
    )
    found = documents_of(tmp_path / "module.py")
    assert found == ["First line.\n\nSecond.", "Otherwise.", "Of a class.", "Of a method."]
    (tmp_path / "broken.py").write_text('"""fine""" def\n')
    assert documents_of(tmp_path / "broken.py") == []


def test_pydoc_topics_are_documents(tmp_path):
    (tmp_path / "pydoc_data").mkdir()
    topics = tmp_path / "pydoc_data" / "topics.py"
    topics.write_text("topics = {'one': 'One topic\\n***\\n', 'two': 'Another ' 'topic\\n***\\n'}\n")
    assert documents_of(topics) == ["One topic\n***\n", "Another topic\n***\n"]


# --------------------------------------------------------------------------------------------------------------- text
def test_lines_keep_their_blanks_and_newline_and_empty_ones_go():
    assert list(nonempty_lines(" = A = \n \n\n  b\u2028c \nlast")) == [" = A = \n", "  b\u2028c \n", "last"]


def test_folders_give_txt_and_md_sorted(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.txt", "a.md", "sub/c.txt", "d.csv"):
        (tmp_path / name).write_text(f"{name}\r\n\r\nend\n", newline="")
    held = tmp_path / "sub" / "c.txt"
    opened = open_corpus(text_data(tmp_path / "a.md", tmp_path / "b.txt", heldout=[held]))
    assert list(opened.read("train", "documents")) == ["a.md\n\nend\n", "b.txt\n\nend\n"]
    assert list(opened.read("train", "lines")) == ["a.md\n", "end\n", "b.txt\n", "end\n"]
    assert list(opened.read("heldout", "lines")) == ["sub/c.txt\n", "end\n"]
    assert [p.name for p in text_files.find_files([str(tmp_path)], "data.paths").files] == ["a.md", "b.txt", "c.txt"]


@pytest.mark.parametrize("encode", ["lines", "documents"])
def test_without_heldout_files_the_end_of_the_text_is_held_out(tmp_path, encode):
    lines = [f"line {i}\n" for i in range(100)]
    (tmp_path / "a.txt").write_text("".join(lines[:70]))
    (tmp_path / "b.txt").write_text("".join(lines[70:]))
    opened = open_corpus(text_data(tmp_path, heldout_fraction=0.2))
    train, heldout = ("".join(opened.read(split, encode)) for split in ("train", "heldout"))
    assert train + heldout == "".join(lines)
    assert train.endswith("\n") and 15 <= heldout.count("\n") <= 20


def test_the_fingerprint_follows_the_content_only(tmp_path):
    for folder, word in (("one", "same\nend\n"), ("two", "same\nend\n"), ("three", "other\nend\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.txt").write_text(word)
    one, two, three = (open_corpus(text_data(tmp_path / f, heldout_fraction=0.5)).fingerprint for f in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"a\0b", "is not text"),
        (b"caf\xe9 noir", "not UTF-8"),
        (b"\xc3", "not UTF-8"),
    ],
)
def test_a_file_that_is_not_text_is_named(tmp_path, content, words):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        open_corpus(text_data(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_paths_that_give_nothing_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.paths=\[\].*needs files"):
        open_corpus(text_data())
    with pytest.raises(UserError, match=r"no file or folder .*gone\.txt"):
        open_corpus(text_data(tmp_path / "gone.txt"))
    with pytest.raises(UserError, match=r"holds no \*\.txt"):
        open_corpus(text_data(tmp_path))


def test_heldout_text_may_not_be_trained_on(tmp_path):
    (tmp_path / "t.txt").write_text("text")
    assert "must not be trained on" in open_corpus(text_data(tmp_path / "t.txt", heldout=[tmp_path])).problem
    (tmp_path / "held.md").write_text("another text")
    assert open_corpus(text_data(tmp_path / "t.txt", heldout=[tmp_path / "held.md"])).problem is None


# ---------------------------------------------------------------------------------------------------------------- hub
class Rows(dict):
    """As much of a `datasets.Dataset` as is used: its length, its column names, and slices of rows."""

    def __init__(self, texts):
        super().__init__(text=texts)
        self.column_names = ["text"]

    def __len__(self):
        return len(self["text"])

    def __getitem__(self, key):
        return {"text": self["text"][key]} if isinstance(key, slice) else super().__getitem__(key)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(type(get_session()), "request", refuse)


def test_without_network_a_cached_dataset_is_used(no_network, monkeypatch):
    import datasets

    seen = []

    def load(name, subset):
        seen.append((name, subset, datasets.config.HF_HUB_OFFLINE))
        return {"train": Rows([" = A = \n", "", " b \n"]), "validation": Rows(["c"])}

    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", load)
    opened = open_corpus(hub_data(subset="small"))
    assert seen == []  # opening asks no one: prepared data is found by its name alone
    assert list(opened.read("train", "lines")) == [" = A = \n", " b \n"]
    assert list(opened.read("heldout", "documents")) == ["c"]
    assert seen == [("owner/words", "small", True)]
    assert before == datasets.config.HF_HUB_OFFLINE


def test_without_network_and_cache_one_sentence_says_what_to_do(no_network, monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        next(open_corpus(hub_data()).read("train", "lines"))
    message = str(error.value)
    assert "\n" not in message
    for words in ("owner/words", "no route", "data=pydocs", "data=text data.paths=", "python -m bitnet.prepare"):
        assert words in message


def test_the_probe_asks_once_and_briefly(monkeypatch):
    calls = []

    def refuse(*_, **options):
        calls.append(options["timeout"])
        raise TimeoutError("slow")

    monkeypatch.setattr(type(get_session()), "request", refuse)
    assert hub.hub_unreachable() == "TimeoutError: slow"
    assert len(calls) == 1 and calls[0] <= 10


def test_a_missing_split_or_column_is_named(monkeypatch):
    import datasets

    monkeypatch.setattr(hub, "hub_unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": Rows(["a"]), "test": Rows(["b"])})
    with pytest.raises(UserError, match=r"data\.heldout_split=validation.*train, test"):
        hub.load_dataset(hub_data())
    with pytest.raises(UserError, match=r"data\.column=body.*'text'"):
        hub.load_dataset(hub_data(heldout_split="test", column="body"))


# ---------------------------------------------------------------------------------------------------------- synthetic
def synthetic_data(vocab_size, branching, tokens=200_000):
    sizes = {"vocab_size": vocab_size, "branching": branching, "tokens": tokens, "heldout_tokens": 1000}
    return SyntheticData(source="synthetic", cache="unused", **sizes)


@pytest.mark.parametrize(("vocab_size", "branching"), [(50, 1), (50, 4), (64, 16), (7, 7)])
def test_the_synthetic_chain_has_the_entropy_it_promises(vocab_size, branching):
    tokens = synthetic_tokens(synthetic_data(vocab_size, branching), "train")
    pairs = np.zeros((vocab_size, vocab_size))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    assert ((pairs > 0).sum(axis=1) == branching).all()
    joint = pairs[pairs > 0] / pairs.sum()
    unigrams = pairs.sum(axis=1) / pairs.sum()
    unigram_entropy = -(unigrams * np.log(unigrams)).sum()
    assert unigram_entropy == pytest.approx(math.log(vocab_size), abs=0.01)
    assert -(joint * np.log(joint)).sum() - unigram_entropy == pytest.approx(math.log(branching), abs=0.01)


def test_the_synthetic_splits_share_the_chain_and_nothing_else():
    data = synthetic_data(50, 3)
    train, heldout = (synthetic_tokens(data, split) for split in ("train", "heldout"))
    assert (len(train), len(heldout)) == (200_000, 1000)
    assert not np.array_equal(train[:1000], heldout)
    assert set(itertools.pairwise(heldout)) <= set(itertools.pairwise(train))
    assert np.array_equal(train, synthetic_tokens(data, "train"))


def test_more_branches_than_tokens_are_refused():
    with pytest.raises(UserError, match=r"data\.branching=9.*data\.vocab_size=8"):
        synthetic_tokens(synthetic_data(8, 9), "train")
