"""What a run would cost, before it starts: sizes, memory, steps and time. Trains nothing that is kept, writes nothing.

Sizes are computed (model/cost.py), time is measured (measuring.py).
"""

from datetime import timedelta

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from slowfast_ray.data import memory
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import optimizer
from slowfast_ray.learning.learner import UnfitDeviceError, check_precision
from slowfast_ray.learning.step import DoesNotFitError
from slowfast_ray.model.cost import Cost, gibibytes
from slowfast_ray.running.nodes import cluster
from slowfast_ray.running.nodes.slots import Slots
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.training import measuring, needs, wiring
from slowfast_ray.running.training.measuring import Measured, share_of
from slowfast_ray.running.training.wiring import Place

CPU_FLOPS = 5e11
"""A step of more operations is not measured with all its clips on a CPU: two cores take 10 s for them [FLOPs]."""
WAYS = 3
"""A way forward and one back, which costs two."""
STAGES = ("classifier", "res5", "res4", "res3", "res2", "stem")
"""By their distance from the output."""
ELSEWHERE = "the workers have GPUs, this machine has none"
"""Why nothing is measured."""

Rows = list[tuple[str, str]]


def show(ready: Ready) -> None:
    """Measures, and prints the plan of a run within 80 columns. On a cluster Ray is connected."""
    run = ready.experiment.run
    device = wiring.device_of(run)
    if run.cluster_address is None:
        found = rows(ready, device, num_bytes_of(ready.experiment, device))
    else:
        slots, machines = cluster.slots_for(run, max_concurrent=1)
        found = [("machines", str(machines)), ("slots", slots.described(machines))]
        reason = why_not_measured(ready.experiment, slots, device)
        if reason:
            needed = needs.cost_of(ready.experiment)
            found += [*_sizes(ready, needed), *_steps(ready), ("not measured", reason)]
        else:
            found += rows(ready, device, num_bytes_of(ready.experiment, device), slots.cpus_per_worker)
    console = Console()
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False, width=min(80, console.width))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in found:
        table.add_row(name, Text(text))
    console.print(table)
    console.print("Nothing was trained that is kept, and nothing was written.", highlight=False)


def why_not_measured(experiment: Experiment, slots: Slots, device: torch.device) -> str:
    """Why a device of this machine says nothing of the workers'; empty where it does."""
    if slots.gpus_per_worker > 0 and device.type == "cpu":
        return ELSEWHERE
    try:
        check_precision(experiment.learning, device)
    except UnfitDeviceError as error:
        return f"this machine is none of those that train: {error}"
    return ""


def num_bytes_of(experiment: Experiment, device: torch.device) -> int:
    """Memory that a worker may have on a device of this machine [bytes]."""
    return int(memory.of_device(device) * (experiment.run.gpu_share if device.type == "cuda" else 1))


def rows(ready: Ready, device: torch.device, num_bytes: int, num_threads: int | None = None) -> Rows:
    """The plan of a run on a device with so much memory, measured where a single clip fits into it, on so many threads:
    None for those that torch has.
    """
    experiment = ready.experiment
    needed = needs.cost_of(experiment)
    found = [*_sizes(ready, needed), *_steps(ready)]
    measured = measured_on(experiment, needed, device, num_bytes, num_threads)
    if measured is None:
        fits_alone = needs.memory_bytes(needed, experiment, 1) <= num_bytes
        at_once = 1 if fits_alone else experiment.learning.micro_batch or share_of(experiment)
        return [*found, *_memory_rows(experiment, needed, at_once, device, num_bytes, None)]
    rows_of_memory = _memory_rows(experiment, needed, measured.micro_batch, device, num_bytes, measured)
    num_steps = len(ready.data.train) // experiment.learning.batch_size
    return [*found, *rows_of_memory, *_times(experiment, num_steps, measured, device)]


def measured_on(
    experiment: Experiment, needed: Cost, device: torch.device, num_bytes: int, num_threads: int | None
) -> Measured | None:
    """What some steps take on a device with so much memory; None where not even one clip fits into it."""
    if needs.memory_bytes(needed, experiment, 1) > num_bytes:
        return None
    at_once = experiment.learning.micro_batch or share_of(experiment)
    is_large = device.type == "cpu" and (
        needs.memory_bytes(needed, experiment, at_once) > num_bytes
        or WAYS * needed.flops_per_clip * share_of(experiment) > CPU_FLOPS
    )
    run = experiment.run
    place = Place(num_workers=run.num_workers, device=device, num_threads=num_threads, gpu_share=run.gpu_share)
    prepared = wiring.prepare(experiment, place)
    try:
        return measuring.measure(prepared, 1 if is_large else share_of(experiment))
    except DoesNotFitError:
        return None


def _sizes(ready: Ready, needed: Cost) -> Rows:
    data, model, learning = ready.experiment.data, ready.experiment.model, ready.experiment.learning
    interval = f"{data.frame_interval_ms:g} ms" if data.frame_interval_ms else f"{data.frame_interval} frame(s)"
    num_frozen = needed.num_parameters - needed.num_learning
    learns = "all of them learn" if num_frozen == 0 else f"{_short(num_frozen)} of them frozen"
    if model.unfreeze_every is not None and model.freeze_stages:
        learns += f", once {model.freeze_stages} frozen stage(s) have thawed, one each {model.unfreeze_every} epoch(s)"
    num_ways = WAYS + model.gradient_checkpointing
    per_step = num_ways * needed.flops_per_clip * learning.batch_size
    return [
        ("data", f"{len(ready.data.train)} train and {len(ready.data.val)} val samples, split {ready.data.split_name}"),
        ("clips", f"{data.clip_len} frames of {data.height} x {data.width}, an interval of {interval}"),
        (
            "network",
            f"SlowFast R{model.depth}, width {model.width:g}, {learning.precision}, from {model.weights or 'scratch'}",
        ),
        ("parameters", f"{_short(needed.num_parameters)}, {learns}"),
        (
            "operations",
            f"{_short(needed.flops_per_clip)}FLOPs a clip and way forward, {_short(per_step)}FLOPs a step "
            "(a multiply-add is two)",
        ),
    ]


def _steps(ready: Ready) -> Rows:
    learning = ready.experiment.learning
    num_steps = len(ready.data.train) // learning.batch_size
    total = num_steps * learning.num_epochs
    early = "" if learning.early_stop is None else f", fewer after {learning.early_stop} without a better value"
    warmup = round(total * learning.warmup_fraction)
    return [
        ("steps", f"{num_steps} an epoch, {learning.num_epochs} epochs{early}: {total} in all"),
        ("learning rate", f"{_rates(ready.experiment)}; rises for {warmup} steps, then falls to 0 on a cosine"),
    ]


def _rates(experiment: Experiment) -> str:
    """The highest learning rate of each part, from the output to the input; neighbours of one rate share it."""
    learning = experiment.learning
    rates = [learning.peak_lr * optimizer.lr_factor(learning, depth) for depth in range(len(STAGES))]
    if len(set(rates)) == 1:
        return f"{rates[0]:.3g} for all"
    if len(set(rates[1:])) == 1:
        return f"{STAGES[0]} {rates[0]:.3g}, all before it {rates[1]:.3g}"
    return ", ".join(f"{name} {rate:.3g}" for name, rate in zip(STAGES, rates, strict=True))


def _memory_rows(
    experiment: Experiment, needed: Cost, at_once: int, device: torch.device, num_bytes: int, measured: Measured | None
) -> Rows:
    share, workers = share_of(experiment), experiment.run.num_workers
    asked = experiment.learning.micro_batch or share
    halved = f" (halved from {asked}: the GPU is too small)" if at_once < asked else ""
    parts = f", in {share // at_once} parts of {at_once}{halved}" if at_once < share else ""
    who = "a step" if workers == 1 else f"a step, {share} on each of {workers} workers"
    of = "GPU" if device.type == "cuda" else "machine"
    shared = ", which all workers share" if workers > 1 and device.type == "cpu" else ""
    estimated = needs.memory_bytes(needed, experiment, at_once)
    peak = "" if measured is None or measured.peak_bytes is None else f" ({gibibytes(measured.peak_bytes)} measured)"
    found = [
        ("batch", f"{experiment.learning.batch_size} clips {who}{parts}"),
        (
            "memory",
            f"about {gibibytes(estimated)} a worker{peak}, of the {gibibytes(num_bytes)} of this {of}{shared}",
        ),
    ]
    if measured is None:
        found.append(("does not fit", f"not even one clip at a time; try {needs.what_fits(experiment, num_bytes)}"))
    elif estimated > num_bytes:
        by_parts = {each: needs.memory_bytes(needed, experiment, each) for each in range(1, share) if share % each == 0}
        fits = max(each for each, num in by_parts.items() if num <= num_bytes)
        found.append(("does not fit", f"try `learning.micro_batch` {fits} ({gibibytes(by_parts[fits])})"))
    return found


def _times(experiment: Experiment, num_steps: int, measured: Measured, device: torch.device) -> Rows:
    learning = experiment.learning
    epoch_seconds = measured.epoch_seconds(num_steps)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
    scaled = ""
    if measured.num_clips < share_of(experiment):
        scaled = f", with {measured.num_clips} clip each and scaled to {share_of(experiment)}"
    at_most = "" if learning.early_stop is None else "at most "
    alone = "" if experiment.run.num_workers == 1 else "; one worker alone, its talk with the others not counted"
    return [
        ("measured", f"{measured.num_steps} step(s) on {where}{scaled}{alone}"),
        ("a step", f"{measured.step_seconds:.3g} s"),
        ("an epoch", f"{_clock(epoch_seconds)}, of which evaluation {_clock(measured.evaluation_seconds)}"),
        ("in all", f"{at_most}{_clock(epoch_seconds * learning.num_epochs)}"),
    ]


def _short(number: float) -> str:
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f} "


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
