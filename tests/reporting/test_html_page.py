"""The page that `bitnet.report` writes: what it says, in which order, from which verdicts, and that it is one safe file."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import run_folders
from run_folders import Row, declare, make_run

from bitnet.analysis import frames
from bitnet.report import main
from bitnet.reporting import text_layout, wording
from bitnet.verdicts.experiment import READ, experiments_in

NASTY = "<img src=x onerror=alert(1)></script>"
VOID = {"meta", "img", "br", "rect", "line", "path", "use", "link", "input", "hr"}
WRITTEN = "2024-12-31T00:00:00+00:00"
CONTRAST: dict[str, Any] = {
    "kind": "contrast",
    "says": "Decoupled decay lowers the loss",
    "published": "WD 0.0 is the fix",
    "metric": "heldout_loss",
    "arm": {"optimizer": "adamw"},
    "against": {"optimizer": "adam_l2"},
    "expected": "lower",
    "margin": 0.5,
}
BOUND: dict[str, Any] = {"kind": "bound", "says": "It ends below 4", "metric": "heldout_loss", "arm": {}, "expected": "at_most"}
BOUND |= {"bound": 4, "margin": 0.1}


class _Page(HTMLParser):
    """Tags in their order, attributes, and text; fails on a tag that closes another one."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in {"h1", "h2", "h3"}:
            self.headings.append(data)
        if not {"style", "svg"} & set(self.open):
            self.text += data


def rows(*losses: float) -> list[Row]:
    own = {"UniquePredictions": 5, "contexts_positions": 20, "heldout_uniq": 100, "heldout_distinct_targets": 300}
    own |= {"logit_std": 2, "greedy_distinct_1": 0.25}
    return run_folders.losses((100, 5000, 10_000), losses, **own)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """Optimizer x decay, three seeds, two claims: one holds, one does not."""
    folder = tmp_path_factory.mktemp("outputs") / "cause"
    for seed in range(3):
        for wd in ("paper", "wd01"):
            make_run(folder, arm=f"wd={wd}", seed=seed, rows=rows(9, 8, 7 + 0.01 * seed), published=["scaling"],
                     command="python -m bitnet.train sweeps=cause", heldout_text={"distinct_1": 0.5})  # fmt: skip
            began = {"began_as": {"from": "trunk", "id": "0123456789", "step": 5000}} if wd == "wd01" else {}
            make_run(folder, arm=f"optimizer=adamw,wd={wd}", seed=seed, rows=rows(9, 6, 5 + 0.02 * seed), **began)
    grid = {"optimizer": ["adam_l2", "adamw"], "wd": ["paper", "wd01"]}
    declare(folder, (WRITTEN, {"decoupled": CONTRAST, "low": BOUND}), grid=grid, question="Which factor?", source="a study")
    return folder


@pytest.fixture(scope="module")
def source(sweep) -> str:
    """The page of that sweep."""
    return report(sweep)


@pytest.fixture(scope="module")
def page(source) -> _Page:
    return _Page(source)


@pytest.fixture(scope="module")
def text(page) -> str:
    return " ".join(page.text.split())


def report(*argv: Any) -> str:
    """The page's source."""
    assert main([str(a) for a in argv]) == 0
    file = argv[argv.index("--html") + 1] if "--html" in argv else argv[0] / "report.html"
    return file.read_text(encoding="utf-8")


def test_the_page_answers_first_and_goes_on_in_order(page):
    order = ["What the runs show", "Claims", "Over steps", "Which factor matters", "Collapse, run by run"]
    order += ["Model sizes, and what was learned", "Text that the models write", "Every run", "How to reproduce each number"]
    assert [h for h in page.headings if h in order] == order
    assert not page.open


def test_the_answer_is_what_the_verdicts_are(text):
    assert "2 claims of 1 sweep: 1 reproduced, 1 not reproduced." in text
    assert "Sweep cause, reproduced: \u201cDecoupled decay lowers the loss\u201d." in text
    assert (
        "Sweep cause: optimizer accounts for 100% of the variance of the held-out loss at the end (sd 1.04 nats); "
        "nothing else accounts for 1%." in text
    )
    assert "The decided claims rest on n = 3 seeds (too few for a sign-flip p below 0.05; the intervals decide)." in text
    assert "All 12 runs finished." in text


def test_a_claim_has_its_numbers_beside_the_published_ones(text):
    assert re.search(r"-1\.99 \[-2\.\d+, -1\.\d+\] nats \(5\.02 minus 7\.01\) n=3 WD 0\.0 is the fix", text)
    assert "0: -2, 1: -1.99, 2: -1.98" in text
    assert "n = 3 seeds: too few for a sign-flip p-value below 0.05; the interval decides, is wide, and" in text
    assert "heldout_loss at the end: optimizer=adamw minus optimizer=adam_l2, claimed: lower by at least 0.5" in text


def test_numbers_of_written_text_stand_beside_the_text_s_own_and_say_which_side_is_good(text):
    assert "the held-out text itself" in text
    assert "Good is near the value of the held-out text itself; more is not better. Random tokens" in text


def test_a_run_that_began_as_another_one_says_so(text):
    assert text.count("10,000/10,000, the first 5,000 as 0123456789") == 3


def test_of_a_bound_the_value_is_shown_and_not_its_distance(text):
    assert re.search(r"6\.0\d \[5\.\d+, 6\.\d+\] nats n=3", text)


def test_the_page_needs_nothing_but_itself(source, page):
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", source)


def test_the_same_records_give_the_same_page(sweep, source):
    assert report(sweep) == source


def test_whatever_was_written_into_a_record_stays_text(tmp_path):
    folder = tmp_path / "s"
    nasty = {"arm": NASTY, "reason": NASTY, "device": NASTY, "command": f"python -m bitnet.train {NASTY}", "label": NASTY}
    nasty |= {"overrides": [NASTY], "versions": {NASTY: NASTY}, "git": {"commit": NASTY}, "started": NASTY}
    for seed in range(3):
        run = make_run(folder, seed=seed, rows=rows(9, 8, 7 + 0.01 * seed), **{k: v for k, v in nasty.items() if k != "arm"})
        (run / "samples.json").write_text(json.dumps({"step": 7, "samples": [dict.fromkeys(("prompt", "greedy"), NASTY)]}))
        record = run / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"arm": NASTY}))
    claim = CONTRAST | {"says": NASTY, "published": NASTY, "arm": NASTY, "against": {}}
    declare(folder, (WRITTEN, {NASTY: claim, "b": BOUND | {"says": NASTY, "arm": NASTY}}), question=NASTY, source=NASTY)
    source = report(folder)
    assert "<img" not in source and "</script" not in source
    assert not _Page(source).open
    assert _Page(source).text.count(NASTY) > 10


def test_samples_that_cannot_be_read_are_told_and_the_rest_is_shown(tmp_path):
    for seed, content in enumerate([b"\xff", b'{"samples": [{"prompt": 3}]}', b'{"samples": [{"prompt": "To be"}]}']):
        run = make_run(tmp_path / "s", seed=seed, rows=rows(9, 8, 7))
        (run / "samples.json").write_bytes(content)
    text = " ".join(_Page(report(tmp_path)).text.split())
    assert "seed 0: its samples are not shown: samples.json: 'utf-8' codec can't decode" in text
    assert "seed 1: its samples are not shown: samples.json: samples.0.prompt=3: input should be a valid string" in text
    assert "To be" in text


def test_a_continuation_of_line_breaks_alone_can_be_seen(tmp_path):
    run = make_run(tmp_path / "s", rows=rows(9, 8, 7))
    texts = {"prompt": "To be", "greedy": "\n" * 3, "sampled": "or\nnot", "heldout": "or"}
    (run / "samples.json").write_text(json.dumps({"step": 1, "samples": [texts]}))
    text = _Page(report(tmp_path)).text
    assert "\u21b5 \u21b5 \u21b5" in text and "or\u21b5 not" in text


def test_an_investigation_that_is_not_over_is_a_page_too(tmp_path):
    folder = tmp_path / "s"
    for seed, status in enumerate(("running", "failed", "queued", "diverged")):
        make_run(folder, seed=seed, status=status, rows=rows(9))
        make_run(folder, arm="optimizer=adamw,wd=paper", seed=seed, status="queued")
    declare(folder, (WRITTEN, {"decoupled": CONTRAST}), grid={"optimizer": ["adam_l2", "adamw"], "wd": ["paper"]})
    (tmp_path / "s" / "broken").mkdir()
    (tmp_path / "s" / "broken" / "run.json").write_text("{")
    text = " ".join(_Page(report(tmp_path)).text.split())
    assert "1 claim of 1 sweep: 1 inconclusive. 1 of the inconclusive claims is waiting for unfinished runs." in text
    assert "Sweep s has no decided claim yet." in text
    assert "8 runs: 0 finished, 1 diverged, 1 failed, 6 unfinished. 1 more folder can't be read as a run." in text


def test_runs_of_no_sweep_are_shown_and_not_judged(tmp_path):
    make_run(tmp_path, rows=rows(9, 8, 7), sweep=None)
    text = _Page(report(tmp_path)).text
    assert "No sweep here declares a claim, so there are no verdicts" in text


def test_published_points_are_drawn_where_a_run_answers_to_them(tmp_path):
    with_them, without = tmp_path / "a", tmp_path / "b"
    make_run(with_them, rows=rows(9, 8, 7), published=["scaling"])
    make_run(without, rows=rows(9, 8, 7))
    assert "Diamonds: published (WikiText-2, GPT-2 tokens; the runs here use other data)" in " ".join(report(with_them).split())
    assert "Diamonds" not in report(without)


def test_many_arms_are_drawn_in_panels_and_very_many_as_one_bundle(tmp_path):
    for i in range(10):
        make_run(
            tmp_path / "few", rows=rows(9, 8, 7), id=f"r{i}", arm_id=f"a{i}", label=f"lr.peak={i}", seed=i, overrides=[f"x={i}"]
        )
    assert "arms 9 to 10" in _Page(report(tmp_path / "few")).text
    for i in range(50):
        make_run(
            tmp_path / "many", rows=rows(9, 8, 7), id=f"r{i}", arm_id=f"a{i}", label=f"lr.peak={i}", seed=i, overrides=[f"x={i}"]
        )
    text = _Page(report(tmp_path / "many")).text
    assert "50 arms" in text and "individual runs are not drawn" in text


def test_claims_are_in_the_text_too_and_in_files(sweep, capsys):
    report(sweep)
    text = capsys.readouterr().out
    assert "Claims of sweep cause: 1 reproduced, 1 not reproduced" in text
    assert re.search(r"decoupled +reproduced +3 +-1\.99", text)
    assert f"page: {sweep / 'report.html'}" in text
    claims = pd.read_csv(sweep / "tables" / "claims.csv")
    assert list(claims["word"]) == ["reproduced", "not reproduced"]
    assert json.loads(claims["numbers"][0]) == pytest.approx({"0": -2.0, "1": -1.99, "2": -1.98})
    assert pd.read_parquet(sweep / "tables" / "effects.parquet")["share"].max() > 0.99


@pytest.mark.parametrize(("style", "sign"), [("md", r"\| decoupled +\| reproduced"), ("latex", r"decoupled +& reproduced")])
def test_claims_as_markdown_and_latex(sweep, style, sign):
    (found,) = experiments_in(frames.read_runs([sweep], READ), [sweep])
    assert re.search(sign, text_layout.render(wording.claims_section(found), style, None))


def test_the_page_goes_where_it_is_told_to(tmp_path, capsys):
    make_run(tmp_path / "s", status="queued")
    assert report(tmp_path / "s", "--html", tmp_path / "new" / "a.html").startswith("<!DOCTYPE html>")
    assert not (tmp_path / "s" / "report.html").exists()
    assert main([str(tmp_path / "s"), "--html", str(tmp_path)]) == 2
    assert ": a folder; name a file" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "s"), "--html", str(tmp_path / "file" / "x.html")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_what_is_in_the_page_says_how_to_repeat_it(sweep, text):
    assert "python -m bitnet.train sweeps=cause" in text
    assert f"bitnet.report {sweep}" in text


def test_the_figures_are_files_that_stand_alone(sweep, tmp_path):
    report(sweep, "--html", tmp_path / "page.html", "--figures", tmp_path / "figures")
    files = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "figures").iterdir()}
    wanted = {"cause-heldout_loss.svg", "cause-Loss.svg", "cause-UniquePredictions.svg", "cause-end-shares.svg"}
    assert wanted <= files.keys()
    for text in files.values():
        whole = ElementTree.fromstring(text)
        assert "cause" in "".join(whole.itertext()).lower()
    for arm in ("optimizer=adamw, wd=wd01", "optimizer=adam_l2, wd=paper"):
        assert arm in files["cause-heldout_loss.svg"]
