"""A SlowFast R50 of full width with 400 classes loads in less memory than three times its file."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.model import weight_files
from tests.model.weight_files import MM_4X16, PSF_4X16, State, full_size

MAX_MEMORY = 3.0
"""Of the size of the file."""

MEASURE = """
import json, os, sys
from pathlib import Path
from slowfast_ray.model import pretrained

def memory(name):
    found = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return 1024 * int(found[0])

def measure(path):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is there now
    before = memory("VmRSS")
    weights = pretrained.read(path)
    for each in weights.state.values():  # mapped memory counts once it is looked at
        each.sum()
    return {
        "width": weights.model.width, "classes": weights.model.num_classes, "missing": weights.report.missing,
        "unexpected": weights.report.unexpected, "grown": memory("VmHWM") - before,
    }

for line in sys.stdin:
    if os.fork() == 0:  # memory that was freed after one file would otherwise hold the next
        print(json.dumps(measure(line.strip())), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def measure() -> Iterator[Callable[[Path], dict[str, Any]]]:
    """Reads a file in a process of its own, forked from one that has its libraries and no weights."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def answer(path: Path) -> dict[str, Any]:
            reader.stdin.write(f"{path}\n")  # pyright: ignore[reportOptionalMemberAccess]
            reader.stdin.flush()  # pyright: ignore[reportOptionalMemberAccess]
            return json.loads(reader.stdout.readline())  # pyright: ignore[reportOptionalMemberAccess]

        yield answer
        reader.stdin.close()


def as_pytorchvideo(state: State) -> State:
    from slowfast_ray.model.pretrained_names import rename

    return dict(rename(state, "the fixture").state)


WRITERS: dict[str, tuple[str, Callable[[Path, State], object]]] = {
    "MMAction2's zoo": (MM_4X16, weight_files.save_zoo),
    "MMAction2's training": (MM_4X16, weight_files.save_training),
    "MMAction2's training, before torch 1.6": (
        MM_4X16, lambda path, state: weight_files.save_training(path, state, legacy=True),
    ),
    "PySlowFast": (PSF_4X16, lambda path, state: torch.save({"model_state": state}, path)),
    "Caffe2": (PSF_4X16, lambda path, state: weight_files.save_caffe2(path, weight_files.as_caffe2(state))),
    "pytorchvideo": (PSF_4X16, lambda path, state: torch.save({"model_state": as_pytorchvideo(state)}, path)),
    "slowfast_ray": (PSF_4X16, lambda path, state: save_file(as_pytorchvideo(state), path)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.slow
def test_full_size_loads_in_less_than_three_times_its_file(
    tmp_path: Path, name: str, measure: Callable[[Path], dict[str, Any]]
) -> None:
    fixture, write = WRITERS[name]
    path = tmp_path / "weights"
    write(path, full_size(fixture))
    size = path.stat().st_size
    found = measure(path)
    path.unlink()
    assert size > 130e6
    assert (found["width"], found["classes"], found["missing"], found["unexpected"]) == (1.0, 400, [], [])
    # Less than half the file would mean that nothing was measured.
    assert 0.5 * size < found["grown"] < MAX_MEMORY * size, f"{found['grown'] / size:.2f} of the file"
