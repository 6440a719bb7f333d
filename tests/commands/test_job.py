"""The name that SLURM jobs were pickled with before this package had folders."""

from __future__ import annotations

import pickle

from bitnet.launch.slurm_job import Task

# pickle.dumps(bitnet.job.Task(3), protocol=2) of that time
QUEUED_THEN = b"\x80\x02cbitnet.job\nTask\nq\x00)\x81q\x01}q\x02X\x07\x00\x00\x00threadsq\x03K\x03sb."


def test_a_job_that_was_queued_then_still_starts():
    assert pickle.loads(QUEUED_THEN) == Task(3)
