"""Fill the disk under a run, and compare what it leaves, once there is room again, with an undisturbed run, to the bit.

    python tests/drills/full_disk.py

As root on Linux: mounts a small tmpfs of its own, lets a run start on it, and fills it up to a number of free bytes that
stops the next save after none, a little, or nearly all of its checkpoint. Otherwise it says so and limits the size of a file
instead (RLIMIT_FSIZE), which also lets a save fail half-way. Each time the older checkpoint must stand, no partial file be
left, the run say in one line what is wrong and end with exit code 1; with room again, the same command must end with the
same rows, weights, optimizer memory and generators as an undisturbed run. Two minutes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import SMALL, STATEFUL, Drill, complete, differences, ended, record, runs, start, stray, the_run, wait_until

EVAL_EVERY = 20
ARGUMENTS = [*SMALL, *STATEFUL, "steps=1000", f"eval_every={EVAL_EVERY}", "checkpoint.every=10"]
MEBIBYTE = 1 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A tmpfs of 8 MiB at `folder`; False, and a plain folder, where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "drill", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
        why = done.stderr.strip()
    except OSError as error:
        why = str(error)
    else:
        if done.returncode == 0:
            try:
                yield True
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    print(f"no tmpfs can be mounted here ({why}): limiting the size of files instead", flush=True)
    yield False


def fill(disk: Path, leave: int) -> Path:
    """A file that leaves about `leave` bytes free."""
    stuffing = disk / "stuffing"
    with stuffing.open("ab") as file:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize) > leave:
            file.write(b"\0" * min(free - leave, MEBIBYTE))
            file.flush()
    return stuffing


def limit(process: subprocess.Popen, size: int) -> None:
    """No file of the process may grow beyond `size` bytes from now on."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def failed(drill: Drill, name: str, arguments: list[str], out: Path, cut: object) -> None:
    """Start, cut off its disk when there are two checkpoints, and look at how it ended."""
    with ended(start(*arguments)) as process:
        wait_until(lambda: len(list(out.glob("*/*/checkpoints/step-*"))) >= 2, process)
        cut(process)
        said = process.communicate(timeout=120)[0]
    (folder,) = runs(out)
    run = record(folder)
    faults = [] if process.returncode == 1 else [f"exit code {process.returncode}"]
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(errors) != 1 or "Traceback" in said or not any(w in said for w in ("No space", "too large")):
        faults.append(f"said {said[-600:]!r}")
    faults += [f"{p.name} was left behind" for p in stray(folder) if p.name != "error.txt"]
    if not list((folder / "checkpoints").glob("step-*.safetensors")):
        faults.append("no checkpoint is left")
    drill.say(f"{name}: {run['status']}, {errors[-1] if errors else 'no error'}", faults)


def main() -> int:
    drill = Drill()
    with tempfile.TemporaryDirectory() as place:
        cached = [*ARGUMENTS, f"data.cache={place}/cache"]
        complete(*cached, f"out={place}/calm")
        calm = the_run(Path(place) / "calm")
        size = max(p.stat().st_size for p in (calm / "checkpoints").iterdir())
        for name, free in {"no byte": 0, "a tenth": size // 10, "half": size // 2, "all but a page": size - 4096}.items():
            disk = Path(place) / f"disk-{free}"
            with small_disk(disk) as real:
                arguments = [*cached, f"out={disk}/outputs"]
                if real:
                    failed(drill, f"{name} left", arguments, disk / "outputs", lambda _, d=disk, f=free: fill(d, f))
                    (disk / "stuffing").unlink()
                else:
                    failed(drill, f"{name} left", arguments, disk / "outputs", lambda p, f=free: limit(p, f))
                complete(*arguments)
                drill.say(f"{name} left, with room again", differences(the_run(disk / "outputs"), calm, EVAL_EVERY))
    return drill.exit_code


if __name__ == "__main__":
    sys.exit(main())
