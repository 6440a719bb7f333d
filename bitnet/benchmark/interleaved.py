"""Contenders that take turns: each in a process that stays alive, one at work at a time, so that a machine whose speed drifts
treats them alike and each has memory of its own."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from bitnet.benchmark.cases import FLOAT, Case, run_of
from bitnet.common.errors import UserError

ROUND_SECONDS = 0.5  # a contender's turn, where one step doesn't take longer

_SLOW_STEP = 4.0  # seconds: after one such step a process is warm enough

_EVALUATIONS, _EVALUATION_SECONDS = 5, 20.0  # so many are timed, fewer where they take longer; two at least


class Ended(Exception):
    """A worker ended before its time; the message says why."""


class Client:
    """A worker, seen from the process that asks it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the rest
        # transformers' quantisers compile at their first call, which takes a compiler and minutes: all contenders run eagerly
        environment = os.environ | {"TORCHDYNAMO_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bitnet.benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            text=True,
        )
        self._send(order)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it was not asked any more
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            Ended: when the worker can't give one.
        """
        self._send(request)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next answer; the first one comes by itself, when the worker is ready.

        Raises:
            Ended: when there is none.
            UserError: for what the user asked for, such as a device that is not there.
        """
        line = self.process.stdout.readline()
        if not line:
            raise Ended(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise (UserError if answer["user"] else Ended)(answer["error"])
        return answer

    def _send(self, request: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):  # what it died of is read with the answer
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with {code}{f': {lines[-1]}' if lines else ''}"


@dataclass
class Turns:
    """What a contender took: seconds of a step in each round, of a step by part in each round, of each evaluation, and bytes;
    and what the machine reached in the same rounds."""

    seconds: list[float] = field(default_factory=list)
    parts: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)
    peaks: list[dict[str, float]] = field(default_factory=list)
    memory: int | None = None
    error: str | None = None


def machine(device: str, threads: int) -> dict[str, Any]:
    """What torch knows of the machine, and its peaks.

    Raises:
        UserError: when the device is not there.
        Ended: when the measuring process ends early.
    """
    with Client({"contender": None, "device": device, "threads": threads}) as client:
        client.answer()
        return client.ask(facts=True)


def measure(case: Case, contenders: Sequence[str], *, device: str, threads: int, rounds: int) -> dict[str, Turns]:
    """The turns of each contender at one case; one that fails says so and leaves the others to go on."""
    turns = {name: Turns() for name in contenders}
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in contenders:
            config = run_of(case, quant="float" if name == FLOAT else "b158").model_dump(mode="json")
            order = {"contender": name, "config": config, "device": device, "threads": threads}
            clients[name] = stack.enter_context(Client(order))
        peaks = stack.enter_context(Client({"contender": None, "device": device, "threads": threads}))
        peaks.answer()
        counts: dict[str, int] = {}

        def each(names: Sequence[str], work: Callable[[Client, str], None]) -> None:
            for name in (n for n in names if turns[n].error is None):
                try:
                    work(clients[name], name)
                except Ended as error:
                    turns[name].error = str(error)

        each(contenders, lambda client, name: client.answer())
        each(contenders, lambda client, name: counts.update({name: _warm_up(client)}))
        for number in range(rounds):
            now = peaks.ask(peaks=True)  # they drift too: a share of the bound is one of the same minute
            for name in contenders:
                turns[name].peaks.append(now)
            each(_rotated(contenders, number), lambda client, name: _take_turn(client, turns[name], counts[name]))
        each(contenders, lambda client, name: _finish(client, turns[name]))
    return turns


def _rotated(names: Sequence[str], by: int) -> list[str]:
    """Another one begins each round: what a neighbour leaves in caches meets all of them."""
    by %= len(names)
    return [*names[by:], *names[:by]]


def _warm_up(client: Client) -> int:
    """Steps that make a process ready; how many of them are a turn."""
    seconds = client.ask(steps=1)["seconds"]
    if seconds < _SLOW_STEP:
        client.ask(steps=1)
        seconds = client.ask(steps=1)["seconds"]
    return max(1, math.ceil(ROUND_SECONDS / seconds))


def _take_turn(client: Client, turns: Turns, count: int) -> None:
    answer = client.ask(steps=count)
    turns.seconds.append(answer["seconds"] / count)
    turns.parts.append({part: seconds / count for part, seconds in answer["parts"].items()})


def _finish(client: Client, turns: Turns) -> None:
    turns.memory = client.ask(memory=True)["memory"]
    turns.evaluations = _evaluations(client)


def _evaluations(client: Client) -> list[float]:
    """Seconds of evaluations after a first one, which also sets things up; none where the contender has none."""
    seconds: list[float] = []
    if client.ask(evaluate=True)["seconds"] is None:
        return seconds
    while len(seconds) < 2 or (len(seconds) < _EVALUATIONS and sum(seconds) < _EVALUATION_SECONDS):
        seconds.append(client.ask(evaluate=True)["seconds"])
    return seconds
