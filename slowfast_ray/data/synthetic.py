"""A made-up thermal dataset in the format of the real one, with motion that can be learned.

For tests, examples and first runs on a machine without the real recordings. The sensor looks
straight down on a room: an inhabitant stands, walks, falls or sits down, and gets up again; a
visitor walks in, stands and leaves. Postures overlap in size and shape, so that standing against
walking, and sitting down against sitting and falling, are told by motion. Each session has its own
room; its last recording validates, the others train: no recording and no moment is in both.

It refuses to know how a dataset is read: recordings.py and annotations.py own that.
"""

import itertools
import json
import logging
import tempfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import platformdirs

from slowfast_ray.data import scenes

VERSION = 1  # of what write() makes by default: raise it with each change, or cached() stays behind

FRAMES_PER_KEYFRAME = {"train": 15, "val": 16}
MARGIN_FRAMES = 5  # a keyframe of a steady action keeps this far from the action's two ends

Json = dict[str, object]
log = logging.getLogger(__name__)


def cached() -> Path:
    """The folder of what `write` makes by default, in the user's cache; made at the first call."""
    root = platformdirs.user_cache_path("slowfast_ray") / f"synthetic-v{VERSION}"
    if not root.is_dir():
        with suppress(FileExistsError):  # another process finished it since the line above
            write(root)
    return root


def write(root: Path, *, seed: int = 0, num_sessions: int = 2, num_recordings: int = 4, num_frames: int = 400) -> None:
    """Write a dataset into `root`, which must be empty or absent; equal arguments, equal data.

    Each session has `num_recordings` recordings of `num_frames` frames (40 x 60 degrees C, float32,
    about 170 ms apart), of which the last validates. Under about 250 frames (43 s) a recording may
    lack sitting. `root` appears whole: where several processes make it at once, the first one's
    copy stays and the others' are discarded.
    """
    if num_sessions < 1 or num_recordings < 2 or num_frames < 2:
        raise ValueError(
            "`num_sessions` must be >= 1, `num_recordings` >= 2 (the last one validates) and "
            f"`num_frames` >= 2, but got {num_sessions}, {num_recordings} and {num_frames}"
        )
    if _has_content(root):
        raise FileExistsError(f"{root} is not empty; name a folder that is, or that does not exist")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as workshop:
        folder = Path(workshop) / root.name
        _write_files(folder, seed, num_sessions, num_recordings, num_frames)
        try:
            folder.rename(root)
        except OSError:
            if not _has_content(root):
                raise
            log.info("%s was made by another process meanwhile: this copy is discarded", root)


def _has_content(root: Path) -> bool:
    return root.exists() and (not root.is_dir() or any(root.iterdir()))


def _keyframes(rng: np.random.Generator, actions: np.ndarray, num: int) -> list[int]:
    """Frames to label: the middle of each transition, filled up to `num` from steady actions."""
    chosen, steady = [], []
    for run in np.split(np.arange(len(actions)), np.flatnonzero(np.diff(actions)) + 1):
        action = actions[run[0]]
        if action in (scenes.SITTING_DOWN, scenes.FALLING):
            chosen.append(int(run[len(run) // 2]))
        elif action != scenes.UNLABELLED:
            steady += run[MARGIN_FRAMES:-MARGIN_FRAMES].tolist()
    for frame in rng.permutation(np.array(steady, dtype=int)).tolist():
        if len(chosen) >= num:
            break
        if all(abs(frame - other) >= 3 for other in chosen):
            chosen.append(frame)
    return sorted(chosen)


def _label(person: scenes.Person, object_id: int, frame: int) -> Json | None:
    """A person's annotation without its ids; None where its middle is outside the picture."""
    x, y, heading, half_length, half_width, _ = person.poses[frame].tolist()
    if not 0 < x < scenes.WIDTH:
        return None
    half_x = np.hypot(half_length * np.cos(heading), half_width * np.sin(heading)) + scenes.SOFTNESS_PX
    half_y = np.hypot(half_length * np.sin(heading), half_width * np.cos(heading)) + scenes.SOFTNESS_PX
    left, right = np.clip((x - half_x, x + half_x), 0, scenes.WIDTH) / scenes.WIDTH
    top, bottom = np.clip((y - half_y, y + half_y), 0, scenes.HEIGHT) / scenes.HEIGHT
    action = int(person.actions[frame])
    return {
        "category_id": action,
        "category_name": scenes.CLASSES[action],
        "object_id": object_id,
        "bbox": [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top],
        "attribute_obscured": "0%",
    }


def _write_files(folder: Path, seed: int, num_sessions: int, num_recordings: int, num_frames: int) -> None:
    (folder / "frames").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images: dict[str, list[Json]] = {"train": [], "val": []}
    annotations: dict[str, list[Json]] = {"train": [], "val": []}
    backgrounds_celsius = np.linspace(*scenes.BACKGROUND_CELSIUS, num_sessions)
    for session, session_rng in enumerate(np.random.default_rng(seed).spawn(num_sessions)):
        room = scenes.empty_room(session_rng, session, backgrounds_celsius[session])
        start_ms = 1_700_000_000_000 + session * 2 * 86_400_000  # two days later
        for number, rng in enumerate(session_rng.spawn(num_recordings), start=1):
            recording = f"SYN{session + 1}_R{number}"
            split = "val" if number == num_recordings else "train"
            steps_ms = rng.uniform(*scenes.FRAME_MS, num_frames).round().astype(np.int64)
            timestamps = start_ms + np.cumsum(steps_ms)
            start_ms = timestamps[-1] + 20_000  # a pause: recordings share no moment
            times_s = (timestamps - timestamps[0]) / 1000
            frames, people = scenes.film(rng, room, times_s, is_damaged=session == 0)
            write_recording(folder / "frames" / f"{recording}.h5", frames, timestamps)
            num = num_frames // FRAMES_PER_KEYFRAME[split]
            for frame in _keyframes(rng, people[0].actions, num):
                image = _image(recording, frame, int(timestamps[frame]))
                images[split].append(image)
                labels = [_label(person, i, frame) for i, person in enumerate(people)]
                annotations[split] += [{"image_id": image["id"], **la} for la in labels if la]
    write_annotations(folder / "annotations", images, annotations)


def _image(recording: str, frame: int, timestamp_ms: int) -> Json:
    return {
        "id": f"{recording}_{timestamp_ms}",
        "sensor_id": recording,
        "timestamp": timestamp_ms,
        "width": scenes.WIDTH,
        "height": scenes.HEIGHT,
        "frame_idx": frame,
    }


def write_recording(path: Path, frames: np.ndarray, timestamps: np.ndarray, *, gzip_level: int | None = 4) -> None:
    """One file of float32 frames [N, H, W] in degrees Celsius, and their times [ms]; without a level, uncompressed and
    in one piece.
    """
    with h5py.File(path, "w") as file:
        chunks = None if gzip_level is None else (min(64, len(frames)), *frames.shape[1:])
        file.create_dataset("frames", data=frames, chunks=chunks, compression=gzip_level)
        file["timestamps"] = timestamps
        file["frame_seqs"] = timestamps  # the real sensor counts in milliseconds, too
        file.attrs.update(
            sensor_id=path.stem, frame_height=frames.shape[1], frame_width=frames.shape[2], total_frames=len(frames)
        )


def write_annotations(folder: Path, images: dict[str, list[Json]], annotations: dict[str, list[Json]]) -> None:
    """One file for each split, of images and of annotations without their ids, and the list of classes."""
    ids = itertools.count()  # over both splits
    for split in images:
        content = {
            "images": images[split],
            "annotations": [{"id": next(ids), **annotation} for annotation in annotations[split]],
            "categories": [{"id": i, "name": name} for i, name in enumerate(scenes.CLASSES)],
        }
        (folder / f"{split}.json").write_text(json.dumps(content, indent=2))
    mapping = {"classes": scenes.CLASSES, "class_to_id": {name: i for i, name in enumerate(scenes.CLASSES)}}
    (folder / "class_mapping.json").write_text(json.dumps(mapping, indent=2))
