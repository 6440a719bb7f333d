"""Every module has its test file, or it is said here which one tests it, and why not one of its own."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from bitnet.common.paths import PACKAGE

TESTS = Path(__file__).parent
MODULES = [
    p.relative_to(PACKAGE).as_posix().removesuffix(".py")
    for p in sorted(PACKAGE.rglob("*.py"))
    if "_share" not in p.parts and p.name != "__init__.py"
]

# The file that tests a module without one of its own: the reason, and the modules.
ELSEWHERE: dict[str, dict[str, list[str]]] = {
    "analysis/test_diagnosis.py": {
        "the command prints what it finds": ["diagnose", "reporting/diagnosis_text", "analysis/advice"],
    },
    "analysis/test_tables.py": {"one of the tables": ["analysis/verification"]},
    "benchmark/test_interleaved.py": {"the process that it asks": ["benchmark/worker"]},
    "benchmark/test_request.py": {"parts of one command": ["bench", "benchmark/document", "benchmark/steps"]},
    "benchmark/test_results.py": {"what is made of results": ["benchmark/compare", "benchmark/view"]},
    "benchmark/test_stopwatch.py": {"each is taken apart": ["benchmark/contenders"]},
    "checks/test_checks.py": {
        "each check is tested through the runner": [
            "check", "checks/subject", "checks/study", "checks/training", "checks/results",
        ],
    },
    "cli/test_command_line.py": {
        "seen in what the commands refuse": [
            "prepare", "cli/hydra_errors", "cli/hydra_internals", "sweep/controller", "sweep/single",
        ],
    },
    "commands/test_faults.py": {"shown by interrupting runs": ["training/execute", "runs/metrics_file"]},
    "commands/test_train.py": {
        "every run goes through it": [
            "training/build", "training/loop", "data/run_data", "sweep/expand", "sweep/freeze",
            "common/console", "common/paths", "data/batches", "runs/columns",
        ],
    },
    "config/test_run.py": {
        "parts of a run's configuration": [
            "config/base", "config/data", "config/identity", "config/launcher", "config/messages", "common/errors",
        ],
    },
    "data/test_corpus.py": {
        "the sources of text are read alike": ["data/hub", "data/pydocs", "data/sources", "data/synthetic", "data/text_files"],
    },
    "launch/test_local.py": {
        "the processes of a local launch": [
            "launch/display", "launch/fork_client", "launch/fork_server", "launch/resources",
            "sweep/plugins/hydra_plugins/bitnet_launcher",
        ],
    },
    "launch/test_monitor.py": {"the command prints what it finds": ["status", "launch/slurm_queue", "launch/status_view"]},
    "launch/test_slurm.py": {
        "the other side of a submission": ["launch/slurm_job", "sweep/plugins/hydra_plugins/bitnet_slurm"],
        "a name that jobs were pickled with": ["job"],
    },
    "planning/test_plan.py": {
        "parts of one answer": [
            "plan", "planning/cost", "planning/forecast", "planning/request", "planning/timeline", "planning/totals",
            "planning/view", "planning/warnings", "sweep/check_claims",
        ],
    },
    "reporting/test_html_page.py": {
        "drawn and worded on the page": ["reporting/curves", "reporting/text_layout", "reporting/wording"],
    },
    "reporting/test_report.py": {"the command prints them": ["report", "reporting/text_tables"]},
    "runs/test_reading.py": {
        "a vocabulary and small readers": ["common/text", "runs/heartbeat", "runs/statuses"],
    },
    "runs/test_record.py": {"what a run's folder holds": ["common/files", "runs/folders", "runs/provenance"]},
    "sweep/test_scale.py": {
        "sweeps by name": ["config/sweep", "sweep/sequence", "sweep/plugins/hydra_plugins/bitnet_sweeper"],
    },
    "training/test_branches.py": {"what branches need of other packages": ["runs/trunk", "sweep/branching"]},
    "verdicts/test_experiment.py": {"what experiments are read from": [
            "verdicts/circumstances", "verdicts/crossing", "verdicts/declaration", "verdicts/kinds", "verdicts/selection",
        ]},
    "verdicts/test_verdict.py": {
        "a verdict's steps, told apart in its reasons": [
            "config/claims", "verdicts/decision", "verdicts/evaluations", "verdicts/evidence",
            "verdicts/resolution",
        ],
    },
}  # fmt: skip
# What nothing imports: Hydra finds its plugins, and processes are started with a module's name.
BY_NAME = {"job", "launch/fork_server", "sweep/sequence", "benchmark/worker"}
TESTED = {module: test for test, reasons in ELSEWHERE.items() for modules in reasons.values() for module in modules}


def own(module: str) -> str:
    """`runs/test_record.py` for `runs/record`; a command's lies in `commands`."""
    package, _, name = module.rpartition("/")
    return f"{package or 'commands'}/test_{name}.py"


@functools.cache
def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {n.removeprefix("bitnet.").replace(".", "/") for n in names} & set(MODULES)


def reached(path: Path) -> set[str]:
    """Those modules, and what they import in turn."""
    found: set[str] = set()
    left = imported(path)
    while left:
        found |= left
        left = set().union(*(imported(PACKAGE / f"{m}.py") for m in left)) - found
    return found


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_test_file(module):
    assert (TESTS / own(module)).exists() != (module in TESTED), "a file of its own, or a place in ELSEWHERE"


@pytest.mark.parametrize("test", ELSEWHERE)
def test_the_file_that_is_named_imports_the_module(test):
    modules = {m for m, by in TESTED.items() if by == test}
    assert modules <= set(MODULES)
    assert {m for m in modules if m not in BY_NAME and "/plugins/" not in m} <= reached(TESTS / test)


def test_a_module_is_named_once():
    assert len(TESTED) == sum(len(modules) for reasons in ELSEWHERE.values() for modules in reasons.values())
