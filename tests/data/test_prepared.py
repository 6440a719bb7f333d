"""Token files are made once, checked, and cut into batches that depend on nothing but seed and step."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE
from bitnet.config.data import BPETokenizer, GPT2Tokenizer, NoTokenizer, SyntheticData, TextData
from bitnet.data import prepared as prepared_data
from bitnet.data.batches import Batches
from bitnet.data.prepared import cut_long, prepare
from bitnet.data.tokenizer import decode, end_mark_id, train_bpe

SHARED = Path(__file__).parents[3] / "shared" / "data"
BPE = BPETokenizer(kind="bpe", vocab_size=300)


@pytest.fixture
def text(tmp_path):
    rng = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(" ".join("".join(rng.choices("abcdef", k=4)) for _ in range(12)) for _ in range(300)))
    return path


def text_data(tmp_path, *paths, **more):
    return TextData(source="text", cache=str(tmp_path / "cache"), paths=[str(p) for p in paths], **more)


def synthetic(tmp_path, **more):
    sizes = {"vocab_size": 64, "tokens": 5000, "heldout_tokens": 500, "branching": 4} | more
    return SyntheticData(source="synthetic", cache=str(tmp_path / "cache"), **sizes)


def folders(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").iterdir() if p.is_dir())


# ---------------------------------------------------------------------------------------------------------- preparing
def test_prepared_once_and_then_found(tmp_path, text):
    said = []
    first = prepare(text_data(tmp_path, text), BPE, say=said.append)
    assert len(said) == 2 and f"{len(first.train):,} training" in said[1]
    again = prepare(text_data(tmp_path, text, order="random", at_end="repeat"), BPE, say=said.append)
    assert len(said) == 2
    assert (again.folder, again.sha256) == (first.folder, first.sha256)
    assert again.train.dtype == np.uint16 and not again.train.flags.writeable
    lines = text.read_text()
    assert decode(first.folder, np.concatenate([first.train, first.heldout])) == lines


def test_a_text_in_token_form_is_told(tmp_path, text):
    said = []
    text.write_text(text.read_text() + "a <unk> word\n" * 3)
    prepare(text_data(tmp_path, text), BPE, say=said.append)
    assert not any("<unk>" in line for line in said), "a text about such texts"
    text.write_text(text.read_text() + "a <unk> word\n" * 30)
    prepare(text_data(tmp_path, text), BPE, say=said.append)
    assert "contains '<unk>' 33 times" in said[-1]


def test_the_manifest_counts_what_is_there(tmp_path, text):
    prepared = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest == prepared.manifest
    counts = manifest["counts"]
    assert counts["train"]["tokens"] == len(prepared.train) and counts["heldout"]["tokens"] == len(prepared.heldout)
    assert counts["train"]["distinct_tokens"] == len(np.unique(prepared.train))
    assert counts["train"]["documents"] + counts["heldout"]["documents"] == 300
    assert counts["train"]["bytes"] + counts["heldout"]["bytes"] == text.stat().st_size
    shares = np.unique(prepared.train, return_counts=True)[1] / len(prepared.train)
    assert prepared.unigram_entropy == pytest.approx(-(shares * np.log(shares)).sum())
    assert prepared.vocab_size == manifest["vocab_size"] == 300


def test_other_content_is_other_data(tmp_path, text):
    base = text_data(tmp_path, text)
    hashes = {prepare(base, BPE, say=lambda _: None).sha256}
    hashes.add(prepare(base, BPETokenizer(kind="bpe", vocab_size=310), say=lambda _: None).sha256)
    hashes.add(prepare(text_data(tmp_path, text, heldout_fraction=0.5), BPE, say=lambda _: None).sha256)
    text.write_text(text.read_text() + "\none more line")
    hashes.add(prepare(base, BPE, say=lambda _: None).sha256)
    assert len(hashes) == 4 == len(folders(tmp_path))


def test_documents_have_one_end_mark_between_them(tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_text("the words <|endoftext|> are text here\n")
    heldout = tmp_path / "heldout.txt"
    heldout.write_text("abcd")
    data = text_data(tmp_path, text, other, text, encode="documents", heldout_paths=[str(heldout)])
    prepared = prepare(data, BPE, say=lambda _: None)
    mark = end_mark_id(train_bpe(BPE, [text.read_text()]))
    assert (prepared.train == mark).sum() == 2
    assert mark not in (prepared.train[0], prepared.train[-1])
    assert prepared.manifest["counts"]["train"]["documents"] == 3
    assert decode(prepared.folder, prepared.train).split("<|endoftext|>")[1] == "the words "


def test_a_long_document_is_cut_where_it_changes_no_token(text):
    whole = text.read_text().replace("\nb", "\n\n\n\nb").replace("\nc", " \n c") + "\n"
    tokenizer = train_bpe(BPE, [whole])
    pieces = list(cut_long(whole, longest=50))
    assert len(pieces) > 10 and "".join(pieces) == whole
    assert [i for piece in pieces for i in tokenizer.encode(piece).ids] == tokenizer.encode(whole).ids


def test_long_documents_are_written_in_chunks_to_the_same_tokens(tmp_path, text, monkeypatch):
    (tmp_path / "other.txt").write_text(text.read_text()[::-1])
    data = text_data(tmp_path, text, tmp_path / "other.txt", encode="documents")
    at_once = prepare(data, BPE, say=lambda _: None)
    monkeypatch.setattr(prepared_data, "CHUNK_CHARACTERS", 200)
    in_chunks = prepare(data.model_copy(update={"cache": str(tmp_path / "other")}), BPE, say=lambda _: None)
    assert in_chunks.folder != at_once.folder and in_chunks.sha256 == at_once.sha256


def test_synthetic_tokens_need_no_tokenizer(tmp_path):
    prepared = prepare(synthetic(tmp_path), NoTokenizer(kind="none"), say=lambda _: None)
    assert (len(prepared.train), len(prepared.heldout), prepared.vocab_size) == (5000, 500, 64)
    assert not (prepared.folder / "tokenizer.json").exists()


def test_a_large_vocabulary_gets_wide_tokens(tmp_path):
    none = NoTokenizer(kind="none")
    narrow, wide = (prepare(synthetic(tmp_path, vocab_size=v), none, say=lambda _: None) for v in (65_536, 70_000))
    assert (narrow.train.dtype, wide.train.dtype) == (np.uint16, np.uint32)
    assert wide.train.max() > 65_535


@pytest.mark.skipif(not SHARED.is_dir(), reason="WikiText-2 and GPT-2's files are not here")
@pytest.mark.parametrize(("encode", "train", "heldout"), [("documents", 295_877, 258_659), ("lines", 292_943, 256_061)])
def test_wikitext_has_the_published_counts(tmp_path, encode, train, heldout):
    """Whole files; and without their empty lines, which have two tokens each (a blank and a newline)."""
    folder = SHARED / "wikitext-2"
    data = text_data(tmp_path, folder / "test.txt", heldout_paths=[str(folder / "validation.txt")], encode=encode)
    prepared = prepare(data, GPT2Tokenizer(kind="gpt2", path=str(SHARED / "gpt2")), say=lambda _: None)
    counts = prepared.manifest["counts"]
    assert (counts["train"]["tokens"], counts["heldout"]["tokens"]) == (train, heldout)
    assert (counts["train"]["distinct_tokens"], counts["heldout"]["distinct_tokens"]) == (14_233, 13_871)


@pytest.mark.parametrize("name", ["train.bin", "heldout.bin", "tokenizer.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["changed", "shortened", "gone"])
def test_damaged_data_is_noticed_and_made_again(tmp_path, text, name, damage):
    first = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    tokens = np.array(first.train)
    path = first.folder / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-3] + b"\1\2\3" if damage == "changed" else content[:-2])
    said = []
    again = prepare(text_data(tmp_path, text), BPE, say=said.append)
    assert "does not match its manifest" in said[0]
    assert np.array_equal(again.train, tokens) and again.sha256 == first.sha256
    assert prepare(text_data(tmp_path, text), BPE, say=said.append) and len(said) == 3


def test_a_hash_that_is_not_that_of_the_files_is_noticed(tmp_path, text):
    prepared = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    path = prepared.folder / "manifest.json"
    path.write_text(path.read_text().replace(prepared.sha256, "0" * 64))
    assert prepare(text_data(tmp_path, text), BPE, say=lambda _: None).sha256 == prepared.sha256


def change_manifest(folder, change, *, old):
    """Change a manifest as an editor would; `old`: one of before manifests had a hash of their own."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if old:
        del manifest["manifest_sha256"]
    change(manifest)
    path.write_text(json.dumps(manifest, indent=2))


@pytest.mark.parametrize("old", [False, True], ids=["today", "without a hash"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(dtype="uint32"),
        lambda m: m.update(dtype="int16"),
        lambda m: m.update(unigram_entropy=m["unigram_entropy"] + 0.1),
        lambda m: m["counts"]["train"].update(tokens=m["counts"]["train"]["tokens"] - 1),
        lambda m: m["files"].pop("heldout.bin"),
    ],
)
def test_a_manifest_that_was_changed_is_noticed(tmp_path, text, change, old):
    """A changed dtype or entropy was taken as it stood: the run went on with other losses."""
    first = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    change_manifest(first.folder, change, old=old)
    said = []
    again = prepare(text_data(tmp_path, text), BPE, say=said.append)
    assert "does not match its manifest" in said[0]
    assert (again.sha256, again.unigram_entropy) == (first.sha256, first.unigram_entropy)
    assert again.manifest["dtype"] == "uint16"


def test_the_whole_manifest_is_hashed_and_one_of_before_is_still_good(tmp_path, text):
    first = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    change_manifest(first.folder, lambda m: None, old=True)
    said = []
    assert prepare(text_data(tmp_path, text), BPE, say=said.append).sha256 == first.sha256 and said == []
    first = prepare(text_data(tmp_path / "b", text), BPE, say=lambda _: None)
    change_manifest(first.folder, lambda m: m["versions"].update(numpy="0"), old=False)
    prepare(text_data(tmp_path / "b", text), BPE, say=said.append)
    assert "manifest.json has changed" in said[0]


PREPARE = "print(data.prepare(source, bpe, say=lambda line: print(line, flush=True)).sha256)"


def python(code, tmp_path, text):
    setup = f"""
import os, signal, time
from bitnet.data import prepared as data
from bitnet.config.data import BPETokenizer, TextData
source = TextData(source="text", cache={str(tmp_path / "cache")!r}, paths=[{str(text)!r}])
bpe = BPETokenizer(kind="bpe", vocab_size=300)
"""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen([sys.executable, "-c", setup + code], stdout=subprocess.PIPE, text=True, env=environment)


def test_many_first_users_build_once_and_outlive_a_builder_that_is_killed(tmp_path, text):
    first = python(f"data.sha256 = lambda *_: time.sleep(600)\n{PREPARE}", tmp_path, text)
    while first.poll() is None and not list((tmp_path / "cache").glob("*.building-*")):
        time.sleep(0.01)
    users = [python(PREPARE, tmp_path, text) for _ in range(15)]
    waiting = users[0].stdout.readline()
    first.kill()
    outputs = [user.communicate()[0] for user in users]
    outputs[0] = waiting + outputs[0]
    assert "waiting for another process" in waiting and first.wait() == -signal.SIGKILL
    assert [user.returncode for user in users] == [0] * 15
    assert sum("preparing" in line for output in outputs for line in output.splitlines()) == 1
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert len(folders(tmp_path)) == 1 and "building" not in folders(tmp_path)[0]


def test_a_killed_builder_leaves_nothing_in_the_way(tmp_path, text):
    kill = "data.sha256 = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\ndata.prepare(source, bpe)"
    assert python(kill, tmp_path, text).wait() == -signal.SIGKILL
    assert ".building-" in folders(tmp_path)[0]
    prepared = prepare(text_data(tmp_path, text), BPE, say=lambda _: None)
    assert folders(tmp_path) == [prepared.folder.name]


def test_a_failed_build_leaves_nothing(tmp_path, text):
    with pytest.raises(UserError, match="fills only"):
        prepare(text_data(tmp_path, text), BPETokenizer(kind="bpe", vocab_size=60_000), say=lambda _: None)
    assert folders(tmp_path) == []


def test_a_split_without_text_is_refused(tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("a single line of text, and a single line of text\n")
    with pytest.raises(UserError, match=r"heldout.*data\.heldout_paths"):
        prepare(text_data(tmp_path, path), BPETokenizer(kind="bpe", vocab_size=258), say=lambda _: None)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, text):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"data\.cache=.*can't be written"):
        prepare(text_data(tmp_path, text), BPE, say=lambda _: None)


# ------------------------------------------------------------------------------------------------------------ batches
def batches(count=101, *, batch_size=2, seq_len=10, order="sequential", at_end="repeat", seed=0):
    tokens = np.arange(count, dtype=np.uint16)
    return Batches(tokens, batch_size=batch_size, seq_len=seq_len, order=order, at_end=at_end, seed=seed)


def test_sequential_batches_run_through_the_tokens():
    dealt = batches()
    assert dealt.at(1).dtype == np.int64 and dealt.at(1).shape == (2, 11)
    assert dealt.at(1).tolist() == [list(range(0, 11)), list(range(10, 21))]
    assert dealt.at(5).tolist() == [list(range(80, 91)), list(range(90, 101))]  # the last token is a target
    assert dealt.at(6).tolist() == dealt.at(1).tolist()
    assert dealt.steps_per_pass == 5 and dealt.last_step is None


@pytest.mark.parametrize(("count", "steps"), [(100, 4), (101, 5), (120, 5), (121, 6)])
def test_a_pass_ends_with_its_last_whole_batch(count, steps):
    once = batches(count, at_end="stop")
    assert once.last_step == once.steps_per_pass == steps
    assert once.at(steps).max() == 20 * steps
    with pytest.raises(IndexError, match=f"step {steps + 1}: .*to {steps}"):
        once.at(steps + 1)
    with pytest.raises(IndexError):
        once.at(0)


def starts(dealt, number):
    per_pass = dealt.steps_per_pass
    return [int(row[0]) for step in range(number * per_pass + 1, (number + 1) * per_pass + 1) for row in dealt.at(step)]


def test_random_order_deals_every_window_once_a_pass_and_each_pass_afresh():
    dealt = batches(1001, order="random")
    first, second = starts(dealt, 0), starts(dealt, 1)
    assert sorted(first) == sorted(second) == list(range(0, 1000, 10))
    assert first != second and first != sorted(first)
    assert starts(batches(1001, order="random", seed=1), 0) != first


def test_a_batch_never_mixes_passes():
    dealt = batches(111, order="random", batch_size=4)  # 11 windows: two batches of four, three windows left over
    assert dealt.steps_per_pass == 2
    for number in range(5):
        assert len(set(starts(dealt, number))) == 8


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_a_batch_is_a_function_of_seed_and_step_only(order):
    forwards, backwards = batches(order=order, seed=3), batches(order=order, seed=3)
    steps = range(1, 18)
    ahead = {step: forwards.at(step) for step in steps}
    for step in reversed(steps):
        assert np.array_equal(backwards.at(step), ahead[step])


def test_the_random_order_is_the_same_on_every_machine():
    assert starts(batches(order="random", seed=7), 0) == [80, 40, 30, 60, 20, 10, 0, 50, 90, 70]


def test_too_little_data_is_refused_with_what_there_is():
    assert batches(11, batch_size=1).steps_per_pass == 1
    with pytest.raises(UserError, match="seq_len=10 needs 11 tokens, but the data has 10"):
        batches(10, batch_size=1)
    with pytest.raises(UserError, match="batch_size=2 sequences of seq_len=10 need 21 tokens, but the data has 20"):
        batches(20)
