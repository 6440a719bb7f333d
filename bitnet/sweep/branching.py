"""Which runs of a sweep begin with another one's steps, noted in their records before the first starts."""

from __future__ import annotations

from collections.abc import Sequence

from bitnet.config.run import RunConfig
from bitnet.runs.record import RunRecord
from bitnet.runs.statuses import FAILED, FINAL
from bitnet.runs.trunk import kept_checkpoint
from bitnet.sweep.freeze import QueuedRun, ResolvedRun
from bitnet.training.branches import Branch, Candidate, plan_branches


def record_branches(found: Sequence[Branch | None], records: Sequence[RunRecord]) -> None:
    """Note in each `run.json` where its run begins, and at which steps others begin with it. For runs that are not at work.

    What a run has promised stays so: another command may have runs that count on it.
    """
    at: dict[int, set[int]] = {}
    for branch in found:
        if branch is not None:
            at.setdefault(branch.trunk, set()).add(branch.step)
    known = [record.read() for record in records]
    for place, (branch, record) in enumerate(zip(found, records, strict=True)):
        if known[place].get("status") in FINAL:
            continue
        begins = None
        if branch is not None:
            begins = {"from": records[branch.trunk].place, "id": known[branch.trunk].get("id"), "step": branch.step}
        before = {"branch": known[place].get("branch"), "branch_at": known[place].get("branch_at", [])}
        facts = {"branch": begins, "branch_at": sorted(at.get(place, set()).union(before["branch_at"]))}
        if facts != before:  # most runs share nothing, and need no second writing
            record.update(**facts)


def share_first_steps(resolved: list[ResolvedRun], queued: list[QueuedRun]) -> None:
    """Let runs that begin alike train their common steps once."""
    records = [RunRecord(q.folder) for q in queued]
    candidates = [
        candidate(r.config, r.prepared.sha256, r.last_step, record, ended=is_skipped(q, r.config), saved=record.saved_step)
        for r, q, record in zip(resolved, queued, records, strict=True)
    ]
    record_branches(plan_branches(candidates), records)


def candidate(
    config: RunConfig, data_sha256: str, last_step: int, record: RunRecord | None, *, ended: bool, saved: int
) -> Candidate:
    """A run as `plan_branches` looks at it, as things stand on disk.

    Args:
        record: of a run whose folder is known. ended: whether it won't train any more. saved: the step of its newest checkpoint.
    """

    def can_be_trunk(step: int) -> bool:
        """A run that has ended, or is past that step, has to have kept the checkpoint; one that stopped there keeps it yet."""
        return (not ended and saved <= step) or (record is not None and kept_checkpoint(record, step) is not None)

    return Candidate(config, data_sha256, last_step, can_be_trunk)


def is_skipped(run: QueuedRun, config: RunConfig) -> bool:
    """Whether a launch leaves the run as it is: it is over, or failed and is not to be repeated."""
    return run.finished or (config.launcher.retry == 0 and RunRecord(run.folder).read().get("status") == FAILED)
