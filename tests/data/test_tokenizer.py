"""Both tokenizers: whole, exact and the same every time."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitnet.common.errors import UserError
from bitnet.common.paths import PACKAGE
from bitnet.config.data import BPETokenizer, GPT2Tokenizer
from bitnet.data import tokenizer
from bitnet.data.tokenizer import END_MARK, decode, end_mark_id, fingerprint, gpt2, train_bpe

GPT2_FILES = Path(__file__).parents[3] / "shared" / "data" / "gpt2"
needs_gpt2_files = pytest.mark.skipif(not GPT2_FILES.is_dir(), reason="GPT-2's files are not here")


def words(count, seed=0):
    rng = random.Random(seed)
    return [" ".join("".join(rng.choices("abcdef", k=4)) for _ in range(20)) + "\n" for _ in range(count)]


def bpe(vocab_size):
    return BPETokenizer(kind="bpe", vocab_size=vocab_size)


def test_a_trained_bpe_has_the_size_asked_for_and_is_the_same_twice():
    first, second = (train_bpe(bpe(600), words(300)) for _ in range(2))
    assert first.get_vocab_size() == 600
    assert first.to_str() == second.to_str()


def test_any_text_survives_a_trained_bpe(tmp_path):
    trained = train_bpe(bpe(300), words(100))
    trained.save(str(tmp_path / "tokenizer.json"))
    text = " Zürich, 東京 \t and\n\n  🙂\x07 "
    assert decode(tmp_path, trained.encode(text).ids) == text
    assert decode(tmp_path, [end_mark_id(trained)]) == END_MARK


def test_a_text_that_cannot_fill_the_vocabulary_is_refused_with_the_size_it_reached():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size=5000.*fills only \d{3} entries"):
        train_bpe(bpe(5000), words(2))


def test_ids_without_a_tokenizer_read_as_numbers(tmp_path):
    assert decode(tmp_path, [3, 1]) == "3 1"


# -------------------------------------------------------------------------------------------------------------- GPT-2
def local(path):
    return GPT2Tokenizer(kind="gpt2", path=str(path))


@needs_gpt2_files
def test_gpt2_encodes_as_published():
    loaded = gpt2(local(GPT2_FILES))
    assert loaded.get_vocab_size() == 50257
    assert loaded.encode("Hello world, this is GPT-2").ids == [15496, 995, 11, 428, 318, 402, 11571, 12, 17]
    assert end_mark_id(loaded) == 50256


@needs_gpt2_files
def test_gpt2_agrees_with_transformers():
    from transformers import GPT2TokenizerFast

    reference = GPT2TokenizerFast.from_pretrained(str(GPT2_FILES))
    loaded = gpt2(local(GPT2_FILES))
    for text in ("", " a  b\n\n c", "it's 2024 — naïve 🙂", "<unk> @-@ x<|endoftext|>y"):
        assert loaded.encode(text).ids == reference(text)["input_ids"]


def test_gpt2_loads_from_one_file_or_two_wherever_they_lie(tmp_path):
    trained = train_bpe(bpe(300), words(100))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    trained.save(str(tmp_path / "one" / "tokenizer.json"))
    trained.model.save(str(tmp_path / "two"))
    one, two = (gpt2(local(tmp_path / name)) for name in ("one", "two"))
    assert one.encode(words(1)[0]).ids == two.encode(words(1)[0]).ids == trained.encode(words(1)[0]).ids
    (tmp_path / "two").rename(tmp_path / "moved")
    (tmp_path / "two").mkdir()
    trained.model.save(str(tmp_path / "two"))
    assert fingerprint(local(tmp_path / "moved")) == fingerprint(local(tmp_path / "two"))
    assert fingerprint(local(tmp_path / "one")) != fingerprint(local(tmp_path / "two"))


def test_a_folder_without_its_files_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        gpt2(local(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"vocab\.json is missing"):
        gpt2(local(tmp_path))
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UserError, match=r"merges\.txt is missing"):
        gpt2(local(tmp_path))
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UserError, match="holds no vocabulary"):
        gpt2(local(tmp_path))
    (tmp_path / "vocab.json").write_text("{broken")
    with pytest.raises(UserError, match="can't be used") as error:
        gpt2(local(tmp_path))
    assert "\n" not in str(error.value)


def test_without_network_and_cache_one_sentence_says_what_to_set(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(tokenizer, "hub_unreachable", lambda: "ConnectError: no route")
    with pytest.raises(UserError, match=r"no route.*set tokenizer\.path") as error:
        gpt2(GPT2Tokenizer(kind="gpt2"))
    assert "\n" not in str(error.value)


def test_documents_need_an_end_mark(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(UserError, match=r"data\.encode=lines"):
        end_mark_id(gpt2(local(tmp_path)))


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_while_a_tokenizer_is_trained_is_heeded_at_once_and_leaves_nothing(tmp_path):
    """On this text the library merges pairs for half a minute, in one call."""
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    (tmp_path / "text.txt").write_text("\n".join("".join(rng.choices(letters, k=60)) for _ in range(100_000)))
    text = [f"data.paths=[{tmp_path}/text.txt]", f"data.cache={tmp_path}/cache", "tokenizer.vocab_size=60000"]
    command = [sys.executable, "-m", "bitnet.prepare", "data=text", "data.encode=documents", *text]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("data: preparing")
    time.sleep(3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (130, "interrupted; the same command starts over\n")
    assert time.monotonic() - began < 10
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []
