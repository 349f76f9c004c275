"""Can the network learn a few batches by heart? Where it cannot, network, loss and labels do not fit together, and no
training will help. Keeps and writes nothing.

Nothing is varied, mixed or dropped, and nothing but these batches is seen: what training adds against learning by heart
is left out, and all else is the experiment's own.
"""

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console

from slowfast_ray.data.batches import Batch
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import counts, loop, step
from slowfast_ray.learning.counts import Counts
from slowfast_ray.running.preflight import Ready
from slowfast_ray.running.training import wiring
from slowfast_ray.running.training.wiring import Place, Prepared

MAX_PASSES = 200
"""Over the batches; a few dozen are enough where all fits."""
MAX_LOSS = 0.1
"""Mean training loss below which a batch is learnt: its clips have a probability of about 0.9 [nats]."""
WARMUP_STEPS = 10
"""After them the learning rate stays near its peak: what is planned for MAX_PASSES whole epochs hardly falls."""

_PLAIN = {
    "data.class_balance": 0.0,
    "data.flip_prob": 0.0,
    "data.max_shift": 0.0,
    "data.min_crop": 1.0,
    "data.gain_jitter": 0.0,
    "data.offset_jitter_celsius": 0.0,
    "data.erase_prob": 0.0,
    "model.dropout": 0.0,
    "learning.mixup": 0.0,
    "learning.cutmix": 0.0,
    "learning.label_smoothing": 0.0,
    "learning.ema_decay": 0.0,
    "learning.num_epochs": MAX_PASSES,
    "run.num_workers": 1,
}


@dataclass(frozen=True)
class Pass:
    """All batches once."""

    number: int
    """Counted from 1."""
    loss: float
    """As it is trained [nats]."""
    top1: float
    """Share of clips whose most likely class is right."""


@dataclass(frozen=True)
class Outcome:
    """What came out."""

    fits: bool
    first: Pass
    last: Pass
    num_clips: int
    num_contradictions: int
    """Clips that equal another one with another label: nobody can learn both."""

    def advice(self, experiment: Experiment) -> list[str]:
        """What to look at where it does not fit, the likeliest first."""
        learning, model = experiment.learning, experiment.model
        found = []
        if self.num_contradictions:
            found.append(
                f"{self.num_contradictions} of {self.num_clips} clips equal another one with another label; look at "
                "the annotations with audit_thermal.py."
            )
        if not self.last.loss < self.first.loss:
            found.append(f"The loss did not fall: try a tenth of `learning.lr` (={learning.lr}).")
        else:
            found.append(f"The loss fell, too slowly: try ten times `learning.lr` (={learning.lr}).")
        if model.freeze_stages or model.batch_norm != "train":
            found.append(
                f"Little learns with `model.freeze_stages` (={model.freeze_stages}) and `model.batch_norm` "
                f"(={model.batch_norm}); try 0 and train."
            )
        if learning.backbone_lr < 1 or learning.layer_decay < 1:
            found.append(
                f"`learning.backbone_lr` (={learning.backbone_lr}) and `learning.layer_decay` "
                f"(={learning.layer_decay}) slow all but the classifier; try 1."
            )
        if learning.logit_adjustment or learning.class_weights != "none":
            found.append(
                f"`learning.logit_adjustment` (={learning.logit_adjustment}) and `learning.class_weights` "
                f"(={learning.class_weights}) hold against a loss near 0; try 0 and none."
            )
        return found


def show(ready: Ready, num_batches: int) -> bool:
    """Says how the check goes and what came out; whether the batches were learnt. Raises ValueError as `run` does."""
    console = Console()
    started = time.monotonic()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    with console.status(f"Learning {num_batches} batch(es) by heart") as status:

        def note(done: Pass) -> None:
            line = f"pass {done.number}/{MAX_PASSES}  {_shown(done)}"
            if console.is_terminal:
                status.update(line)
            elif done.number == 1 or done.number % 10 == 0:
                say(line)

        found = run(ready, num_batches, wiring.device_of(ready.experiment.run), note)
    what = f"{found.num_clips} clips of {num_batches} batch(es)"
    if found.fits:
        say(
            f"Learnt by heart: {what} in {found.last.number} passes and {time.monotonic() - started:.0f} s: "
            f"{_shown(found.last)}. Network, loss and labels fit together."
        )
        return True
    say(
        f"Not learnt: {what} in {found.last.number} passes. In the first: {_shown(found.first)}; in the last: "
        f"{_shown(found.last)}."
    )
    for line in found.advice(ready.experiment):
        say(f"  {line}")
    return False


def _shown(done: Pass) -> str:
    return f"{counts.TRAIN_LOSS} {done.loss:.4g}  {counts.TRAIN_TOP1} {done.top1:.4g}"


def run(ready: Ready, num_batches: int, device: torch.device, on_pass: Callable[[Pass], None]) -> Outcome:
    """Trains on the first `num_batches` batches until they are learnt, at most MAX_PASSES times.

    Learnt means: every clip right, and a loss below MAX_LOSS; under the labels `multi`, every class of every clip.
    `on_pass` sees every pass. Raises ValueError where there are not so many batches.
    """
    learning = ready.experiment.learning
    num_steps = len(ready.data.train) // learning.batch_size
    if not 1 <= num_batches <= num_steps:
        raise ValueError(
            f"`overfit_batches` (={num_batches}) must be within 1..{num_steps}, the batches of an epoch, each of "
            f"`learning.batch_size` (={learning.batch_size}) clips; try {min(2, num_steps)}."
        )
    place = Place(device=device, gpu_share=ready.experiment.run.gpu_share)
    prepared = wiring.prepare(plain(ready.experiment, num_steps), place)
    batches = list(itertools.islice(prepared.batches.train(1), num_batches))
    passes: list[Pass] = []
    is_learnt = False
    prepared.begin_epoch(1)
    for number in range(1, MAX_PASSES + 1):
        passes.append(_take(prepared, batches, number))
        on_pass(passes[-1])
        is_learnt = _is_learnt(passes[-1], prepared, batches)
        if is_learnt or not passes[-1].loss <= loop.EXPLODED:
            break
    return Outcome(
        fits=is_learnt,
        first=passes[0],
        last=passes[-1],
        num_clips=sum(len(batch.label_B) for batch in batches),
        num_contradictions=count_contradictions(batches),
    )


def plain(experiment: Experiment, num_steps: int) -> Experiment:
    """`experiment`, of `num_steps` an epoch, without what stands against learning by heart; it warms up at once."""
    return experiment.override({**_PLAIN, "learning.warmup_fraction": WARMUP_STEPS / (num_steps * MAX_PASSES)})


def _take(prepared: Prepared, batches: list[Batch], number: int) -> Pass:
    total = Counts.zero(batches[0].clip_B1THW.device)
    for batch in batches:
        step.take(prepared.learner, batch.clip_B1THW, batch.label_B, prepared.experiment.learning, prepared.loss, total)
    return Pass(number, total.loss(), total.top1())


@torch.no_grad()
def _is_learnt(done: Pass, prepared: Prepared, batches: list[Batch]) -> bool:
    if done.loss >= MAX_LOSS or prepared.experiment.data.labels != "multi":
        return done.loss < MAX_LOSS and done.top1 == 1.0
    # A low loss is not enough: with many classes, or under focal, saying no to all of them has one.
    return all(torch.equal(prepared.learner.model(batch.clip_B1THW) > 0, batch.label_B > 0) for batch in batches)


def count_contradictions(batches: list[Batch]) -> int:
    """Clips whose every pixel is that of another one, and whose label is not."""
    labels: dict[bytes, list[bytes]] = {}
    for batch in batches:
        for clip_1THW, label in zip(batch.clip_B1THW, batch.label_B, strict=True):
            seen = hashlib.sha256(clip_1THW.cpu().numpy().tobytes()).digest()
            labels.setdefault(seen, []).append(label.cpu().numpy().tobytes())
    return sum(len(each) for each in labels.values() if len(set(each)) > 1)
