"""What is known of an export, and how export.json says it: what goes in and comes out, sampling, check, and times."""

import hashlib
import importlib
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slowfast_ray.data import augment, recordings
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import exported_programs
from slowfast_ray.running.publishing.latency import Latency

FORMAT = 1
"""Of export.json: raised when a key goes or changes its meaning, not when one comes."""
TOLERANCE = 1e-4
"""Largest difference of a logit between a program and the network, both in fp32."""
EAGER = "network"
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")
"""By the names that they are imported by: ONNX Runtime is installed under several."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what it is like."""

    out: Path
    source: str
    """Of the clips that it was checked on."""
    num_clips: int
    differences: dict[int, dict[str, float]]
    """The largest of any logit, by the size of a batch and the program's file."""
    largest_logit: float
    """Of the network, on these clips: what differences are small against."""
    latencies: dict[int, dict[str, Latency]]
    """By the size of a batch and the program's file; EAGER is the network as it was."""
    num_threads: int
    notes: tuple[str, ...]
    """What is otherwise than one may think."""


def described(exported: Exported, predictor: Predictor, folder: Path) -> dict[str, Any]:
    """What export.json says; `folder` holds the programs."""
    config, description = predictor.experiment.data, predictor.description
    frame_size = [description.frame_height, description.frame_width]
    size = [config.height, config.width]
    if predictor.looks_at_people:
        shape = ["batch", 1, config.clip_len, *size]
        unit = "degrees Celsius, normalised; cropped around a person and resized"
    else:
        shape = ["batch", config.clip_len, *frame_size]
        unit = "degrees Celsius, as recorded"
    return {
        "format": FORMAT,
        "written_by": "slowfast_ray " + version("slowfast-ray"),
        "trained_as": description.trained_as,
        "classes": description.classes,
        "input": {"name": exported_programs.INPUT, "dtype": "float32", "shape": shape, "unit": unit},
        "output": {
            "name": exported_programs.OUTPUT,
            "dtype": "float32",
            "shape": ["batch", len(description.classes)],
            "probabilities": "sigmoid" if config.labels == "multi" else "softmax",
        },
        "sampling": {
            "clip_len": config.clip_len,
            "frame_interval": config.frame_interval if config.frame_interval_ms is None else None,
            "frame_interval_ms": config.frame_interval_ms,
            "keyframe_position": config.clip_len // 2,
            "past_an_end": "the recording's first or last frame again",
            "dead_pixels": f"below {recordings.DEAD_BELOW_CELSIUS:g} degrees Celsius; repair them before",
        },
        "normalisation": {
            "inside": not predictor.looks_at_people,
            "law": "(clip((celsius - min) / (max - min), 0, 1) - mean) / std",
            "min_celsius": config.min_celsius,
            "max_celsius": config.max_celsius,
            "mean": augment.MEAN,
            "std": augment.STD,
        },
        "frame_size": frame_size,
        "network_size": size,
        "person_margin": config.person_margin if predictor.looks_at_people else None,
        "precision": "fp32",
        "notes": exported.notes,
        "programs": {
            name: {"sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(), "opened_by": opened_by}
            for name, opened_by in (
                (exported_programs.PT2, "torch.export.load, which may unpickle: load only what you exported yourself"),
                (exported_programs.ONNX, "ONNX Runtime, which unpickles nothing"),
            )
        },
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.import_module(name).__version__ for name in PACKAGES},
        },
        "checked": {
            "on": exported.source,
            "num_clips": exported.num_clips,
            "largest_difference_of_logits": exported.differences,
            "at_most": TOLERANCE,
            "largest_logit": exported.largest_logit,
        },
        "latency_ms_a_batch": {
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, CPU, {exported.num_threads} thread(s)",
            "by_batch_size": {
                size: {
                    name: {"p50": each.p50_ms, "p95": each.p95_ms, "num_calls": each.num_calls}
                    for name, each in timed.items()
                }
                for size, timed in exported.latencies.items()
            },
        },
    }
