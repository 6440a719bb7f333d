"""A user's text files in two parts: no text in both, text files of any making, and any line read within bounds."""

from __future__ import annotations

import codecs
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE
from bitnet.config.data import BPETokenizer, TextData
from bitnet.data import prepared
from bitnet.data.prepared import cut_long, find, prepare
from bitnet.data.text_corpus import text_corpus
from bitnet.data.text_files import BLOCK, LONGEST_RUN, LONGEST_WORD, cut_runs, examine, find_files, has_long_run
from bitnet.data.tokenizer import decode, splits_as_gpt2, train_bpe

BPE = BPETokenizer(kind="bpe", vocab_size=300)
LINES = [f"line {i} of {i * i % 97} others\n" for i in range(300)]
HELD = [f"held-out line {i}\n" for i in range(30)]


def data(*paths: Path, heldout: tuple[Path, ...] = (), **more) -> TextData:
    return TextData(source="text", cache="cache", paths=[*map(str, paths)], heldout_paths=[*map(str, heldout)], **more)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def text() -> Path:
    path = Path("text.txt").resolve()
    path.write_text("".join(LINES))
    return path


def read(corpus, split, encode="lines") -> str:
    return "".join(corpus.read(split, encode))


# -------------------------------------------------------------------------------------------- text in both parts, or twice
def copied(text: Path) -> Path:
    Path("copy.txt").write_bytes(text.read_bytes())
    return Path("copy.txt")


def linked(text: Path) -> Path:
    Path("link.txt").symlink_to(text)
    return Path("link.txt")


def hard_linked(text: Path) -> Path:
    os.link(text, "hard.txt")
    return Path("hard.txt")


def with_other_line_ends(text: Path) -> Path:
    Path("dos.txt").write_bytes(codecs.BOM_UTF8 + text.read_bytes().replace(b"\n", b"\r\n"))
    return Path("dos.txt")


def in_a_folder(text: Path) -> Path:
    Path("inside").mkdir()
    Path("inside/copy.md").write_bytes(text.read_bytes())
    return Path("inside")


AGAIN = [copied, linked, hard_linked, with_other_line_ends, in_a_folder, lambda text: text]


@pytest.mark.parametrize("again", AGAIN)
def test_held_out_text_that_is_also_trained_on_is_refused(text, again):
    other = again(text)
    refused(data(text, heldout=(other,)))
    refused(data(text, other))  # the end of the one is within the other
    Path("held.txt").write_text("".join(HELD))
    refused(data(text, Path("held.txt"), heldout=(other, Path("held.txt"))))


def refused(own: TextData) -> None:
    for use in (prepare, find):
        with pytest.raises(UserError, match="once to train on and once held out; held-out text must not be trained on"):
            use(own, BPE)
    assert not Path("cache").exists()


def test_what_was_prepared_before_its_text_was_refused_is_used_and_told(text, monkeypatch):
    """Else a sweep that began with it could not be finished."""
    own = data(text, copied(text))
    said: list[str] = []
    with monkeypatch.context() as before:
        before.setattr(prepared, "check_fit", lambda corpus: None)
        first = prepare(own, BPE, say=said.append)
    said.clear()
    assert prepare(own, BPE, say=said.append).sha256 == first.sha256 == find(own, BPE).sha256
    (told,) = said
    assert told.startswith(f"note: data: {Path('copy.txt').resolve()} has the same text as {text}") and "used as it is" in told
    (first.folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="held-out text must not be trained on"):
        prepare(own, BPE, say=said.append)


@pytest.mark.parametrize("again", AGAIN)
def test_text_that_is_there_twice_in_one_part_is_told(text, again):
    Path("held.txt").write_text("".join(HELD))
    other = again(text)
    (note,) = [n for n in text_corpus(data(text, other, heldout=(Path("held.txt"),))).notes if n.startswith("note")]
    assert note.startswith(f"note: data.paths: 2 times the same text: {text}, ")
    assert text_corpus(data(text, heldout=(Path("held.txt"),))).notes == ()


def test_the_rest_of_a_text_may_be_held_out_where_its_other_copy_is_too(text):
    Path("held.txt").write_text("".join(HELD))
    corpus = text_corpus(data(text, Path("held.txt"), Path("held.txt"), heldout_fraction=0.2))
    assert read(corpus, "train").startswith("line 0") and read(corpus, "heldout").endswith("held-out line 29\n")


# ------------------------------------------------------------------------------------------------------ which files are read
def test_what_a_folder_gives_and_what_is_skipped_is_counted(text, capsys):
    for name in (
        "a/b.txt",
        "a/c.md",
        ".git/x.txt",
        "a/.ipynb_checkpoints/b.txt",
        "__pycache__/y.txt",
        "a/._b.txt",
        "d.csv",
        "e.TXT",
    ):
        Path("t", name).parent.mkdir(parents=True, exist_ok=True)
        Path("t", name).write_text(f"{name}\n" * 40)
    Path("t/out").symlink_to("a")
    Path("t/gone.txt").symlink_to("nowhere")
    os.mkfifo("t/pipe.txt")
    found = find_files(["t"], "data.paths")
    assert [p.relative_to(Path("t").resolve()).as_posix() for p in found.files] == ["a/b.txt", "a/c.md"]
    counts = "1 behind a link to a folder, 4 hidden or in a cache, 2 not *.txt or *.md, 2 not a file"
    assert found.summary() == f"2 files read, 9 skipped: {counts}"
    said: list[str] = []
    prepare(data(Path("t"), text), BPE, say=said.append)
    assert said[1].startswith("data: data.paths: 3 files read, 9 skipped: ")


def test_a_hidden_folder_that_is_named_is_read():
    Path(".notes").mkdir()
    Path(".notes/a.txt").write_text("".join(LINES))
    assert find_files([".notes"], "data.paths").summary() == "1 file read"


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: os.symlink("/dev/zero", p), lambda p: os.symlink("/dev/null", p)])
def test_pipes_and_devices_are_refused_at_once(make):
    make("thing.txt")
    for key in ("paths", "heldout_paths"):
        Path("t.txt").write_text("a b\n")
        paths = {"paths": ["t.txt"]} | {key: ["thing.txt"]}
        with pytest.raises(UserError, match=rf"data\.{key}: .*thing\.txt is a pipe or a device"):
            text_corpus(TextData(source="text", cache="c", **{k: [os.path.relpath(p) for p in v] for k, v in paths.items()}))


# ------------------------------------------------------------------------------------------------------ files of other making
UNIX = "".join(LINES)
MAKINGS = {
    "unix": UNIX.encode(),
    "dos": UNIX.replace("\n", "\r\n").encode(),
    "old mac": UNIX.replace("\n", "\r").encode(),
    "marked": codecs.BOM_UTF8 + UNIX.encode(),
    "marked, dos": codecs.BOM_UTF8 + UNIX.replace("\n", "\r\n").encode(),
    "mixed": UNIX.replace("others\n", "others\r", 150).encode(),
}


@pytest.mark.parametrize("encode", ["lines", "documents"])
def test_a_text_is_the_same_whatever_its_line_ends_and_its_mark(encode):
    train, heldout = {}, {}
    for making, content in MAKINGS.items():
        Path(f"{making}.txt").write_bytes(content)
        corpus = text_corpus(data(Path(f"{making}.txt"), heldout_fraction=0.2))
        train[making], heldout[making] = read(corpus, "train", encode), read(corpus, "heldout", encode)
        assert train[making] + heldout[making] == UNIX, making
        assert heldout[making].startswith("line "), making
        assert ("reading" in corpus.fingerprint) == (making not in {"unix", "dos"})
    assert train["unix"] == train["marked"] == train["old mac"]


def test_line_ends_are_found_where_blocks_meet():
    for end in ("\r\n", "\r", "\n"):
        text = "x x" * 9 + "x" * (BLOCK - 28) + end + "y" * (BLOCK - len(end)) + end + "z z" + end
        Path("t.txt").write_bytes(text.encode())
        for left in (1, BLOCK - 2, BLOCK - 1, BLOCK):
            corpus = text_corpus(data(Path("t.txt"), heldout_fraction=1 - left / len(text)))
            assert read(corpus, "train") + read(corpus, "heldout") == text.replace(end, "\n")
        assert examine(Path("t.txt")).text_sha256 == examine_text(text.replace(end, "\n"))


def examine_text(text: str) -> str:
    Path("plain.txt").write_text(text)
    return examine(Path("plain.txt")).sha256


def test_only_a_mark_at_the_start_is_left_out():
    Path("t.txt").write_bytes(codecs.BOM_UTF8 + "a b\n\ufeffc d\n".encode())
    corpus = text_corpus(data(Path("t.txt"), heldout_fraction=0.6))
    assert (read(corpus, "train"), read(corpus, "heldout")) == ("a b\n", "\ufeffc d\n")
    Path("t.txt").write_bytes(codecs.BOM_UTF8 + b" \n")
    with pytest.raises(UserError, match="is empty"):
        text_corpus(data(Path("t.txt")))


@pytest.mark.parametrize("encode", ["lines", "documents"])
def test_texts_without_these_faults_keep_their_folders_and_hashes(encode):
    """Those of the code that had the faults."""
    golden = json.loads((Path(__file__).parent / "text_goldens.json").read_text())
    Path("held.txt").write_text("".join(HELD))
    for name, content in golden_texts().items():
        Path(f"{name}.txt").write_bytes(content)
        for heldout in ((), (Path("held.txt"),)):
            own = data(Path(f"{name}.txt"), heldout=heldout, encode=encode, heldout_fraction=0.2)
            found = prepare(own, BPE, say=lambda _: None)
            assert [found.folder.name, found.sha256] == golden[f"{name} {encode} {len(heldout)}"]


def golden_texts() -> dict[str, bytes]:
    words = random.Random(0)
    prose = " ".join("".join(words.choices("abcdefgh", k=words.randint(1, 7))) for _ in range(60_000))
    lines = prose.replace(" abc", "\n abc").replace(" bca", "\n\n\n bca").replace(" c", "  c") + "\nthe end"
    texts = {"unix": UNIX, "dos": UNIX.replace("\n", "\r\n"), "lines": lines, "wide": UNIX.replace("o", "ö")}
    return {name: text.encode() for name, text in texts.items()}


# ------------------------------------------------------------------------------------------------------------- one long line
def test_a_line_is_cut_where_no_token_changes():
    words = random.Random(1)
    text = " ".join("".join(words.choices("abc'!9é\t", k=4)) for _ in range(2000)).replace(" a", "   a").replace(" b", " \n b")
    tokenizer = train_bpe(BPE, [text])
    assert splits_as_gpt2(tokenizer)
    pieces = list(cut_long(text, longest=50))
    assert len(pieces) > 100 and "".join(pieces) == text
    assert [i for piece in pieces for i in tokenizer.encode(piece).ids] == tokenizer.encode(text).ids


def test_a_word_without_end_is_cut_itself():
    text = "x" * (3 * LONGEST_WORD) + " y"
    pieces = list(cut_long(text, longest=10))
    assert "".join(pieces) == text and max(map(len, pieces)) == LONGEST_WORD + 10
    Path("t.txt").write_text(text)
    assert examine(Path("t.txt")).peculiar
    Path("t.txt").write_text("x " * LONGEST_WORD)
    assert not examine(Path("t.txt")).peculiar


ALIKE = {"letters": "abcdé", "digits": "0123", "signs": "-_=", "blanks": " \t"}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_bpe_learns_from_parts_of_a_run_without_end(kind):
    """From the whole it would learn in a time that grows with the square of the length."""
    run = "".join(random.Random(3).choices(ALIKE[kind], k=3 * LONGEST_RUN + 10))
    text = "some words\n" + run + "\nand others, " * LONGEST_RUN
    parts = list(cut_runs(text))
    assert "".join(parts) == text and len(parts) == 4
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert max(b - a for part in parts for _, (a, b) in splitter.pre_tokenize_str(part)) <= LONGEST_RUN + 1  # and a blank before

    learned = train_bpe(BPE, [text]).get_vocab()
    assert learned == train_bpe(BPE, parts).get_vocab()


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("before", [0, 5000, BLOCK - LONGEST_RUN // 2, BLOCK - 1])
def test_a_run_without_end_is_found_wherever_it_stands(kind, before):
    prose, other = "some words 12 -- and others\n" * (BLOCK // 20), "x" if kind == "digits" else "0"
    for length, found in ((LONGEST_RUN, True), (LONGEST_RUN - 1, False)):
        text = (prose + other)[-before - 1 :] + ALIKE[kind][0] * length + other + prose[:5000]
        assert has_long_run(text) == found
        Path("t.txt").write_text(text)
        assert examine(Path("t.txt")).peculiar == found
    assert list(cut_runs(prose)) == [prose]


@pytest.mark.parametrize("encode", ["lines", "documents"])
def test_a_text_of_one_line_is_split_between_two_words(encode):
    line = " ".join(f"word{i % 50}" for i in range(3000))
    Path("t.txt").write_text(line)
    corpus = text_corpus(data(Path("t.txt"), heldout_fraction=0.1))
    train, heldout = (read(corpus, split, encode) for split in ("train", "heldout"))
    assert train + heldout == line and heldout.startswith(" word") and 0.09 < len(heldout) / len(line) < 0.101
    found = prepare(data(Path("t.txt"), heldout_fraction=0.1, encode=encode), BPE, say=lambda _: None)
    assert decode(found.folder, np.concatenate([found.train, found.heldout])) == line
    assert found.manifest["counts"]["train"]["documents"] == 1


@pytest.mark.parametrize("content", ["word", "word\n", "many words come first\nlast\n\n \n"])
def test_what_cannot_be_split_is_told_before_any_work(content):
    Path("t.txt").write_text(content)
    with pytest.raises(UserError, match="this text can't be split: neither a line nor a word begins in its last part"):
        prepare(data(Path("t.txt"), heldout_fraction=0.001), BPE, say=lambda _: pytest.fail("work was begun"))
    assert not Path("cache").exists()


_PREPARE = """
import resource, sys
from bitnet.config.data import BPETokenizer, TextData
from bitnet.data.prepared import prepare
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = TextData(source="text", cache="cache", paths=[sys.argv[1]], encode=sys.argv[2])
prepare(data, BPETokenizer(kind="bpe", vocab_size=300))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(("between", "encode"), [(" ", "lines"), ("\u3002", "documents")])
def test_a_line_of_ten_megabytes_takes_bounded_memory(between, encode):
    words = random.Random(2)
    known = ["".join(words.choices("abcdefghijkl", k=words.randint(2, 9))) for _ in range(5000)]
    Path("t.txt").write_text(between.join(words.choices(known, k=1_500_000)), encoding="utf-8")
    own = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", _PREPARE, "t.txt", encode], env=own, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 80 * Path("t.txt").stat().st_size
