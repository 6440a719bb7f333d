"""What is typed as a path is what is opened, whatever characters it has and whichever key it stands behind."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small import TINY

from bitnet import prepare, train
from bitnet.cli.overrides import PATH_KEYS, PATH_LIST_KEYS, normalise
from bitnet.cli.quoting import quote, unquote
from bitnet.common.errors import UserError
from bitnet.common.text import without_interpolation
from bitnet.config.base import FilePath
from bitnet.config.data import GPT2Tokenizer, HubData, PydocsData, SyntheticData, TextData
from bitnet.config.run import RunConfig

NAMES = [
    "a b", " a", "it's", "'a", "a'", 'say "x"', '"a"b"', "a=b", "a#b", "[a", "a]", "a[1]", "{a}", "a}", "(a", "f(x)", "~a", "a~b",
    "a;b&c|d", "50%", "me@x", "a\\s", "a\\", "\\\\a\\\\b", "a\\'b", 'a\\"b', "\\n", "café/日本/\u00df", "a/", "/tmp/x/", "$HOME",
    "$", "a:b", "true", "123", "1e5", "!x", "`x`", "*?<>", "null/x", "-m", "+x", "../x", "a\tb", "\u2028",
]  # fmt: skip
WITH_COMMAS = ["a,b", "a, b", ",", "[a],[b]", "it's,\\", '"a,b']


def read(override: str) -> Any:
    """The value that Hydra and OmegaConf make of an override as `normalise` writes it, the second time as the first."""
    written = normalise(override)
    assert normalise(written) == written
    (parsed,) = OverridesParser.create().parse_overrides([written])
    assert not parsed.is_sweep_override()
    again = f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"  # as a sweep hands it on
    values = [OmegaConf.create({"key": o.value()}) for o in (parsed, *OverridesParser.create().parse_overrides([again]))]
    first, second = (OmegaConf.to_container(v, resolve=True)["key"] for v in values)
    assert first == second
    return first


@pytest.mark.parametrize("name", NAMES + WITH_COMMAS)
def test_one_path_is_taken_as_it_stands(name):
    for key in PATH_KEYS:
        assert read(f"{key}={name}") == name


@pytest.mark.parametrize("name", NAMES)
def test_a_path_in_a_list_is_taken_as_it_stands(name):
    name = name.strip(" ")
    for key in PATH_LIST_KEYS:
        assert read(f"{key}=[{name}]") == [name]
        assert read(f"{key}=[first.txt, {name} ,{name},last]") == ["first.txt", name, name, "last"]


@pytest.mark.parametrize("name", NAMES + WITH_COMMAS)
def test_in_quotes_a_path_may_have_commas_and_brackets(name):
    quoted = quote(name)
    assert unquote(quoted) == name and quote(quoted) == quoted
    assert read(f"out={quoted}") == name
    assert read(f"data.paths=[{quoted}, b.txt,{quoted}]") == [name, "b.txt", name]


def test_lists_are_an_axis_and_an_empty_list_is_one():
    assert normalise("data.paths=[a,b c],[d]") == "data.paths=['a','b c'],['d']"
    assert normalise("data.paths=choice([a],[b])") == "data.paths=choice([a],[b])"
    assert read("data.paths=[]") == [] and read("+data.heldout_paths=[ a ]") == ["a"]
    with pytest.raises(UserError, match=r"data\.paths=\[a,,b\]: a path is needed between the commas"):
        normalise("data.paths=[a,,b]")


def test_interpolations_go_on_to_work_and_can_be_escaped(monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch")
    assert read("out=${oc.env:SCRATCH}/runs") == "/scratch/runs"
    assert read("data.paths=[${oc.env:SCRATCH}/a b,${oc.env:NONE,x}]") == ["/scratch/a b", "x"]
    for name in ("a${b}", "\\${b", "a\\\\${oc.env:SCRATCH}", "\\"):
        assert read(f"out={without_interpolation(name)}") == name


def test_no_key_with_a_path_is_left_out():
    checked = get_args(FilePath)[-1]
    models = [("", RunConfig), ("tokenizer.", GPT2Tokenizer)]
    models += [("data.", of) for of in (HubData, PydocsData, SyntheticData, TextData)]
    fields = [(prefix + name, field) for prefix, of in models for name, field in of.model_fields.items()]
    found = {key for key, field in fields if checked in field.metadata or FilePath in get_args(field.annotation)}
    assert found | {"resume"} == PATH_KEYS | PATH_LIST_KEYS


# -------------------------------------------------------------------------------------------------------------- real commands
NASTY = "it's [a] \\s {b}=(c)~;&%@#é"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bitnet-train"])
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("launcher", ["serial", "local"])
def test_a_sweep_trains_below_any_folder(launcher, capfd, monkeypatch):
    os.mkdir("${x} \\")
    monkeypatch.chdir("${x} \\")
    assert train.main(["-m", *TINY, "steps=1", "seed=1,2", f"launcher={launcher}", f"out={NASTY}/x\\"]) == 0
    records = [json.loads(p.read_text()) for p in Path(f"{NASTY}/x\\").glob("*/*/run.json")]
    assert [r["status"] for r in records] == ["done", "done"]
    assert [p.name for p in Path().iterdir()] == [NASTY]
    (hint,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("tables: ")]
    assert Path(shlex.split(hint)[-1]).is_dir()


def test_a_run_is_resumed_from_any_folder():
    assert train.main([*TINY, "steps=1", f"out={NASTY}"]) == 0
    (run,) = (p.parent for p in Path(NASTY).glob("*/*/run.json"))
    assert train.main([f"resume={run}/", "checkpoint.keep=3"]) == 0


def test_text_is_read_from_and_prepared_in_any_folder():
    for name in (f"{NASTY}.txt", 'a,"b', "c \\"):
        Path(name).write_text("".join(f"{name} says {i} of {i * i % 97} many words\n" for i in range(400)))
    arguments = ["data=text", "tokenizer=bpe", "tokenizer.vocab_size=280", f"data.cache={NASTY}/"]
    lists = [f"data.paths=[{NASTY}.txt, 'a,\"b']", "data.heldout_paths=[c \\]"]
    assert prepare.main([*arguments, *lists]) == 0
    (manifest,) = Path(NASTY).glob("*/manifest.json")
    said = json.loads(manifest.read_text())["data"]
    assert said["paths"] == [os.path.abspath(f"{NASTY}.txt"), os.path.abspath('a,"b')]
    assert said["heldout_paths"] == [os.path.abspath("c \\")]


def test_a_home_is_a_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert train.main(["-m", *TINY, "steps=1", "launcher=serial", "out=~/runs"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["home"] and len(list(Path("home/runs").glob("*/*/run.json"))) == 1
