"""Reading run folders: what is found, what is kept, and what is said about the rest."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
from run_folders import evaluations, make_run, metrics_text

from bitnet.analysis import frames, published, tables
from bitnet.common.errors import UserError

ROWS = evaluations([1, 1000, 2000], [20, 16, 8])


def test_a_run_becomes_one_row_and_its_evaluations(tmp_path):
    make_run(tmp_path / "sweep", rows=ROWS, published=["scaling"])
    found = frames.read_runs([tmp_path])
    (run,) = found.runs.itertuples()
    assert (run.arm_id, run.seed, run.status, run.hidden_size, run.steps) == (
        "wd=paper-256-10000",
        0,
        "done",
        256,
        10_000,
    )
    assert (run.boundary_step, run.metric, run.ceiling) == (5000, "random_contexts", 20)
    assert (run.sweeps, run.published, run.data, run.vocab_size) == (("sweep",), ("scaling",), "pydocs", 8192)
    assert found.metrics["UniquePredictions"].tolist() == [20, 16, 8]
    assert set(found.metrics["run"]) == {run.id}


@pytest.mark.parametrize("where", [".", "a", "a/sweep", "a/sweep/wd=paper-256-10000-0"])
def test_a_run_is_found_from_any_folder_above_it(tmp_path, where):
    make_run(tmp_path / "a" / "sweep", rows=ROWS)
    assert len(frames.read_runs([tmp_path / where]).runs) == 1


def test_the_same_folder_given_twice_counts_once_and_dot_folders_do_not_count(tmp_path):
    run = make_run(tmp_path / "sweep", rows=ROWS)
    make_run(tmp_path / ".trash", seed=1)
    found = frames.read_runs([tmp_path, tmp_path / "sweep", run])
    assert found.runs["also_in"].tolist() == [()]
    assert len(found.metrics) == 3


def test_a_boundary_on_a_whole_step_is_that_step(tmp_path):
    make_run(tmp_path, steps=100, config={"wd": {"boundary": 0.29}})  # 0.29 * 100 is 28.999999999999996
    make_run(tmp_path, steps=100, seed=1, config={"wd": {"boundary": 0.07}})  # 0.07 * 100 is 7.000000000000001
    assert frames.read_runs([tmp_path]).runs["boundary_step"].tolist() == [29, 7]


def test_a_run_of_the_hub_goes_by_its_data_set(tmp_path):
    record = {"name": "hub", "vocab_size": 50257}
    hub = {"source": "hub", "dataset": "Salesforce/wikitext", "subset": "wikitext-2-raw-v1"}
    make_run(tmp_path, data=record, config={"data": hub})
    make_run(tmp_path, data=record, config={"data": hub | {"dataset": "someone/prose", "subset": None}}, seed=1)
    found = frames.read_runs([tmp_path]).runs
    assert found["data"].tolist() == ["wikitext-2-raw-v1", "someone/prose"]
    assert published.same_data(found[:1]) and not published.same_data(found)


def test_a_run_in_two_sweeps_counts_once_for_both_by_its_more_complete_folder(tmp_path):
    make_run(tmp_path / "a", status="running", rows=ROWS[:1], step=1, published=["scaling"])
    done = make_run(tmp_path / "b", rows=ROWS, published=["track"])
    (run,) = frames.read_runs([tmp_path]).runs.itertuples()
    assert (run.status, run.folder, set(run.sweeps)) == ("done", str(done), {"a", "b"})
    assert set(run.published) == {"scaling", "track"}
    assert run.also_in == (str(tmp_path / "a" / done.name),)


def test_a_torn_last_line_is_left_out_and_noted(tmp_path):
    run = make_run(tmp_path, status="running", rows=ROWS)
    with (run / "metrics.csv").open("a") as file:
        file.write("3000,7.00")
    found = frames.read_runs([tmp_path])
    assert found.metrics["Step"].tolist() == [1, 1000, 2000]
    assert "torn" in found.runs["note"].iloc[0]


def test_a_line_torn_inside_its_last_cell_is_left_out_too(tmp_path):
    run = make_run(tmp_path, status="running", rows=ROWS)
    (run / "metrics.csv").write_text(metrics_text([*ROWS, {"Step": 3000, "UniquePredictions": 2}]).rstrip("\n"))
    assert frames.read_runs([tmp_path]).metrics["Step"].max() == 2000


def test_a_short_line_in_the_middle_is_left_out_and_noted(tmp_path):
    run = make_run(tmp_path, rows=ROWS)
    header, first, *rest = (run / "metrics.csv").read_text().splitlines()
    (run / "metrics.csv").write_text("\n".join([header, first, "500,7", *rest]) + "\n")
    found = frames.read_runs([tmp_path])
    assert found.metrics["Step"].tolist() == [1, 1000, 2000]
    assert found.runs["note"].iloc[0] == "1 broken line(s) left out"


def test_a_step_written_twice_counts_once_by_its_later_line(tmp_path):
    make_run(tmp_path, rows=[*ROWS, *evaluations([2000], [9])])
    found = frames.read_runs([tmp_path])
    assert found.metrics["UniquePredictions"].tolist() == [20, 16, 9]
    assert "1 line(s)" in found.runs["note"].iloc[0]


def holed(folder, steps, status="done", **config):
    """A run of 10,000 steps that evaluated every 1000, with rows at these steps alone."""
    make_run(folder, rows=evaluations(steps, [5] * len(steps)), status=status, config={"eval_every": 1000, **config})
    return frames.read_runs([folder])


WHOLE = [1, *range(1000, 10_001, 1000)]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ([3000], "lacks the evaluation at step 3000"),
        ([1, 9000, 10_000], "lacks the evaluations at steps 1, 9000, 10000"),
        ([5000, 6000, 7000, 8000, 9000], "lacks the evaluations at steps 5000, 6000, 7000 and 2 more"),
    ],
)
def test_an_evaluation_that_is_missing_is_empty_and_named(tmp_path, missing, said):
    found = holed(tmp_path, [step for step in WHOLE if step not in missing])
    assert found.metrics["Step"].tolist() == WHOLE
    empty = found.metrics[found.metrics["UniquePredictions"].isna()]
    assert empty["Step"].tolist() == missing
    assert found.runs["holes"].iloc[0] == tuple(missing) and found.runs["note"].iloc[0] == said
    assert tables.not_done(found.runs, found.unreadable)["reason"].tolist() == [said]


def test_what_a_run_has_not_reached_is_not_missing(tmp_path):
    assert holed(tmp_path / "whole", WHOLE).runs["holes"].iloc[0] == ()
    assert holed(tmp_path / "running", [1, 1000, 2000], status="running").runs["holes"].iloc[0] == ()
    assert holed(tmp_path / "failed", [1, 1000, 3000], status="failed").runs["holes"].iloc[0] == (2000,)


def test_where_a_run_diverged_it_has_a_row_or_none(tmp_path):
    rows = evaluations([1, 1000, 2000], [5, 5, 5])
    make_run(tmp_path, rows=rows, status="diverged", step=2500, config={"eval_every": 1000})
    make_run(tmp_path, rows=rows, status="diverged", step=3000, seed=1, config={"eval_every": 1000})
    make_run(tmp_path, rows=rows, status="diverged", step=3001, seed=2, config={"eval_every": 1000})
    assert frames.read_runs([tmp_path]).runs["holes"].tolist() == [(), (), (3000,)]


def test_no_table_takes_another_step_s_number_for_a_missing_one(tmp_path):
    rows = evaluations(WHOLE, range(len(WHOLE)), [20.0 - i for i in range(len(WHOLE))])
    for seed, missing in enumerate((None, 5000, 6000, 10_000)):
        kept = [row | {"heldout_loss": row["Loss"]} for row in rows if row["Step"] != missing]
        make_run(tmp_path, rows=kept, seed=seed, config={"eval_every": 1000})
    found = frames.read_runs([tmp_path])
    theirs = published.match(found.runs)
    around = tables.around_boundary(found.runs, found.metrics, theirs).iloc[0]
    assert (around["step_before"], around["step_after"]) == (5000, 6000)
    assert around["loss_before_sd"] == around["loss_after_sd"] == around["unique_final_sd"] == 0
    assert tables.learning(found.runs, found.metrics).iloc[0][["n", "heldout_loss_sd"]].tolist() == [3, 0]
    assert tables.baseline(found.runs, found.metrics, theirs).iloc[0]["n"] == 1, "a whole course"


def test_a_run_says_what_it_was_made_with(tmp_path):
    made = [{"versions": {"torch": "2.7.0"}, "device": "cuda:0 (NVIDIA H100)", "threads": 2}]
    made += [{"versions": {"torch": "2.8.0"}, "device": "cuda:1 (NVIDIA H100)", "threads": 2}, {}]
    make_run(tmp_path, rows=ROWS, sessions=made)
    make_run(tmp_path, rows=ROWS, seed=1)
    first, second = frames.read_runs([tmp_path]).runs["made_with"]
    assert first == {"torch": ("2.7.0", "2.8.0"), "device": ("cuda",), "threads": ("2",), "precision": ("fp32",)}
    assert second == {"torch": (), "device": (), "threads": (), "precision": ("fp32",)}


def test_values_are_read_to_the_bit(tmp_path):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123456789, 1e-05, 7]
    path = tmp_path / "metrics.csv"
    path.write_text(metrics_text([{"Step": i, "train_loss": v} for i, v in enumerate(values)]))
    frame, note = frames.read_metrics(path, ["Step", "train_loss", "heldout_loss", "no_such_column"])
    assert frame["train_loss"].tolist() == values and frame.dtypes.eq("float64").all() and note == ""
    assert frame[["heldout_loss", "no_such_column"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "metrics.csv is missing"),
        ("", "is empty"),
        ("Step,Lo", "no complete header"),
        ("Step,Loss\n1,seven\n", "not used"),
    ],
)
def test_metrics_that_cannot_be_used_leave_a_note_and_no_rows(tmp_path, text, note):
    run = make_run(tmp_path, status="failed", rows=None)
    if text is not None:
        (run / "metrics.csv").write_text(text)
    found = frames.read_runs([tmp_path])
    assert not len(found.metrics)
    assert note in found.runs["note"].iloc[0]


def test_a_file_that_a_spreadsheet_saved_is_listed_with_its_reason(tmp_path):
    """tests/runs/test_metrics_file.py has what else is told of such files."""
    run = make_run(tmp_path, rows=ROWS)
    run.joinpath("metrics.csv").write_bytes(run.joinpath("metrics.csv").read_bytes().replace(b",", b";"))
    found = frames.read_runs([tmp_path])
    assert not len(found.metrics)
    how = "another separator than commas"
    expected = f"metrics.csv is not used: another program saved it ({how}) and may have rounded its numbers"
    assert found.runs["note"].tolist() == [expected]
    assert tables.not_done(found.runs, found.unreadable)["reason"].tolist() == [expected]


@pytest.mark.parametrize("step", ["inf", "nan", "-1", "1.5", "1e300"])
def test_a_line_of_no_step_that_a_run_can_have_is_left_out_and_noted(tmp_path, step):
    make_run(tmp_path, rows=[*ROWS, {"Step": step, "UniquePredictions": 3}])
    found = frames.read_runs([tmp_path])
    assert found.metrics["Step"].tolist() == [1, 1000, 2000]
    assert found.runs["note"].iloc[0] == "1 line(s) without a Step of their own left out"


def test_what_is_not_finite_or_not_there_is_missing(tmp_path):
    make_run(tmp_path, rows=[{"Step": 1, "Loss": "inf"}, {"Step": 2, "Loss": "nan"}])
    assert frames.read_runs([tmp_path]).metrics[["Loss", "UniquePredictions"]].isna().all(axis=None)


def test_a_queued_run_that_never_began_is_missing_and_one_that_began_is_queued(tmp_path):
    make_run(tmp_path, seed=0, status="queued")
    make_run(tmp_path, seed=1, status="queued", started="2025-01-01T00:00:00+00:00")
    assert frames.read_runs([tmp_path]).runs.sort_values("seed")["status"].tolist() == ["missing", "queued"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("run.json", "{", "run.json: "),
        ("run.json", "[]", "a mapping is needed"),
        ("run.json", '{"schema": 2}', "schema=2"),
        ("run.json", '{"schema": 1, "status": "lost"}', "status='lost'"),
        ("config.yaml", "a: [", "config.yaml: "),
        ("config.yaml", "steps: many", "steps='many'"),
        ("config.yaml", "{steps: 7, wd: {boundary: .nan}}", "wd.boundary=nan"),
        ("config.yaml", "{steps: 7, probe: {metric: [1]}}", "config.yaml: probe.metric=[1]"),
        ("config.yaml", "{steps: 7, eval_every: often}", "config.yaml: eval_every='often'"),
        ("config.yaml", "steps: 1" + 400 * "0", "config.yaml: steps=1000"),
        ("config.yaml", "{steps: 7, lr: {kind: study}}", "config.yaml: lr.kind='study': allowed are two_stage_linear"),
        ("config.yaml", "{steps: 7, out: 2001-01-01}", "config.yaml: Object of type date"),
        ("config.yaml", "a: !!int ''", "config.yaml: "),
        ("config.yaml", "a: !!timestamp x", "config.yaml: "),
        ("config.yaml", b"a: \xff", "config.yaml: 'utf-8' codec"),
        ("run.json", b'{"label": "\xff"}', "run.json: 'utf-8' codec"),
        ("config.yaml", None, "no config.yaml"),
        ("run.json", None, "no run.json"),
    ],
)
def test_a_folder_that_cannot_be_read_is_listed_with_its_reason(tmp_path, name, text, reason):
    make_run(tmp_path, seed=0, rows=ROWS)
    bad = make_run(tmp_path, seed=1, rows=ROWS)
    (bad / name).unlink() if text is None else (bad / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    found = frames.read_runs([tmp_path])
    assert len(found.runs) == 1
    ((folder, why),) = found.unreadable.to_numpy().tolist()
    assert folder == str(bad)
    assert reason in why


def test_only_the_columns_that_were_asked_for_are_there(tmp_path):
    make_run(tmp_path, rows=ROWS)
    frame = frames.read_runs([tmp_path], ["UniquePredictions", "heldout_loss"]).metrics
    assert list(frame.columns) == ["Step", "UniquePredictions", "heldout_loss", "run"]


def test_the_ceiling_is_that_of_the_metric_that_was_configured(tmp_path):
    make_run(tmp_path, config={"probe": {"metric": "first_batch", "contexts": 20}}, rows=ROWS)
    assert frames.read_runs([tmp_path]).runs["ceiling"].tolist() == [4 * 32]


def test_the_measured_ceiling_beats_the_configured_one(tmp_path):
    make_run(tmp_path, config={"probe": {"metric": "random_contexts", "contexts": 50}}, rows=ROWS)
    assert frames.read_runs([tmp_path]).runs["ceiling"].tolist() == [20]


def test_folders_that_are_not_there_or_empty_are_the_users_error(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        frames.read_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no run"):
        frames.read_runs([tmp_path])


def test_numbers_are_float64(tmp_path):
    make_run(tmp_path, rows=ROWS)
    metrics = frames.read_runs([tmp_path]).metrics.drop(columns="run")
    assert all(dtype == "float64" for dtype in metrics.dtypes)
    assert isinstance(metrics, pd.DataFrame)


def test_the_analysis_never_imports_torch_or_hydra():
    code = "import sys, bitnet.report; sys.exit(bool({'torch', 'hydra', 'omegaconf'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
