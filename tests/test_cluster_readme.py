"""The commands of cluster/README.md and of the cluster files, against the tools that are installed here."""

import io
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray._private.utils import check_version_info, compute_version_info
from ray.scripts.scripts import cli

from slowfast_ray.running import commands as command_line
from slowfast_ray.running.flags import FetchFlags, SyncFlags, TuneFlags
from tests.running.conftest import ROOT

CLUSTER = ROOT / "cluster"
README = CLUSTER / "README.md"
UNCHECKED = {"aws", "kubectl", "docker", "make"}
"""Tools that need not be here: only the files that their commands name are looked for."""
PLAIN: dict[str, type[Any]] = {"fetch_thermal": FetchFlags, "sync_tracking": SyncFlags}
SHELL = {"export", "VPC", "SG", "FILES", "CLUSTER", "allow", "for", "done", "base64"}
OPERATORS = {"|", "&&", "||", ";", "&"}


def commands_of(page: str) -> list[list[str]]:
    """The words of each command in a page's indented blocks; lines that end with a backslash go on."""
    blocks = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    found: list[list[str]] = []
    for line in blocks.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((at for at, word in enumerate(words) if word in OPERATORS), len(words))
            found.append(words[:end])
            words = words[end + 1 :]
    return [each for each in found if each]


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command; None where nothing is, or cannot be known here."""
    tool = words[0]
    if tool == "ray":
        return ray_fault(words[1:])
    if tool.endswith("python"):
        return script_fault(words[1:])
    if tool in UNCHECKED:
        return file_fault(words)
    return None if re.split(r"[=()]", tool)[0] in SHELL else f"unknown tool: {tool}"


def ray_fault(words: list[str]) -> str | None:
    """By Ray's own parser, without running anything. `>` and what follows is the shell's."""
    words = words[: words.index(">")] if ">" in words else words
    command: click.Command = cli
    while isinstance(command, click.Group):
        if not words or command.get_command(click.Context(command), words[0]) is None:
            return f"no such command of Ray: {' '.join(words[:1])}"
        command, words = command.commands[words[0]], words[1:]
    try:
        context = command.make_context(command.name, list(words), resilient_parsing=False)
    except click.ClickException as error:
        return f"ray {command.name}: {error.format_message()}"
    if command.name == "submit":
        return fault_of(list(context.params["entrypoint"]))
    if command.name == "exec":
        inner = [word for word in shlex.split(context.params["cmd"]) if not re.match(r"[A-Z_]+=", word)]
        inner[0] = Path(inner[0]).name
        return fault_of(inner) or file_fault(words)
    return file_fault(words)


def script_fault(words: list[str]) -> str | None:
    script = ROOT / words[0].removeprefix("slowfast_ray/").removeprefix("/home/ray/slowfast_ray/")
    flags = words[1:]
    if not script.is_file():
        return f"no such script: {words[0]}"
    try:
        with redirect_stdout(io.StringIO()):
            if script.stem == "tune_thermal":
                if "--resume" in flags:  # it would be looked for
                    flags = [*flags, "--name", "new"]
                    del flags[flags.index("--resume") : flags.index("--resume") + 2]
                preset = [] if "--preset" in flags else ["--preset", "laptop"]  # or Ray would be asked for GPUs
                command_line.parse(TuneFlags, "What?", [*preset, *flags])
            elif script.stem in PLAIN:
                command_line.parse_plain(PLAIN[script.stem], "What?", flags)
            else:
                return _argparse_fault(script, flags)
    except SystemExit:
        return f"flags that {script.name} does not take: {' '.join(flags)}"
    return None


def _argparse_fault(script: Path, flags: list[str]) -> str | None:
    """Of a script that makes an argparse parser in its `main`; each flag must be named there."""
    text = script.read_text()
    unknown = [flag for flag in flags if flag.startswith("--") and f'"{flag}"' not in text]
    return f"flags that {script.name} does not take: {' '.join(unknown)}" if unknown else None


def file_fault(words: list[str]) -> str | None:
    lost = [word for word in words if word.startswith("cluster/") and not (ROOT / word).is_file()]
    return f"no such file: {lost}" if lost else None


def test_every_command_of_the_page_has_flags_and_files_that_are_there() -> None:
    found = commands_of(README.read_text())
    assert len(found) > 40
    faults = [f"{' '.join(words)[:80]}: {fault}" for words in found if (fault := fault_of(words)) is not None]
    assert faults == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ray upp cluster/gpu.yaml", "no such command"),
        ("ray up --yess cluster/gpu.yaml", "No such option"),
        ("ray up -y cluster/gpus.yaml", "no such file"),
        ("ray job submit --workdir . -- python experiments/tune_thermal.py", "No such option"),
        ("ray job submit --working-dir . -- python experiments/tune_termal.py", "no such script"),
        ("ray job submit --working-dir . -- python experiments/tune_thermal.py --run.store x", "does not take"),
        ("ray job submit -- python experiments/tune_thermal.py --run.gpus-per-worker one", "does not take"),
        ("ray exec cluster/gpu.yaml 'X=1 .venv/bin/ray statuss'", "no such command"),
        (
            "ray exec cluster/gpu.yaml '.venv/bin/python slowfast_ray/cluster/mlflow_on_head.py s3://B --sav'",
            "not take",
        ),
        ("python experiments/sync_tracking.py --all", "does not take"),
        ("python experiments/fetch_thermal.py s3://BUCKET/runs/thermal-1", "does not take"),
        ("kubectl apply --filename cluster/rayjobs.yaml", "no such file"),
        ("terraform apply", "unknown tool"),
    ],
)
def test_a_wrong_command_is_found_out(line: str, fault: str) -> None:
    (words,) = commands_of(f"    {line}")
    assert fault in (fault_of(words) or "")


@pytest.mark.parametrize("name", ["gpu.yaml", "onprem.yaml"])
def test_what_machines_are_told_are_commands_of_ray_and_of_scripts_here(name: str) -> None:
    config: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    lines = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    told = [
        found
        for line in lines
        for found in re.findall(r"(?:^|\s|/)(ray (?:start|stop)[^;|&]*|python\s+\S+[^;|&>]*)", line)
    ]
    assert len(told) == (6 if name == "gpu.yaml" else 4)
    for command in told:
        words = re.sub(r"\$\([^)]*\)?|\$\w+", "X", command).replace("~/", "").split()
        assert fault_of(words) is None, (command, fault_of(words))


def test_the_search_of_the_rayjob_has_flags_that_are_there() -> None:
    job = list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text()))[-1]
    assert fault_of(shlex.split(job["spec"]["entrypoint"])) is None


def test_the_page_says_nothing_of_files_that_are_not_there() -> None:
    named = re.findall(r"`?\b((?:docs/)?[a-z_]+\.(?:py|yaml|md|txt))\b", README.read_text())
    places = (CLUSTER, ROOT, ROOT / "experiments", ROOT / "tests" / "cluster")
    assert [name for name in set(named) if not any((place / name).is_file() for place in places)] == []


@pytest.mark.parametrize("name", ["README.md", "onprem.yaml"])
def test_the_pages_ask_for_the_python_that_ray_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", raising=False)
    version, python = compute_version_info()
    check_version_info({"ray_version": version, "python_version": python}, "here")
    with pytest.raises(RuntimeError, match="Version mismatch"):
        check_version_info({"ray_version": version, "python_version": f"{python}0"}, "here")
    page = (CLUSTER / name).read_text()
    assert "to the patch" in page
    assert "minor version" not in page
