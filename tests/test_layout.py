"""Every module has its test file, or it is said here which one tests it, and why not one of its own."""

from __future__ import annotations

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
    "commands/test_faults.py": {"shown by interrupting runs": ["training/execute"]},
    "commands/test_train.py": {
        "every run goes through it": [
            "training/build", "training/loop", "data/run_data", "sweep/expand", "sweep/freeze",
            "common/paths", "data/batches", "runs/columns",
        ],
    },
    "common/test_console.py": {"begins what guards the streams": ["common/starting"]},
    "config/test_run.py": {
        "parts of a run's configuration": [
            "config/base", "config/data", "config/identity", "config/launcher", "config/messages", "common/errors",
            "common/limits",
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
TESTED = {module: test for test, reasons in ELSEWHERE.items() for modules in reasons.values() for module in modules}


def own(module: str) -> str:
    """`runs/test_record.py` for `runs/record`; a command's lies in `commands`."""
    package, _, name = module.rpartition("/")
    return f"{package or 'commands'}/test_{name}.py"


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_test_file(module):
    assert (TESTS / own(module)).exists() != (module in TESTED), "a file of its own, or a place in ELSEWHERE"


@pytest.mark.parametrize("test", ELSEWHERE)
def test_what_is_named_is_there(test):
    """That the file really tests these modules is for its readers to see: everything is imported by way of the commands."""
    assert (TESTS / test).is_file()
    assert {m for m, by in TESTED.items() if by == test} <= set(MODULES)


def test_a_module_is_named_once():
    assert len(TESTED) == sum(len(modules) for reasons in ELSEWHERE.values() for modules in reasons.values())
