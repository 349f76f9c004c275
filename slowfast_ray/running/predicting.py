"""A trained network on new recordings: from degrees Celsius to logits, by the code that training and evaluation use.

Clips are made by data/clip_reader.py and computed by learning/loop.py, in batches of the same size as in evaluation, so
that logits on the CPU are those of the evaluation, bit for bit; of a person, where the crop follows them as it did
there: by their tracks, or by a box for each frame. A single box for a clip keeps the crop still.

Shapes: S clips, T frames given for a clip, N frames of a recording, H and W height and width as recorded, K classes.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from slowfast_ray.data import clips, frames
from slowfast_ray.data.clip_reader import ClipReader
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.recordings import Recording
from slowfast_ray.data.tracks import Tracks
from slowfast_ray.experiment import Experiment
from slowfast_ray.learning import checkpoint, loop
from slowfast_ray.model import slowfast
from slowfast_ray.model.slowfast import SlowFast
from slowfast_ray.running.predictions import prediction_input, stretches
from slowfast_ray.running.publishing import model_folder
from slowfast_ray.running.publishing.model_folder import Description

log = logging.getLogger(__name__)

WRONG_UNIT = "is the unit right?"
"""Ends the note of a clip most of which lies outside the temperatures that a network tells apart."""


@dataclass(frozen=True)
class Answer:
    """What a network says of some clips."""

    logits_SK: torch.Tensor
    """float32, on the CPU."""
    notes_S: tuple[str, ...]
    """What was done to each clip that was not in it: padded, repaired, resized; and what seems wrong with it, a gap or
    another unit; empty where nothing."""


@dataclass(frozen=True)
class Predictor:
    """A network with all that it needs to answer. Threads may share one."""

    description: Description
    experiment: Experiment
    model: SlowFast
    device: torch.device

    @staticmethod
    def load(folder: Path, device: torch.device | None = None) -> "Predictor":
        """The network in a model folder, on the GPU where there is one. Raises ValueError as model_folder.read does,
        and for weights that do not fit.
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        description, experiment = model_folder.read(folder)
        if experiment.learning.precision == "fp16" and device.type != "cuda":
            log.warning("The model computes in fp16 on a GPU; on this machine, which has none, in fp32.")
            experiment = replace(experiment, learning=replace(experiment.learning, precision="fp32"))
        model = slowfast.build(experiment.model).to(device)
        checkpoint.load_weights(folder, model)
        return Predictor(description, experiment, model.eval(), device)

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of logits."""
        return self.description.classes

    @property
    def looks_at_people(self) -> bool:
        """Whether a clip is a crop around a person, so that it needs a box."""
        return self.experiment.data.labels == "person"

    def probabilities_SK(self, logits_SK: torch.Tensor) -> torch.Tensor:
        """float64 [S, K]: of each class; they add up to 1, but for a network that was trained on several labels."""
        is_multi = self.experiment.data.labels == "multi"
        return logits_SK.double().sigmoid() if is_multi else logits_SK.double().softmax(dim=1)

    def of_recording(
        self,
        recording: Recording,
        keyframes_S: torch.Tensor,
        tracks: Tracks | None = None,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> Answer:
        """The clips around `keyframes_S` (int64 [S], within the recording). `tracks`, a row a clip, says whom a crop
        follows, where the network looks at people; `on_batch` hears how many clips are done.

        Raises ValueError where the recording lacks the times, or the caller the tracks, that the network needs.
        """
        num_frames = len(recording.frames_NHW)
        times_N = None if recording.times_N is None else torch.from_numpy(recording.times_N)
        clock = self._clock(None if times_N is None else times_N[None], f"The recording {recording.id}")
        firsts_S, lasts_S = torch.zeros_like(keyframes_S), torch.full_like(keyframes_S, num_frames - 1)
        frames_NHW, resized = self._sized(torch.from_numpy(recording.frames_NHW))
        return self._answer(frames_NHW, clock, keyframes_S, firsts_S, lasts_S, tracks, resized, on_batch)

    def of_clips(
        self,
        frames_STHW: np.ndarray,
        times_ST: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
    ) -> Answer:
        """Clips that are cut out already: consecutive frames in degrees Celsius, the moment in question in the middle
        (at T // 2), as the sensor gave them; the network takes every frame_interval-th itself. `times_ST` in
        milliseconds, for a network that goes by the clock. `boxes` (centre x, y, width, height, as fractions of the
        frame), for one that looks at people: [S, 4], where the crop stays, or [S, T, 4], whose centres it follows.

        Raises ValueError for another shape or type, no frame, values that are not finite, and what a network needs and
        was not given.
        """
        frames_STHW = prediction_input.frames(frames_STHW)
        num_clips, num_frames = frames_STHW.shape[:2]
        frames_STHW, notes = prediction_input.repaired(frames_STHW)
        firsts_S = torch.arange(num_clips) * num_frames
        times = None if times_ST is None else prediction_input.times(times_ST, (num_clips, num_frames))
        clock = self._clock(times, "A clip")
        tracks = None if boxes is None else prediction_input.tracks(boxes, num_clips, num_frames)
        frames_NHW, resized = self._sized(torch.from_numpy(frames_STHW).flatten(0, 1))
        middles_S, lasts_S = firsts_S + num_frames // 2, firsts_S + num_frames - 1
        answer = self._answer(frames_NHW, clock, middles_S, firsts_S, lasts_S, tracks, resized)
        gaps = [""] * num_clips if times is None or clock is None else self._gap_notes(times.numpy())
        joined = tuple("; ".join(filter(None, each)) for each in zip(notes, answer.notes_S, gaps, strict=True))
        return replace(answer, notes_S=joined)

    def _answer(
        self,
        frames_NHW: torch.Tensor,
        clock: Clock | None,
        keyframes_S: torch.Tensor,
        firsts_S: torch.Tensor,
        lasts_S: torch.Tensor,
        tracks: Tracks | None,
        resized: str,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> Answer:
        if self.looks_at_people and tracks is None:
            raise ValueError(
                "This model looks at one person at a time (`data.labels` person), and needs a box around them; give "
                "`boxes`: centre x, y, width and height as fractions of the frame."
            )
        if tracks is not None and not self.looks_at_people:
            raise ValueError("This model looks at whole frames; leave out the boxes.")
        reader = ClipReader(frames.of(frames_NHW).on(self.device), clock, self.experiment.data)
        learning = self.experiment.learning
        logits: list[torch.Tensor] = []
        for chosen in torch.arange(len(keyframes_S)).split(learning.batch_size) if len(keyframes_S) else ():
            rows = None if tracks is None else tracks.rows(chosen)
            clip_B1THW = reader.read(keyframes_S[chosen], firsts_S[chosen], lasts_S[chosen], rows)
            logits.append(loop.logits_of(self.model, clip_B1THW, learning).cpu())
            on_batch(len(chosen))
        is_short_S = self._is_padded(keyframes_S, firsts_S, lasts_S, clock)
        padded = ["padded: frames at its ends repeated" if is_short else "" for is_short in is_short_S.tolist()]
        outside = self._outside_notes(frames_NHW, clips.of_config(keyframes_S, firsts_S, lasts_S, clock, reader.config))
        notes = tuple("; ".join(filter(None, (resized, *each))) for each in zip(padded, outside, strict=True))
        num_classes = len(self.classes)
        return Answer(torch.cat(logits) if logits else torch.zeros(0, num_classes), notes)

    def _is_padded(
        self, keyframes_S: torch.Tensor, firsts_S: torch.Tensor, lasts_S: torch.Tensor, clock: Clock | None
    ) -> torch.Tensor:
        """bool [S]: whether a clip reaches over an end of its frames."""
        config = self.experiment.data
        before = config.clip_len // 2
        after = config.clip_len - 1 - before
        if clock is None:
            interval = config.frame_interval
            return (keyframes_S - before * interval < firsts_S) | (keyframes_S + after * interval > lasts_S)
        assert config.frame_interval_ms is not None, "there is a clock only for clips by the clock"
        interval, now_S = config.frame_interval_ms, clock.axis_N[keyframes_S]
        # A frame half an interval away still stands for its moment.
        return (now_S - (before - 0.5) * interval < clock.axis_N[firsts_S]) | (
            now_S + (after - 0.5) * interval > clock.axis_N[lasts_S]
        )

    def _outside_notes(self, frames_NHW: torch.Tensor, indices_ST: torch.Tensor) -> list[str]:
        """For each clip, from the frames that it shows: whether most of it lies outside the temperatures that the
        network tells apart.
        """
        low, high = self.experiment.data.min_celsius, self.experiment.data.max_celsius
        is_outside_NHW = (frames_NHW < low) | (frames_NHW > high)
        share_N = is_outside_NHW.sum(dim=(1, 2)) / frames_NHW.shape[1:].numel()
        return [
            f"{share:.0%} of the pixels lie outside {low:g} to {high:g} degrees Celsius: {WRONG_UNIT}"
            if share > 0.5
            else ""
            for share in share_N[indices_ST].mean(dim=1).tolist()
        ]

    def _gap_notes(self, times_ST: np.ndarray) -> list[str]:
        """For each clip by the clock: whether a gap lies within it."""
        middle, last = np.array([times_ST.shape[1] // 2]), np.array([times_ST.shape[1] - 1])
        return [
            stretches.GAP
            if stretches.reach_over_gap(middle, middle * 0, last, times_T, self.experiment.data).any()
            else ""
            for times_T in times_ST
        ]

    def _clock(self, times_RN: torch.Tensor | None, what: str) -> Clock | None:
        """Of R recordings, or clips, of N frames each."""
        interval_ms = self.experiment.data.frame_interval_ms
        if interval_ms is None:
            return None
        if times_RN is None:
            raise ValueError(
                f"{what} has no `timestamps`, but this model takes a frame every {interval_ms:g} ms; give the time of "
                "every frame in milliseconds."
            )
        if (times_RN.diff(dim=1) < 0).any():
            raise ValueError(f"{what} has `timestamps` that run backwards; sort its frames by time.")
        for times_N in times_RN:
            prediction_input.check_pace(times_N.numpy(), interval_ms, what)
        num_recordings, num_frames = times_RN.shape
        if not num_recordings:
            return Clock(times_RN.flatten())
        return Clock.of(times_RN.flatten(), torch.arange(num_recordings) * num_frames)

    def _sized(self, frames_NHW: torch.Tensor) -> tuple[torch.Tensor, str]:
        """Frames of the size that the network was trained on, and a note where they had another."""
        size = (self.description.frame_height, self.description.frame_width)
        height, width = frames_NHW.shape[1:]
        if (height, width) == size:
            return frames_NHW, ""
        resized_NHW = F.interpolate(frames_NHW[:, None], size, mode="bilinear", align_corners=False, antialias=True)
        return resized_NHW[:, 0], f"resized from {height} x {width} to {size[0]} x {size[1]}"
