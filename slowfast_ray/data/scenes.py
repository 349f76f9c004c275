"""The scenes of the made-up dataset: rooms, people, what they do, and the frames that show it.

Postures overlap in size and shape, so that standing against walking, and sitting down against sitting and falling, are
told by motion. Lengths are in pixels, temperatures in degrees Celsius, seen from above.

Legend: N frames of a recording, H rows, W columns. Pairs are (low, high), drawn from uniformly.
"""

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

CLASSES = (
    "standing",
    "walking",
    "sitting",
    "lying",
    "transition-sitting down",
    "transition-falling",
)
STANDING, WALKING, SITTING, LYING, SITTING_DOWN, FALLING = range(6)
UNLABELLED = -1  # getting up: seen, but never at a keyframe

HEIGHT, WIDTH = 40, 60
FRAME_MS = (40.0, 300.0)  # 170 on average, as the real sensor's

# Difficulty: how far bodies stand out, and how much they look alike
NOISE_CELSIUS = 0.15
PATTERN_CELSIUS = 0.2  # fixed pattern: each pixel's own offset
BACKGROUND_CELSIUS = (18.7, 19.3)  # of the first and the last session
GRADIENT_CELSIUS = 0.5  # from the room's middle to its edge
BODY_CELSIUS = (28.0, 32.0)
SOFTNESS_PX = 0.7  # of a body's outline
SIZE_RATIO = (0.85, 1.2)  # between persons; its root between one person's postures
STANDING_HALF_PX = (4.5, 3.8)  # half length and half width: shoulders seen from above
SITTING_RATIO = (0.72, 0.72)
LYING_RATIO = (2.1, 0.85)
EDGE_RATIO = 0.8  # a body in the room's corner looks this much smaller than under the sensor

# Difficulty: how they move
SWAY_PX = {STANDING: 0.8, SITTING: 0.15, LYING: 0.05}
SWAY_HZ = (0.15, 0.6)
WALKING_PX_PER_S = (8.0, 13.0)
WALKING_MIN_PX = 20.0
FALLING_PX = 7.0  # a falling body turns about its feet, so that its middle moves
SECONDS = {
    STANDING: (3.5, 5.5),
    SITTING: (3.5, 5.5),
    LYING: (6.0, 9.0),
    SITTING_DOWN: (1.8, 2.4),
    FALLING: (0.6, 0.8),
    UNLABELLED: (1.2, 2.0),
}

NUM_DAMAGED_FRAMES = 15  # in each recording of the first session
PACKET_PIXELS = 576  # the real sensor loses this many in a row: 96 + 4 * 576 = 40 * 60
DEAD_CELSIUS = -273.2  # absolute zero, in the real sensor's steps of 0.1 K


class Pose(NamedTuple):
    """A body seen from above: an ellipse, in pixels, its long axis turned by `heading` radians."""

    x: float
    y: float
    heading: float
    half_length: float
    half_width: float
    sway: float


class Person(NamedTuple):
    """What a recording shows of one person: action ids (N) and poses (N x 6, `Pose`'s order)."""

    actions: np.ndarray
    poses: np.ndarray


@dataclass
class _Track:
    """What one person does: poses between actions, and straight lines from each to the next."""

    poses: list[Pose]
    times_s: list[float]
    actions: list[int] = field(default_factory=list)

    def add(self, action: int, seconds: float, pose: Pose) -> None:
        self.actions.append(action)
        self.times_s.append(self.times_s[-1] + seconds)
        self.poses.append(pose)

    def at(self, times_s: np.ndarray, rng: np.random.Generator) -> Person:
        """The person at N moments: swaying, and smaller towards the room's corners."""
        poses = np.stack([np.interp(times_s, self.times_s, p) for p in np.transpose(self.poses)], 1)
        hz, phase = rng.uniform(*SWAY_HZ, (3, 2)), rng.uniform(0, 2 * np.pi, (3, 2))
        waves = np.sin(2 * np.pi * hz * times_s[:, None, None] + phase).sum(axis=1)
        poses[:, :2] += poses[:, 5:] * waves * np.sqrt(2 / 3)  # so that `sway` is the RMS
        offset = poses[:, :2] / (WIDTH / 2, HEIGHT / 2) - 1
        distance = np.clip((offset**2).sum(axis=1, keepdims=True) / 2, 0, 1)  # squared, corner 1
        poses[:, 3:5] *= 1 - (1 - EDGE_RATIO) * distance
        index = np.searchsorted(self.times_s, times_s, side="right") - 1
        return Person(np.array(self.actions)[index.clip(0, len(self.actions) - 1)], poses)


def _posture(rng: np.random.Generator, size: float, action: int, place: Pose | None = None) -> Pose:
    """A pose for a steady action, at `place` or anywhere in the room."""
    x, y = (place.x, place.y) if place else rng.uniform((10, 9), (WIDTH - 10, HEIGHT - 9))
    heading = place.heading if place else rng.uniform(-np.pi, np.pi)
    ratio = {SITTING: SITTING_RATIO, LYING: LYING_RATIO}.get(action, (1, 1))
    length, width = size * np.sqrt(rng.uniform(*SIZE_RATIO, 2)) * STANDING_HALF_PX * ratio
    return Pose(x, y, heading, length, width, SWAY_PX[action])


def _inhabit(rng: np.random.Generator, duration_s: float) -> _Track:
    """The inhabitant: stands, walks, falls and lies (or sits down and sits), gets up, and again."""
    size = rng.uniform(*SIZE_RATIO)
    here = _posture(rng, size, STANDING)
    track = _Track([here], [-rng.uniform(0, 4)])  # the first action has begun already
    for action, change in itertools.cycle(((LYING, FALLING), (SITTING, SITTING_DOWN))):
        track.add(STANDING, rng.uniform(*SECONDS[STANDING]), here)
        there, distance_px = here, 0.0
        while distance_px < WALKING_MIN_PX:
            there = _posture(rng, size, STANDING)
            distance_px = np.hypot(there.x - here.x, there.y - here.y)
        track.add(WALKING, distance_px / rng.uniform(*WALKING_PX_PER_S), there)
        down = _posture(rng, size, action, there)
        if action == LYING:
            x = there.x + FALLING_PX * np.cos(there.heading)
            y = there.y + FALLING_PX * np.sin(there.heading)
            down = down._replace(x=np.clip(x, 8, WIDTH - 8), y=np.clip(y, 8, HEIGHT - 8))
        track.add(change, rng.uniform(*SECONDS[change]), down)
        track.add(action, rng.uniform(*SECONDS[action]), down)
        here = _posture(rng, size, STANDING, there)
        track.add(UNLABELLED, rng.uniform(*SECONDS[UNLABELLED]), here)
        if track.times_s[-1] > duration_s:
            break
    return track


def _visit(rng: np.random.Generator, duration_s: float) -> _Track:
    """The visitor: some four seconds in the room, outside the picture before and after."""
    inside = _posture(rng, rng.uniform(*SIZE_RATIO), STANDING)
    door_x, inside_x = (-6, 9) if rng.random() < 0.5 else (WIDTH + 6, WIDTH - 9)
    door, inside = inside._replace(x=door_x), inside._replace(x=inside_x)
    track = _Track([door], [rng.uniform(0.1, 0.8) * duration_s])
    track.add(WALKING, 1.5, inside)
    track.add(STANDING, rng.uniform(1, 2), inside)
    track.add(WALKING, 1.5, door)
    return track


def empty_room(rng: np.random.Generator, session: int, celsius: float) -> np.ndarray:
    """A session's empty room, H x W degrees C: slow gradient, fixed pattern, a warm radiator."""
    y, x = np.linspace(-1, 1, HEIGHT)[:, None], np.linspace(-1, 1, WIDTH)
    angle = rng.uniform(0, 2 * np.pi)
    room = celsius + rng.normal(0, PATTERN_CELSIUS, (HEIGHT, WIDTH))
    room += GRADIENT_CELSIUS * (np.cos(angle) * x + np.sin(angle) * y)
    left, top = rng.integers(5, WIDTH - 17), (0, HEIGHT - 3)[session % 2]
    room[top : top + 3, left : left + 12] = rng.uniform(27, 31)
    return room


def _paint(frames: np.ndarray, poses: np.ndarray, celsius: np.ndarray) -> None:
    """Lay a body of N poses and N temperatures over N x H x W frames, in place."""
    x, y, heading, half_length, half_width, _ = poses.T[:, :, None, None]
    dx, dy = np.arange(WIDTH) + 0.5 - x, np.arange(HEIGHT)[:, None] + 0.5 - y
    along = (dx * np.cos(heading) + dy * np.sin(heading)) / half_length
    across = (dy * np.cos(heading) - dx * np.sin(heading)) / half_width
    inwards_px = (1 - np.hypot(along, across)) * half_width
    cover = 0.5 + 0.5 * np.tanh(inwards_px / SOFTNESS_PX)
    frames += cover * (celsius[:, None, None] - frames)


def film(
    rng: np.random.Generator, room: np.ndarray, times_s: np.ndarray, is_damaged: bool
) -> tuple[np.ndarray, list[Person]]:
    """One recording: N x H x W degrees C, and the inhabitant and the visitor in it."""
    tracks = _inhabit(rng, times_s[-1]), _visit(rng, times_s[-1])
    people = [track.at(times_s, rng) for track in tracks]
    drift_celsius = 0.3 * np.sin(2 * np.pi * (times_s / 90 + rng.random()))
    frames = room + drift_celsius[:, None, None]
    for person in people:
        wave_celsius = np.sin(2 * np.pi * (times_s / 25 + rng.random()))
        _paint(frames, person.poses, rng.uniform(*BODY_CELSIUS) + wave_celsius)
    frames += rng.normal(0, NOISE_CELSIUS, frames.shape)
    frames = frames.round(1).astype(np.float32)
    if is_damaged:
        flat = frames.reshape(len(frames), -1)
        for frame in rng.permutation(len(frames))[:NUM_DAMAGED_FRAMES]:
            first = 96 + PACKET_PIXELS * rng.integers(4)
            flat[frame, first : first + PACKET_PIXELS] = DEAD_CELSIUS
    return frames, people
