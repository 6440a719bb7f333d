"""A SLURM of one node for tests: started as root below a folder of its own, on loopback, without systemd and accounting.

    python tests/slurm/cluster.py        # a shell with such a SLURM; it ends with the shell

Two partitions share the node: `main`, and `high`, whose jobs preempt those of `main` (USR2, 20 s of grace, requeue).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
ARRAY_LIMIT = 4  # MaxArraySize, small so that a sweep of a few runs has to be split

_CONF = """ClusterName=lab
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
MinJobAge=3600
MaxArraySize={limit}
KillWait=5
EnforcePartLimits=ALL
AccountingStorageType=accounting_storage/none
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory={memory} \
State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE State=UP PriorityTier=1 DefMemPerCPU=500 PreemptMode=REQUEUE \
GraceTime=20
PartitionName=high Nodes=localhost MaxTime=INFINITE State=UP PriorityTier=10 DefMemPerCPU=500 PreemptMode=OFF
"""


class CannotStart(Exception):
    """Why there can be no SLURM on this machine, in one line."""


def provide() -> None:
    """Install what a SLURM needs, as root and with apt, unless it is there.

    Raises:
        CannotStart: where that can't be done.
    """
    if os.name != "posix" or os.geteuid() != 0:
        raise CannotStart("a SLURM of one's own has to be started as root")
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise CannotStart(f"{', '.join(missing)} not on PATH, and no apt-get here; install {', '.join(PACKAGES)}")
    print(f"installing {' '.join(PACKAGES)}", flush=True)
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env=quiet, capture_output=True, text=True)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise CannotStart(f"apt-get {command[0]}: {said[-1] if said else done.returncode}")
    missing = [p for p in PROGRAMS if shutil.which(p) is None]
    if missing:
        raise CannotStart(f"{', '.join(missing)} not on PATH, though {', '.join(PACKAGES)} are installed")


def until(true: Callable[[], object], what: str, seconds: float) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: naming `what` when it is not true in time.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.2)


def output(*command: str) -> str:
    """What a command prints; empty when it fails."""
    return subprocess.run(command, capture_output=True, text=True).stdout


@contextlib.contextmanager
def cluster() -> Iterator[Path]:
    """A running SLURM; SLURM_CONF names it to every client. Gives the folder with its logs.

    Raises:
        CannotStart: when one of its programs does not come up.
    """
    root = Path(tempfile.mkdtemp(prefix="slurm-"))
    root.chmod(0o755)
    _configure(root)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(root / "slurm.conf")
    try:
        _start(root)
        yield root
    finally:
        _stop(root)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(root, ignore_errors=True)


def _configure(root: Path) -> None:
    for folder in ("state", "spool"):
        (root / folder).mkdir()
    found = re.search(r"RealMemory=(\d+)", output("slurmd", "-C"))
    memory = found[1] if found else "2000"
    controller, node = _free_ports()
    conf = _CONF.format(root=root, limit=ARRAY_LIMIT, memory=memory, controller=controller, node=node)
    (root / "slurm.conf").write_text(conf)
    (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    key = root / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _start(root: Path) -> None:
    munge = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{option}={root}/munge.{name}" for option, name in munge.items()]
    commands = {
        "munged": ["munged", "--num-threads=2", *options],
        "slurmctld": ["slurmctld", "-f", f"{root}/slurm.conf"],
        "slurmd": ["slurmd", "-N", "localhost", "-f", f"{root}/slurm.conf"],
    }
    ready = {
        "munged": (root / "munge.socket").exists,
        "slurmctld": lambda: "is UP" in output("scontrol", "ping"),
        "slurmd": lambda: output("sinfo", "-h", "-p", "main", "-o", "%t").strip() == "idle",
    }
    for name, command in commands.items():
        done = subprocess.run(command, capture_output=True, text=True)
        try:
            if done.returncode != 0:
                raise CannotStart(f"{name} does not start: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
            until(ready[name], name, 30)
        except TimeoutError as error:
            raise CannotStart(f"{error}; its log: {_last_line(root / f'{name}.log')}") from None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "empty"


def _stop(root: Path) -> None:
    """Cancel what runs, since a running step outlives its slurmd; then end the programs by their own process ids."""
    if (root / "slurmd.pid").exists():
        subprocess.run(["scancel", "-u", "root", "--signal=KILL", "--full"], capture_output=True)
        subprocess.run(["scancel", "-u", "root"], capture_output=True)
        with contextlib.suppress(TimeoutError):
            until(lambda: not output("squeue", "-h"), "the queue is empty", 20)
    for name in ("slurmd", "slurmctld", "munge"):
        pid = root / f"{name}.pid"
        if pid.exists():
            number = int(pid.read_text())
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                until(lambda number=number: not Path(f"/proc/{number}").exists(), name, 10)


if __name__ == "__main__":
    try:
        provide()
        with cluster() as place:
            print(f"SLURM_CONF={os.environ['SLURM_CONF']}; logs in {place}; exit ends it", flush=True)
            sys.exit(subprocess.run(sys.argv[1:] or [os.environ.get("SHELL", "bash")]).returncode)
    except CannotStart as error:
        sys.exit(f"no SLURM here: {error}")
