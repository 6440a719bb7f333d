"""Checkpoints: the same bits back, nothing damaged or foreign accepted, nothing lost when a write fails."""

from __future__ import annotations

import errno
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bitnet.common import files
from bitnet.common.paths import PACKAGE
from bitnet.runs import folders
from bitnet.training import checkpoint
from bitnet.training.checkpoint import newest, read, save


def tensors(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "model/w": torch.randn(5, 3, generator=g),
        "model/half": torch.randn(4, generator=g).to(torch.bfloat16),
        "model/transposed": torch.randn(5, 3, generator=g).T,
        "optimizer/0/step": torch.tensor(7.0),
        "probe/codes": torch.tensor([-1, 0, 1], dtype=torch.int8),
        "rng/cpu": torch.get_rng_state(),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0]),
    }


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.ndim else bits(tensor[None])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Checkpoints of steps 10 and 20."""
    return save(tmp_path, 10, tensors(1), {"id": "a"}, keep=5), save(tmp_path, 20, tensors(2), {"id": "a"}, keep=5)


def test_the_same_bits_come_back(tmp_path, said):
    path = save(tmp_path, 12, tensors(), {"id": "abc", "nested": {"x": [1, None, 0.1]}}, keep=2)
    back = newest(tmp_path, said.append)
    assert back.path == path and said == []
    assert back.facts == {"id": "abc", "nested": {"x": [1, None, 0.1]}, "step": 12}
    assert back.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert back.tensors[name].dtype == tensor.dtype and back.tensors[name].shape == tensor.shape
        assert bits(back.tensors[name]) == bits(tensor), name


def test_tensors_below_a_prefix(tmp_path):
    back = read(save(tmp_path, 1, {"model/a": torch.ones(1), "modelled/b": torch.ones(1)}, {}, keep=1))
    assert list(back.below("model")) == ["a"]


def test_equal_content_has_an_equal_name(tmp_path):
    first = save(tmp_path / "a", 3, tensors(), {"id": "x", "seed": 1}, keep=1)
    again = save(tmp_path / "b", 3, dict(reversed(tensors().items())), {"seed": 1, "id": "x"}, keep=1)
    other = save(tmp_path / "c", 3, tensors(), {"id": "y", "seed": 1}, keep=1)
    assert first.name == again.name != other.name
    assert first.read_bytes() == again.read_bytes()


def test_no_checkpoint_is_none(tmp_path, said):
    assert newest(tmp_path, said.append) is None
    assert newest(tmp_path / "missing", said.append) is None
    assert said == []


# --------------------------------------------------------------------------------------------------------------- damage
def set_aside(path: Path) -> Path:
    return path.with_name(path.name + ".damaged")


def assert_falls_back(tmp_path: Path, two: tuple[Path, Path], said: list[str]) -> None:
    back = newest(tmp_path, said.append)
    assert back.path == two[0] and back.facts["step"] == 10
    assert len(said) == 1 and two[1].name in said[0] and "damaged" in said[0]
    assert not two[1].exists() and set_aside(two[1]).exists()


def test_a_truncated_file_falls_back(tmp_path, two):
    whole = two[1].read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(whole), 499), len(whole) - 1]:
        two[1].write_bytes(whole[:length])
        assert_falls_back(tmp_path, two, [])


def test_a_flipped_bit_falls_back(tmp_path, two):
    whole = two[1].read_bytes()
    for place in [0, 8, 20, len(whole) // 2, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 4
        two[1].write_bytes(damaged)
        assert_falls_back(tmp_path, two, [])


def test_bytes_at_the_end_fall_back(tmp_path, two, said):
    two[1].write_bytes(two[1].read_bytes() + b"\0")
    assert_falls_back(tmp_path, two, said)


def test_a_file_under_another_checkpoints_name_falls_back(tmp_path, two, said):
    two[1].write_bytes(two[0].read_bytes())
    assert_falls_back(tmp_path, two, said)


def test_a_step_in_the_name_that_is_not_the_files_falls_back(tmp_path, two, said):
    """A good file, renamed to look newer than it is, would make the run go on from the wrong step."""
    renamed = two[1].rename(tmp_path / two[1].name.replace("00000020", "00000030"))
    assert_falls_back(tmp_path, (two[0], renamed), said)


def test_a_folder_in_a_checkpoints_place_falls_back(tmp_path, two, said):
    two[1].unlink()
    two[1].mkdir()
    assert_falls_back(tmp_path, two, said)


def test_a_missing_file_is_no_damage(tmp_path, two, said):
    two[1].unlink()
    assert newest(tmp_path, said.append).path == two[0] and said == []


def test_files_of_other_names_are_not_looked_at(tmp_path, two, said):
    for name in ("step-00000030.safetensors", "step-00000030-XYZ.safetensors", "step-00000030.partial", "notes.txt"):
        (tmp_path / name).write_bytes(b"anything")
    assert newest(tmp_path, said.append).path == two[1] and said == []


def test_all_damaged_is_none_and_says_so_for_each_and_what_follows(tmp_path, two, said):
    for path in two:
        path.write_bytes(b"")
    assert newest(tmp_path, said.append) is None
    assert [path.name in line for path, line in zip(reversed(two), said[:2], strict=True)] == [True, True]
    assert said[2:] == ["no checkpoint left that can be used: starting from the first step"]
    assert newest(tmp_path, said.append) is None and len(said) == 3  # told once


def test_a_damaged_file_is_kept_as_it_was(tmp_path, two, said):
    two[1].write_bytes(b"half a file")
    newest(tmp_path, said.append)
    assert set_aside(two[1]).read_bytes() == b"half a file"
    assert newest(tmp_path, said.append).path == two[0] and len(said) == 1


class SideEffect:
    """Pickles to a call that makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self):
        return (Path.touch, (self.made,))


@pytest.mark.parametrize("form", ["pickle", "torch.save"])
def test_a_pickle_is_refused_and_never_run(form, tmp_path, two, said):
    """Under a name that fits its hash, so that only the file format stands between it and the process."""
    made = tmp_path / "made"
    buffer = io.BytesIO()
    pickle.dump(SideEffect(made), buffer) if form == "pickle" else torch.save({"w": SideEffect(made)}, buffer)
    two[1].write_bytes(buffer.getvalue())
    fitting = two[1].rename(tmp_path / folders.checkpoint_name(20, files.sha256(two[1])))
    assert_falls_back(tmp_path, (two[0], fitting), said)
    assert not made.exists()


@pytest.mark.parametrize("facts", [None, "no json", "5", '["step"]', '{"id": "a"}'])
def test_a_foreign_safetensors_file_falls_back(facts, tmp_path, two, said):
    two[1].unlink()
    save_file({"w": torch.ones(2)}, tmp_path / "foreign", metadata=None if facts is None else {"facts": facts})
    name = folders.checkpoint_name(20, files.sha256(tmp_path / "foreign"))
    assert_falls_back(tmp_path, (two[0], (tmp_path / "foreign").rename(tmp_path / name)), said)


# --------------------------------------------------------------------------------------------------------- failed writes
def refuse(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_ones_and_no_part(where, tmp_path, two, monkeypatch, said):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    target = {"save_file": (checkpoint, "save_file"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[where]
    monkeypatch.setattr(*target, refuse)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 30, tensors(3), {"id": "a"}, keep=1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    monkeypatch.undo()
    assert newest(tmp_path, said.append).path == two[1] and said == []


def test_a_disk_that_fills_up_is_an_os_error(tmp_path, two):
    """The real thing: a limit on file size, met by the writer half-way through."""
    before = names(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OSError, match="File too large") as raised:
            save(tmp_path, 30, {"w": torch.zeros(100_000)}, {"id": "a"}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == before and raised.value.errno == errno.EFBIG


# ------------------------------------------------------------------------------------------------------------- retention
def test_the_newest_are_kept(tmp_path):
    paths = [save(tmp_path, step, tensors(step), {}, keep=2) for step in (1, 2, 9, 10, 100)]
    assert names(tmp_path) == [p.name for p in paths[-2:]]


def test_keep_one(tmp_path):
    paths = [save(tmp_path, step, tensors(step), {}, keep=1) for step in (1, 2)]
    assert names(tmp_path) == [paths[1].name]


def test_what_was_just_saved_is_kept_beside_damaged_newer_ones(tmp_path, two, said):
    """After falling back from step 20 to 10, step 15 is saved: it must outlive the save."""
    two[1].write_bytes(b"")
    saved = save(tmp_path, 15, tensors(3), {"id": "a"}, keep=1)
    assert saved.exists()
    assert newest(tmp_path, said.append).path == saved


def test_damaged_ones_do_not_count_among_those_kept(tmp_path, two, said):
    """Two newer ones were damaged; with two to keep, the sound one stays beside the next."""
    save(tmp_path, 30, tensors(3), {"id": "a"}, keep=5).write_bytes(b"")
    two[1].write_bytes(b"")
    assert newest(tmp_path, said.append).path == two[0]
    saved = save(tmp_path, 15, tensors(4), {"id": "a"}, keep=2)
    assert [p for p in names(tmp_path) if not p.endswith(".damaged")] == [two[0].name, saved.name]
    assert sum(p.endswith(".damaged") for p in names(tmp_path)) == 2


def test_saving_a_step_again_replaces_a_damaged_file(tmp_path, two, said):
    two[1].write_bytes(b"")
    assert save(tmp_path, 20, tensors(2), {"id": "a"}, keep=5) == two[1]
    assert newest(tmp_path, said.append).path == two[1] and said == []


# ------------------------------------------------------------------------------------------------------- killed in a save
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from bitnet.training import checkpoint
checkpoint.sha256 = lambda path: os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save(Path(sys.argv[1]), 30, {"w": torch.zeros(1000)}, {"id": "a"}, keep=1)
"""


def test_what_a_killed_save_left_is_removed_by_the_next_start_and_by_the_next_save(tmp_path, two, said):
    before = names(tmp_path)
    for clear in (lambda: newest(tmp_path, said.append), lambda: save(tmp_path, 20, tensors(2), {"id": "a"}, keep=5)):
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=PACKAGE.parent)
        assert done.returncode == -signal.SIGKILL and len(names(tmp_path)) == 3
        clear()
        assert names(tmp_path) == before and said == []
    assert newest(tmp_path, said.append).path == two[1]


def test_a_checkpoint_is_as_readable_as_any_new_file(tmp_path, two):
    (tmp_path / "plain").touch()
    assert two[0].stat().st_mode == (tmp_path / "plain").stat().st_mode
