"""The audit as its users call it: what is printed and written, what is refused, and the code it ends with."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from rich.console import Console

from slowfast_ray.data.config import DataConfig
from slowfast_ray.learning.intervals import Interval
from slowfast_ray.running.audits import audit_page, audit_terminal, audit_words, auditing
from slowfast_ray.running.audits.auditing import Report
from tests.running.conftest import ROOT

Audit = Callable[..., str]


@pytest.fixture
def audit(call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Audit:
    """Runs the script with some flags; gives what it printed."""

    def run(*flags: object) -> str:
        call_script("audit_thermal", *map(str, flags))
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return run


@pytest.fixture
def refused(call_script: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Audit:
    """Runs the script, which must end with code 2 and print nothing but one error; gives the error."""

    def run(*flags: object) -> str:
        with pytest.raises(SystemExit) as ended:
            call_script("audit_thermal", *map(str, flags))
        assert ended.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        return captured.err

    return run


@pytest.fixture
def leaky(made_up_root: Path, tmp_path: Path) -> Path:
    """The made-up dataset, whose val samples all stand in train as well."""
    root = Path(shutil.copytree(made_up_root, tmp_path / "leaky"))
    shutil.copy(root / "annotations" / "train.json", root / "annotations" / "val.json")
    return root


def shown(report: Report, width: int = 100) -> str:
    text = StringIO()
    audit_terminal.show(report, Console(file=text, width=width))
    return text.getvalue()


def keys_of(content: object, name: str = "") -> set[str]:
    """The paths of all keys; entries of a list stand for one another."""
    if isinstance(content, list):
        return set().union(*(keys_of(each, f"{name}[]") for each in content))
    if not isinstance(content, Mapping):
        return {name}
    return set().union(*(keys_of(value, f"{name}.{key}".lstrip(".")) for key, value in content.items()))


BASELINES = ("majority", "nearest_in_time", "nearest_in_frames", "mean_frame_regression")
KEYS = {
    "format",
    "root",
    *(f"num_findings.{severity}" for severity in ("serious", "warning", "note")),
    *(f"findings[].{key}" for key in ("key", "severity", "title", "count", "total", "examples[]", "remedy")),
    *(
        f"baselines.{name}.{metric}.{key}"
        for name in BASELINES
        for metric in ("val/top1", "val/mean_class")
        for key in ("value", "low", "high", "num_samples")
    ),
    *(
        f"facts.sessions[].{key}"
        for key in ("name", "recordings[]", "start_ms", "end_ms", "num_train", "num_val", "num_dropped")
    ),
    *(
        f"facts.recordings[].{key}"
        for key in (
            *("id", "session", "sensor", "num_frames", "start_ms", "end_ms", "dead_share", "num_dead_frames"),
            *("interval_ms.min", "interval_ms.median", "interval_ms.max"),
        )
    ),
    *(f"facts.shared_frames[].{key}" for key in ("recordings[]", "num_frames")),
    *(f"facts.classes[].{key}" for key in ("name", "num_train", "num_val", "num_train_people", "num_val_people")),
    *(
        f"facts.policies[].{key}"
        for key in ("labels", "ties", "num_train", "num_val", "num_conflicts", "num_ties", "num_dropped", "refusal")
    ),
    *(
        f"facts.{key}"
        for key in (
            *("split_name", "num_leaking", "num_leaking_widest", "dataset_fingerprint", "split_fingerprint"),
            *("window", "widest_window", "window_unit", "refusal"),
        )
    ),
}
"""Of the JSON, in format 1; docs/reading_the_audit.md explains them."""


def test_the_keys_of_the_json_are_stable(leaky: Path, tmp_path: Path, audit: Audit) -> None:
    with h5py.File(leaky / "frames" / "SYN2_R1.h5", "r+") as file, h5py.File(leaky / "frames" / "SYN1_R1.h5") as other:
        file["frames"][:20] = other["frames"][:20]  # pyright: ignore
    audit("--data.root", leaky, "--json", tmp_path / "audit.json")
    content = json.loads((tmp_path / "audit.json").read_text())
    assert keys_of(content) == KEYS
    assert content["format"] == 1
    assert content["root"] == str(leaky)


def test_every_key_is_explained() -> None:
    text = (ROOT / "docs" / "reading_the_audit.md").read_text()
    for path in KEYS:
        name = path.removesuffix("[]").split(".")[-1]
        assert f"`{name}`" in text, path
    sources = "".join(path.read_text() for path in (ROOT / "slowfast_ray" / "data").glob("audit*.py"))
    found = re.findall(r'key=f?"([a-z{][^"]*)"', sources)
    assert len(found) > 30
    for key in found:
        for name in [key.replace("{name}", side) for side in ("train", "val")] if "{" in key else [key]:
            assert f"| `{name}` |" in text, key


def test_what_is_printed_and_what_is_written_say_the_same(made_up_root: Path, tmp_path: Path, audit: Audit) -> None:
    printed = audit("--data.root", made_up_root, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["findings"]
    for finding in content["findings"]:
        assert finding["title"] in printed
        assert finding["remedy"] in printed
        assert f"{finding['key']}: {finding['count']} of {finding['total']}" in printed
    for name in BASELINES:
        interval = Interval(**content["baselines"][name]["val/top1"])
        assert f"{name} " in printed
        assert audit_words.percent(interval) in printed
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_without_a_folder_the_made_up_dataset_is_audited(
    made_up_root: Path, monkeypatch: pytest.MonkeyPatch, audit: Audit
) -> None:
    monkeypatch.setattr("slowfast_ray.data.synthetic.cached", lambda: made_up_root)
    assert "No --data.root: auditing the built-in, made-up dataset.\n" in audit()


@pytest.mark.parametrize(("flags", "code"), [(["--strict"], 1), ([], None)])
def test_only_a_strict_audit_fails_for_a_serious_finding(
    leaky: Path, tmp_path: Path, call_script: Callable[..., None], flags: list[str], code: int | None
) -> None:
    flags = ["--data.root", str(leaky), "--json", str(tmp_path / "audit.json"), *flags]
    if code is None:
        call_script("audit_thermal", *flags)
    else:
        with pytest.raises(SystemExit) as ended:
            call_script("audit_thermal", *flags)
        assert ended.value.code == code
    content = json.loads((tmp_path / "audit.json").read_text())
    assert content["num_findings"]["serious"] > 0, "written before it fails"


def test_a_strict_audit_without_a_serious_finding_ends_well(made_up_root: Path, audit: Audit) -> None:
    printed = audit("--data.root", made_up_root, "--strict", "--data.split", "leave-one-session-out")
    assert "Findings: 0 serious" in printed


def test_what_training_refuses_is_a_finding_and_the_rest_is_shown(leaky: Path, tmp_path: Path, audit: Audit) -> None:
    with h5py.File(leaky / "frames" / "SYN1_R1.h5", "r+") as file:
        file["frames"][3, 4, 5] = np.nan  # pyright: ignore
    printed = audit("--data.root", leaky, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    assert "\nRefused: Frames must hold finite temperatures" in printed
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["baselines"] == {}
    assert "data/refused" in {finding["key"] for finding in content["findings"]}
    page = (tmp_path / "a.html").read_text()
    assert "Refused: " in page
    # What nobody knows is no 0.
    unknown = ("num_train", "num_val", "num_dropped")
    assert {each[name] for each in content["facts"]["sessions"] for name in unknown} == {None}
    assert {each[name] for each in content["facts"]["classes"] for name in unknown[:2]} == {None}
    assert all(each["num_train_people"] is not None for each in content["facts"]["classes"])
    assert re.search(r"\n *1  SYN1_R1 .* - +- +- *\n", printed)
    assert page.count("<b>-</b>") == 3
    assert "standing: - train, - val" in page
    assert 'id="samples"' not in page
    assert 'id="baselines"' not in page
    assert 'id="classes"' in page


def test_the_numbers_of_a_policy_that_is_refused_are_unknown(leaky: Path, tmp_path: Path, audit: Audit) -> None:
    path = leaky / "annotations" / "train.json"
    annotations = json.loads(path.read_text())
    del annotations["annotations"][0]["bbox"]
    path.write_text(json.dumps(annotations))
    printed = audit("--data.root", leaky, "--json", tmp_path / "a.json", "--html", tmp_path / "a.html")
    (person,) = (each for each in json.loads((tmp_path / "a.json").read_text())["facts"]["policies"] if each["refusal"])
    numbers = ("num_train", "num_val", "num_conflicts", "num_ties", "num_dropped")
    assert [person[name] for name in numbers] == [None] * 5
    assert re.search(r"person +- +refused +- +- +- +-", printed)
    assert "refused: " in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("flag", ["json", "html"])
def test_a_file_that_exists_is_refused_before_any_work(tmp_path: Path, refused: Audit, flag: str) -> None:
    taken = tmp_path / "taken"
    taken.write_text("dear to me")
    # Nor is the folder looked at, which does not exist.
    assert "nothing is overwritten" in refused("--data.root", tmp_path / "nowhere", f"--{flag}", taken)
    assert taken.read_text() == "dear to me"
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere")
    assert "nothing is overwritten" in refused("--data.root", tmp_path / "nowhere", f"--{flag}", dangling)


@pytest.mark.parametrize("flag", ["json", "html"])
@pytest.mark.parametrize(
    ("path", "law"), [("no/folder/file", "lies in no folder"), ("/proc/file", "cannot be written")]
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, refused: Audit, flag: str, path: str, law: str
) -> None:
    error = refused("--data.root", tmp_path / "nowhere", f"--{flag}", path)
    assert f"`{flag}`" in error
    assert law in error


def test_one_file_cannot_be_both(tmp_path: Path, refused: Audit) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    for other in ("a", "sub/../a", "link/a"):
        assert "name two" in refused("--json", tmp_path / "a", "--html", tmp_path / other)


@pytest.mark.parametrize(
    ("flags", "law"),
    [
        (["--data.root", "nowhere"], "No such data folder"),
        (["--data.clip-len", "12"], "`data.clip_len` (=12) must be divisible by"),
    ],
)
def test_bad_input_is_one_error(refused: Audit, flags: list[str], law: str) -> None:
    assert law in refused(*flags)


def test_names_from_the_data_cannot_steer_the_terminal(leaky: Path) -> None:
    rename(leaky, "[red]\x1b[2Jstan\nding\ud800")
    text = shown(auditing.report(DataConfig(root=str(leaky))), width=200)
    assert re.search(r"\n *\[red\]\?\[2Jstan\?ding\? +\d+ +\d+", text), "in its table as well"
    assert "\x1b" not in text


@pytest.mark.parametrize("name", ["[red]warm[", "[", "[/nope]", "[bold]x[/bold]", "[link=http://a]b[/link]", ":fire:"])
def test_nothing_in_a_name_is_markup(leaky: Path, name: str) -> None:
    rename(leaky, name)
    report = auditing.report(DataConfig(root=str(leaky)))
    # A file's name holds no slash, so that those of recordings come by another way.
    facts = report.audit.facts
    facts = replace(
        facts,
        sessions=tuple(replace(each, name=f"{name} of {each.name}") for each in facts.sessions),
        recordings=tuple(replace(each, id=f"{name} of {each.id}") for each in facts.recordings),
    )
    lines = shown(replace(report, audit=replace(report.audit, facts=facts)), width=240).splitlines()
    sessions = [line.split()[0] for line in lines if re.match(rf" *\d+  {re.escape(name)} of ", line)]
    assert sessions == [str(i + 1) for i in range(len(facts.sessions))]
    assert sum(line.strip().startswith(f"{name} of ") for line in lines) == len(facts.recordings)
    assert any(re.match(rf" *{re.escape(name)} +\d+ +\d+", line) for line in lines)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_width_cuts_a_number(made_up_root: Path, width: int) -> None:
    report = auditing.report(DataConfig(root=str(made_up_root)))
    text = shown(report, width)
    assert "…" not in text
    for score in report.scores:
        if width >= 80:
            for interval in score.intervals.values():
                assert audit_words.percent(interval) in text


@pytest.mark.parametrize("labels", ["person", "multi"])
def test_other_labels_are_scored_by_their_own_metrics(made_up_root: Path, labels: Any) -> None:
    report = auditing.report(DataConfig(root=str(made_up_root), labels=labels))
    metric = "val/mean_ap" if labels == "multi" else "val/mean_class"
    assert audit_words.metrics_of(report.scores) == ["val/top1", metric]
    assert metric in shown(report)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(37 / 73, 0.39497, 0.61799, 73), "50.68 [39.5, 61.8]"),
        (Interval(1.0, float("nan"), float("nan"), 3), "100.00 [?, ?]"),
    ],
)
def test_percent(interval: Interval, expected: str) -> None:
    assert audit_words.percent(interval) == expected


def test_a_moment_that_is_no_date_is_shown_as_it_is() -> None:
    assert audit_words.when(1_760_482_247_375) == "2025-10-14 22:50:47"
    assert audit_words.when(None) == "-"
    assert audit_words.when(10**18) == f"{10**18} ms"


def test_on_the_real_data_all_that_is_known_is_printed(real_root: Path) -> None:
    report = auditing.report(DataConfig(root=str(real_root)), widest_window=144.0)
    text = shown(report, width=160)
    for expected in (
        "73 of 73 val samples overlap in time with train samples",
        "73 of 73 val windows share moments with train windows",
        "Sessions: 2\n",
        "72 of 314 in train.json, 22 of 73 in val.json",
        "50.68 [39.5, 61.8]   14.29 ",
        "87.67 [78.2, 93.4]   53.42 ",
        "84.93 [75.0, 91.4]   45.70 ",
        "89.04 [79.8, 94.3]   46.43 ",
    ):
        assert expected in text
    for recording, share in (("R1", "2.65"), ("R2", "4.01"), ("R3", "4.48"), ("R4", "4.60")):
        assert any(f"SL14_{recording}" in line and f" {share} % " in line for line in text.splitlines())

    page = audit_page.render(report)
    assert len(page) < 3_000_000, "small enough to send"
    assert page.count("<figure>") == 12 + 1 + 1 + 1 + 2 + 1 + 4
    for expected in ("73 of 73", "50.68 [39.5, 61.8]", "84.93 [75.0, 91.4]", "72 of 314 in train.json, 22 of 73"):
        assert expected in page
    captions = " ".join(re.findall(r"<figcaption>\s*(.*?)\s*</figcaption>", page))
    for each in report.audit.facts.classes:
        assert each.num_train is not None
        assert each.num_val is not None
        assert (f" {each.name} (" in captions) == (each.num_train + each.num_val > 0), each.name


def rename(root: Path, name: str) -> None:
    """Gives the class `standing` another name."""
    for path in (root / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for category in content.get("categories", []):
            if category["name"] == "standing":
                category["name"] = name
        path.write_text(json.dumps(content))
