"""A model folder as programs for other machines, checked against the network on real clips, and timed beside it.

    model.pt2, model.onnx    the network (exported_programs.py)
    export.json              what goes in and comes out, how clips are sampled, what the check found, versions, times

Both programs take the frames that a clip consists of, in degrees Celsius at the sensor's size: normalising and resizing
are inside. Which frames those are, every frame_interval-th around a keyframe, stays outside, as does the repair of dead
pixels. A network that looks at people is exported from its crop on, which only ClipReader cuts.

Shapes: B clips.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from slowfast_ray.learning import loop
from slowfast_ray.running.folders import storage
from slowfast_ray.running.predicting import Predictor
from slowfast_ray.running.publishing import exported_clips, exported_facts, exported_programs, latency, model_folder
from slowfast_ray.running.publishing.exported_clips import CheckClips
from slowfast_ray.running.publishing.exported_facts import EAGER, TOLERANCE, Exported
from slowfast_ray.running.publishing.exported_programs import FromFrames, Way

DESCRIPTION = "export.json"
BATCH_SIZES = (1, 4)
"""That are checked and timed; the trace itself saw 2."""
SECONDS = 10.0
"""To time each of them, about."""


def export(model: Path, out: Path, *, root: str | None = None, paths: Sequence[Path] = ()) -> Exported:
    """Exports the model folder `model` into the new folder `out`.

    It is checked on clips of the dataset `root`, or of the recordings `paths`, or of the made-up dataset. Raises
    ValueError where packages are missing, `out` exists or cannot be made, the model or the clips cannot be read, and
    where a program does not say what the network says: then nothing is left.
    """
    exported_programs.check_installed()
    out = Path(os.path.normpath(out.expanduser().absolute()))
    if out.exists():
        raise ValueError(f"{out} exists, and nothing is overwritten; name another folder.")
    storage.check_place(out, "out")
    trained_in = model_folder.read(model)[1].learning.precision
    loaded = Predictor.load(model, torch.device("cpu"))
    predictor = replace(loaded, experiment=loaded.experiment.override({"learning.precision": "fp32"}))
    clips = exported_clips.of_recordings(predictor, paths) if paths else exported_clips.of_dataset(predictor, root)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        exported = _export(predictor, clips, unfinished, out, _notes(predictor, trained_in))
        text = json.dumps(exported_facts.described(exported, predictor, unfinished), indent=1) + "\n"
        (unfinished / DESCRIPTION).write_text(text, encoding="utf-8")
        if out.exists():
            raise ValueError(f"{out} came to be meanwhile, and nothing is overwritten; name another folder.")
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return exported


def _export(predictor: Predictor, clips: CheckClips, folder: Path, out: Path, notes: tuple[str, ...]) -> Exported:
    config, described = predictor.experiment.data, predictor.description
    if predictor.looks_at_people:
        network, take = predictor.model, clips.prepared
        clip_shape = (1, config.clip_len, config.height, config.width)
    else:
        network, take = FromFrames(predictor.model, config).eval(), clips.frames
        clip_shape = (config.clip_len, described.frame_height, described.frame_width)
    exported_programs.write(network, clip_shape, folder)
    num_threads = torch.get_num_threads()
    device = predictor.device
    ways: dict[str, Way] = {
        exported_programs.PT2: exported_programs.open_pt2(folder / exported_programs.PT2, device),
        exported_programs.ONNX: exported_programs.open_onnx(folder / exported_programs.ONNX, device, num_threads),
    }
    checked = {size: _differences(predictor, clips, take, ways, size) for size in BATCH_SIZES}
    differences = {size: found for size, (found, _) in checked.items()}
    _check(differences)
    timed = {EAGER: exported_programs.eager(network, device), **ways}
    latencies = {}
    for size in BATCH_SIZES:
        batch = take(torch.arange(size) % len(clips))
        calls = {name: partial(way, batch) for name, way in timed.items()}
        latencies[size] = latency.measure(calls, seconds=SECONDS)
    return Exported(
        out=out,
        source=clips.source,
        num_clips=len(clips),
        differences=differences,
        largest_logit=max(largest for _, largest in checked.values()),
        latencies=latencies,
        num_threads=num_threads,
        notes=notes,
    )


def _differences(
    predictor: Predictor,
    clips: CheckClips,
    take: Callable[[torch.Tensor], torch.Tensor],
    ways: Mapping[str, Way],
    size: int,
) -> tuple[dict[str, float], float]:
    """The largest difference of a logit between each way and the network, `size` clips at once, and the largest logit.

    `take` gives what a program takes of chosen clips. The network goes the way of prediction, not that of the trace.
    """
    logits: list[torch.Tensor] = []
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ways}
    for chosen in torch.arange(len(clips)).split(size):
        logits.append(loop.logits_of(predictor.model, clips.prepared(chosen), predictor.experiment.learning, size))
        for name, way in ways.items():
            found[name].append((way(take(chosen)) - logits[-1]).abs())
    return {name: float(torch.cat(each).max()) for name, each in found.items()}, float(torch.cat(logits).abs().max())


def _check(differences: Mapping[int, Mapping[str, float]]) -> None:
    for size, found in differences.items():
        for name, difference in found.items():
            if not difference <= TOLERANCE:  # also where it is NaN
                raise ValueError(
                    f"{name} does not say what the network says: with {size} clip(s) at once, logits differ by up to "
                    f"{difference:.2g}, more than {TOLERANCE:g}. Nothing was exported; try the versions in "
                    "constraints.txt."
                )


def _notes(predictor: Predictor, trained_in: str) -> tuple[str, ...]:
    notes = []
    if trained_in != "fp32":
        notes.append(f"Trained in {trained_in}; exported, checked and timed in fp32.")
    if predictor.looks_at_people:
        notes.append(
            "It looks at people: the programs take crops, normalised and resized, as ClipReader.read gives them."
        )
    return tuple(notes)
