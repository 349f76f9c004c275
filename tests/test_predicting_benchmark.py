"""The benchmark of answers runs, on the smallest network that there is."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import rich
import torch

from slowfast_ray.experiment import LAPTOP
from slowfast_ray.running.publishing import latency

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
predicting: Any = importlib.import_module("predicting")


@pytest.mark.slow  # it exports first
def test_the_script_prints_every_way_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smallest = LAPTOP.override({"model.width": 0.125, "data.clip_len": 8, "data.height": 20, "data.width": 30})
    tiny = smallest.override({"learning.precision": "bf16"})  # as the gpu preset has it
    num_threads = torch.get_num_threads()
    monkeypatch.setattr(predicting, "PRESETS", {"laptop": tiny})
    rich.reconfigure(width=160)  # an earlier test may have made the console, as wide as it was then
    flags = ["--preset", "laptop", "--seconds", "0", "--num-frames", "64", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["predicting.py", *flags])
    predicting.main()
    rich.reconfigure()
    torch.set_num_threads(num_threads)
    printed = capsys.readouterr().out
    for way in ("eager, bf16", "torch.export", "ONNX Runtime, CPU"):
        assert printed.count(way) == 3, "one clip, a batch, and a recording"
    assert printed.count("recording, 4 clips") == 4
    assert "earlier system's promise │    100" in printed
    assert "1 thread(s)" in printed


def test_ways_take_turns_and_the_first_calls_do_not_count() -> None:
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    found = latency.measure(ways, seconds=0.0)
    assert "".join(called) == "abab" + 2 * (6 * "a" + 6 * "b")
    assert {name: each.num_calls for name, each in found.items()} == {"a": 10, "b": 10}
    assert all(0 <= each.p50_ms <= each.p95_ms for each in found.values())
