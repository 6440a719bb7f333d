"""The report command: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
from run_folders import evaluations, make_run

from bitnet.analysis import published
from bitnet.report import main
from bitnet.reporting import text_layout
from bitnet.reporting.report import write_tables

STEPS = [1, 1000, 5000, 6000, 10000]


@pytest.fixture
def sweep(tmp_path):
    """Two arms; of one a seed diverged and a seed is missing."""
    folder = tmp_path / "sweep"
    for seed, final in enumerate((13, 14)):
        make_run(folder, seed=seed, rows=evaluations(STEPS, [20, 16, 2, 10, final]), published=["scaling"])
    make_run(folder, arm="wd=wd005", rows=evaluations(STEPS, [20, 16, 2, 3, 4]))
    make_run(folder, arm="wd=wd005", seed=1, status="diverged", reason="loss is nan", rows=evaluations([1], [20]))
    make_run(folder, arm="wd=wd005", seed=2, status="queued")
    return folder


def printed(capsys, *argv) -> str:
    assert main([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def line(text: str, start: str) -> str:
    """The first line that begins with `start`."""
    return next(x for x in text.splitlines() if x.startswith(start))


def test_ours_stands_beside_the_published_figure(sweep, capsys):
    text = printed(capsys, sweep)
    assert line(text, "10,000").split()[1:4] == ["13.5", "[13-14]", "(13)"]
    assert line(text, "5,000").split()[1:4] == ["2.0", "[2-2]", "(2)"]
    assert "published: WikiText-2, GPT-2 tokens, V=50,257; here: pydocs V=8,192." in text
    assert "ceiling 20" in text


def test_the_study_s_own_data_needs_no_remark(tmp_path, capsys):
    rows, data = evaluations(STEPS, [20, 16, 2, 10, 13]), {"name": "wikitext2", "vocab_size": 50257}
    make_run(tmp_path, rows=rows, data=data, published=["scaling"])
    text = printed(capsys, tmp_path)
    assert "10 (10)" in text
    assert "here:" not in text


def test_arms_without_a_published_figure_say_so(tmp_path, capsys):
    make_run(tmp_path, arm="wd=wd02", rows=evaluations(STEPS, [20, 16, 2, 10, 13]), published=["scaling"])
    assert "There are no published figures for these arms." in printed(capsys, tmp_path)


def test_counts_say_what_diverged_and_what_is_unfinished(sweep, capsys):
    text = printed(capsys, sweep)
    assert line(text, "n   ").split() == ["n", "2", "1+1d+1u"]
    assert "5 runs: 3 done, 1 diverged, 1 missing." in text
    assert "loss is nan" in text


def test_a_sweep_that_is_done_says_so(tmp_path, capsys):
    make_run(tmp_path, rows=evaluations(STEPS, [20, 16, 2, 10, 13]))
    assert "The one run finished." in printed(capsys, tmp_path)


def test_no_line_is_wider_than_the_terminal(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    long = "optimizer=adam_l2,wd=wd01,smoothing=ls01,clip=norm01"
    for hidden in (256, 512, 768, 1024):
        make_run(sweep, arm=long, hidden=hidden, rows=evaluations(STEPS, [20, 16, 2, 10, 13]), status="failed")
    text = printed(capsys, sweep)
    assert max(map(len, text.splitlines())) <= 120
    assert "h=1024" in text


def test_at_most_twelve_steps_are_printed_and_all_are_written(tmp_path, capsys):
    steps = list(range(100, 10_001, 100))
    make_run(tmp_path, rows=evaluations(steps, [10] * 100), published=["scaling"])
    text = printed(capsys, tmp_path)
    block = text.split("Before and after")[0].splitlines()
    shown = [row.split()[0] for row in block if row[:1].isdigit()]
    assert len(shown) == 12
    assert {"100", "1,000", "5,000", "10,000"} <= set(shown)
    assert len(pd.read_csv(tmp_path / "tables" / "tokens_by_step.csv")) == 100


def test_the_last_evaluation_before_the_boundary_is_always_printed(tmp_path, capsys):
    steps = [*range(100, 4970, 50), 4999, *range(5001, 10_001, 1000)]
    make_run(tmp_path, rows=evaluations(steps, [10] * len(steps)))
    assert line(printed(capsys, tmp_path), "4,999").split() == ["4,999", "10"]


def test_every_table_is_written_as_csv_and_parquet(sweep, tmp_path, capsys):
    printed(capsys, sweep, "--tables", tmp_path / "elsewhere")
    names = ["baseline", "boundary", "learning", "not_done", "parameters", "tokens_by_step", "verification"]
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == sorted(
        f"{name}.{suffix}" for name in names for suffix in ("csv", "parquet")
    )
    text, binary = (tmp_path / "elsewhere" / f"tokens_by_step{s}" for s in (".csv", ".parquet"))
    pd.testing.assert_frame_equal(pd.read_csv(text), pd.read_parquet(binary), check_dtype=False)


FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_like_a_formula_is_a_text_in_a_spreadsheet(tmp_path, capsys, text):
    """In every table; Parquet, which no spreadsheet opens, keeps the true text."""
    for seed, state in enumerate(("done", "failed")):
        rows = evaluations(STEPS, [20, 16, 2, 10, 13])
        make_run(tmp_path / "x", seed=seed, sweep=text, label=text, status=state, reason=text, rows=rows)
        path = tmp_path / "x" / f"wd=paper-256-10000-{seed}" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"arm": text}))
    printed(capsys, tmp_path)
    found = set()
    for file in (tmp_path / "tables").glob("*.csv"):
        with file.open(newline="", encoding="utf-8") as lines:
            found |= {cell for row in csv.reader(lines) for cell in row}
    assert not {cell for cell in found if cell[:1] in tuple("=+-@\t\r\n") and not is_number(cell)}
    assert "'" + text.replace("\r", "\n") in found
    assert pd.read_parquet(tmp_path / "tables" / "not_done.parquet")["reason"].tolist() == [text, text]


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_negative_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame({"number": [-1.5, 2.0], "text": ["-1.5e-3", "-x"], "none": [None, "a\rb"]})
    write_tables({"t": frame}, tmp_path)
    assert (tmp_path / "t.csv").read_bytes() == b'number,text,none\n-1.5,-1.5e-3,\n2.0,\'-x,"a\nb"\n'


def test_the_tables_folder_is_not_mistaken_for_a_run(sweep, capsys):
    assert printed(capsys, sweep) == printed(capsys, sweep)


@pytest.mark.parametrize(("style", "sign"), [("md", "| step"), ("markdown", "| step"), ("latex", r"\begin{tabular}")])
def test_other_formats(sweep, capsys, style, sign):
    assert sign in printed(capsys, sweep, "--format", style)


@pytest.mark.parametrize(
    ("name", "style", "sign"),
    [("a.md", [], "## Before"), ("a.tex", [], "% Before"), ("a.txt", [], "Before"), ("a.txt", ["--format", "md"], "## Before")],
)
def test_a_file_gets_what_would_be_printed(sweep, tmp_path, capsys, name, style, sign):
    file = tmp_path / "new" / name
    assert printed(capsys, sweep, "--out", file, *style) == ""
    assert line(file.read_text(encoding="utf-8"), sign)


SPECIAL = r"_ & % $ # { } ~ ^ \ | ` <b> [x](y) *z*"


@pytest.mark.parametrize(
    ("style", "escaped"),
    [
        ("md", r"\_ &amp; % \$ \# \{ \} \~ \^ \\ \| \` &lt;b&gt; \[x\](y) \*z\*"),
        (
            "latex",
            r"\_ \& \% \$ \# \{ \} \textasciitilde{} \^{} \textbackslash{} | ` \ensuremath{<}b\ensuremath{>} [x](y) *z*",
        ),
        ("plain", SPECIAL),
    ],
)
def test_a_name_is_shown_as_it_is_in_every_format(style, escaped):
    cell = pd.DataFrame({SPECIAL: [SPECIAL]}, index=pd.Index([SPECIAL], name=SPECIAL))
    text = text_layout.render(text_layout.Section(SPECIAL, SPECIAL, [cell]), style, None)
    assert text.count(escaped) == {"md": 6, "latex": 4, "plain": 6}[style]
    outside = text.replace(escaped, "")
    comments = 2 if style == "latex" else 0
    assert outside.count(SPECIAL) == comments and len([x for x in text.splitlines() if x == f"% {SPECIAL}"]) == comments


def test_no_row_of_latex_begins_with_what_is_an_option_of_the_one_before():
    frame = pd.DataFrame({"n": ["1", "2", "3", "4"]}, index=pd.Index(["[1ex]", "*", "a [b]", "  [2ex]"], name="[arm]"))
    text = text_layout.render(text_layout.Section("t", "c", [frame]), "latex", None)
    rows = text[text.index("\\toprule") :].splitlines()
    assert [r.split("&")[0].strip() for r in rows if "&" in r] == ["{}[arm]", "{}[1ex]", "{}*", "a [b]", "{}[2ex]"]
    assert "{}" not in text_layout.render(text_layout.Section("t", "c", [frame]), "plain", None)


@pytest.mark.parametrize("style", ["md", "latex"])
def test_a_line_break_in_a_name_ends_no_line(style):
    broken = "a\n\n\\input{b}\r\nc"
    cell = pd.DataFrame({broken: [broken]}, index=pd.Index([broken], name=broken))
    text = text_layout.render(text_layout.Section(broken, "", [cell]), style, None) + text_layout.remark(broken, style)
    assert not any(line.startswith(("\\input", "c")) for line in text.splitlines())


def test_a_command_in_latex_stays_a_comment(tmp_path, capsys):
    for arm in ("wd=paper", "wd=wd005"):
        make_run(tmp_path, arm=arm, sweep=None, command="python -m bitnet.train -m 'x=a\n\\input{b}'")
    assert not any(x.startswith("\\input") for x in printed(capsys, tmp_path, "--format", "latex").splitlines())


def test_a_folder_is_no_file_to_write(sweep, tmp_path, capsys):
    assert main([str(sweep), "--out", str(tmp_path)]) == 2
    assert f"use --tables {tmp_path}" in capsys.readouterr().err


def test_the_verification_plan_is_printed_with_its_remark(tmp_path, capsys):
    steps = [1000, 5000, 6000, 10000, 20000]
    folder = tmp_path / "verification2"
    rows = evaluations(steps, [16, 2, 10, 12, 13])
    make_run(folder, steps=20_000, rows=rows, published=["verification_example"])
    text = printed(capsys, tmp_path)
    assert "Fix verified: no. Rests on 1 decided of 1 run(s), 0 passed" in text
    assert "can't be met: the count has a ceiling of 20" in text
    assert "success 20k > 50 missed" in text
    assert line(text, "tokens at 6,000 (published)").split()[-2:] == ["10", "(10)"]
    assert line(text, "tokens at 30,000 (published)").split()[-2:] == ["\u2013", "(\u2013)"]
    assert line(text, "success: 30k > 50").endswith("not reached")


def test_nothing_but_unreadable_or_unfinished_runs_is_still_a_report(tmp_path, capsys):
    run = make_run(tmp_path, status="queued")
    assert "1 run: 1 missing." in printed(capsys, tmp_path)
    (run / "run.json").write_text("{")
    assert "1 run: 1 unreadable." in printed(capsys, tmp_path)


@pytest.mark.parametrize("inside", ["nowhere", ""])
def test_a_folder_without_runs_is_one_line_and_exit_code_2(tmp_path, capsys, inside):
    assert main([str(tmp_path / inside)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {'' if inside else 'no run'}")
    assert captured.err.count("\n") == 1


def test_an_output_folder_that_cannot_be_made_is_one_line_and_exit_code_2(sweep, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(sweep), "--tables", str(tmp_path / "file")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_the_published_figures_are_the_study_s():
    rows = published.rows()
    assert len(rows) == 77
    assert set(rows["source"]) == {"scaling", "phase1", "phase3", "phase4", "verification_example", "track"}
    assert published.formula_parameters(256, 50257) == 28_360_448
    assert sorted(published.BASELINE_SUMMARY) == [1000, 10000, 20000]
