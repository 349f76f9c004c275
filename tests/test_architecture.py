"""The floors and the doors of the house: reads every import and names the line that breaks a rule.

roof          experiments, benchmarks, cluster --> search_spaces
first floor   slowfast_ray.running
landing       slowfast_ray.experiment  slowfast_ray.run_config
ground        slowfast_ray.data   slowfast_ray.model   slowfast_ray.learning     (never one another)
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A wing's config.py is what the landing is made of: the landing may import those three, and nothing else below.
MAY_IMPORT = {
    "slowfast_ray.data": {"slowfast_ray.data"},
    "slowfast_ray.model": {"slowfast_ray.model"},
    "slowfast_ray.learning": {"slowfast_ray.learning"},
    "slowfast_ray.experiment": {
        "slowfast_ray.data.config", "slowfast_ray.model.config", "slowfast_ray.learning.config",
        "slowfast_ray.run_config",
    },
    "slowfast_ray.run_config": set(),
    "slowfast_ray.running": {
        "slowfast_ray.data", "slowfast_ray.model", "slowfast_ray.learning", "slowfast_ray.experiment",
        "slowfast_ray.run_config", "slowfast_ray.running",
    },
    "search_spaces": {"search_spaces"},
    "experiments": {"slowfast_ray", "search_spaces"},
    "benchmarks": {"slowfast_ray", "search_spaces"},
    "cluster": {"slowfast_ray"},
}  # fmt: skip

DOORS = {
    "h5py": {"slowfast_ray/data/recording_files.py", "slowfast_ray/data/synthetic.py"},
    "pytorchvideo": {"slowfast_ray/model/slowfast.py"},
    "torchvision": set(),
    "mlflow": {"slowfast_ray/running/tracking/"},
    "sklearn": {"slowfast_ray/data/baselines.py", "slowfast_ray/learning/predictions.py"},
    "matplotlib": {
        "slowfast_ray/running/audits/",
        "slowfast_ray/running/evaluations/evaluation_pictures.py",
        "slowfast_ray/running/predictions/prediction_pictures.py",
        "slowfast_ray/running/charts/search_pictures.py",
    },
    "plotly": {"slowfast_ray/running/charts/"},
    "jinja2": {"slowfast_ray/running/audits/audit_page.py"},
    "optuna": {
        "slowfast_ray/running/searching/study.py",
        "slowfast_ray/running/searching/suggesting.py",
        "slowfast_ray/running/searching/pruning.py",
        "slowfast_ray/running/searching/search_",
        "slowfast_ray/running/charts/",
    },
    "tyro": {
        "slowfast_ray/running/commands.py",
        "slowfast_ray/running/flags.py",
        "slowfast_ray/running/converting.py",
        "benchmarks/",
    },
    "ray": {"slowfast_ray/running/", "search_spaces/", "benchmarks/searchers", "benchmarks/scaling.py"},
    "pickle": {"slowfast_ray/model/pretrained_caffe2.py"},
    "cloudpickle": set(),
    "onnxruntime": {"slowfast_ray/running/publishing/exported_programs.py", "benchmarks/predicting.py"},
    "psutil": {
        "slowfast_ray/running/training/system_metrics.py",
        "slowfast_ray/running/nodes/machines.py",
        "slowfast_ray/running/training/pulse.py",
        "slowfast_ray/running/training/process_group.py",
        "benchmarks/driver_playing.py",
        "benchmarks/kills.py",
    },
    "sqlalchemy": {"slowfast_ray/running/tracking/tracking_database.py", "cluster/mlflow_server.py"},
}
"""Guests, and the files or folders that may let them in."""


def sources() -> list[Path]:
    folders = ("slowfast_ray", "search_spaces", "experiments", "benchmarks", "cluster")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported module of a file, with its line; `from a import b` counts as a.b, since b may be a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where a name lives"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def broken_floors(path: Path) -> list[str]:
    floor = next((name for name in MAY_IMPORT if is_within(module_of(path), name)), None)
    if floor is None:  # slowfast_ray/__init__.py
        return [f"{path}:{line}: imports {module}, but holds a docstring only" for module, line in imports(path)]
    ours = ("slowfast_ray", "search_spaces", "experiments", "benchmarks", "cluster")
    return [
        f"{path}:{line}: {floor} must not import {module}"
        for module, line in imports(path)
        if any(is_within(module, name) for name in ours)
        and not any(is_within(module, allowed) for allowed in MAY_IMPORT[floor])
    ]


def broken_doors(path: Path) -> list[str]:
    place = path.relative_to(ROOT).as_posix()
    return [
        f"{path}:{line}: {guest} enters by {', '.join(sorted(doors)) or 'no door'} only"
        for module, line in imports(path)
        for guest, doors in DOORS.items()
        if is_within(module, guest) and not any(place.startswith(door) for door in doors)
    ]


def circle_of(paths: list[Path]) -> list[str]:
    """Modules that import one another in a circle, the first one again at the end; imports within functions count."""
    modules = {module_of(path): path for path in paths}
    reached = {
        name: {
            found for module, _ in imports(path) for found in (module, module.rpartition(".")[0]) if found in modules
        } - {name}
        for name, path in modules.items()
    }  # fmt: skip
    try:
        TopologicalSorter(reached).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_floors_and_doors(path: Path) -> None:
    assert broken_floors(path) + broken_doors(path) == []


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_opens_with_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_no_circle_of_imports() -> None:
    assert circle_of(sources()) == []


def test_a_room_holds_no_code_of_its_own() -> None:
    rooms = sorted((ROOT / "slowfast_ray" / "running").glob("*/__init__.py"))
    assert len(rooms) == 10
    for path in rooms:
        assert len(ast.parse(path.read_text(encoding="utf-8")).body) == 1, f"{path} holds more than its docstring"


def test_the_reader_of_imports_sees_what_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A check that cannot fail would be worthless: each rule is broken here once.
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    wing = tmp_path / "slowfast_ray" / "data"
    wing.mkdir(parents=True)
    file = wing / "bad.py"
    file.write_text("import mlflow\nfrom slowfast_ray.model import slowfast\ndef f():\n    import ray.tune\n")
    assert [message.split(": ", 1)[1] for message in broken_floors(file)] == [
        "slowfast_ray.data must not import slowfast_ray.model.slowfast"
    ]
    assert {message.split(": ", 1)[1].split()[0] for message in broken_doors(file)} == {"mlflow", "ray"}
    (wing / "worse.py").write_text("from slowfast_ray.data.bad import f\n")
    file.write_text("def f():\n    from slowfast_ray.data import worse\n")
    assert set(circle_of([file, wing / "worse.py"])) == {"slowfast_ray.data.bad", "slowfast_ray.data.worse"}
