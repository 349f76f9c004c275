"""Splits: no validation moment is ever trained on, whatever the recordings, and folds are fair.

The laws are checked over generated timelines by brute force: from the frames that clips show, to what is in these
frames and to when they were taken. Nothing of the code that splits is asked, save for the members that it chose.

Legend: S samples, K classes, N frames.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slowfast_ray.data import clips, dataset, splits, timeline
from slowfast_ray.data.clips import Clock
from slowfast_ray.data.config import DataConfig, SplitName
from slowfast_ray.data.recordings import Recording
from slowfast_ray.data.splits import Members, Pool
from slowfast_ray.data.timeline import SESSION_GAP_MS, Timeline
from tests.data.conftest import pool_of, recording

NUM_CLASSES = 3

# Generated timelines


@dataclass(frozen=True)
class World:
    """Some recordings, samples in them, and clips: their widest span, and how a trial of a search may fill it."""

    loaded: tuple[Recording, ...]
    contents: tuple[tuple[int | None, ...], ...]
    """What each frame of each recording shows; None for nothing."""
    keyframes: tuple[tuple[int, int], ...]
    """Recording and keyframe of each sample."""
    classes_SK: np.ndarray
    width: float
    """Widest span of a clip [frames; ms with a clock]."""
    by_clock: bool

    @cached_property
    def line(self) -> Timeline:
        return timeline.build(self.loaded)

    @cached_property
    def clock(self) -> Clock | None:
        if not self.by_clock:
            return None
        return Clock.of(torch.from_numpy(self.line.times_N), torch.from_numpy(self.line.firsts))

    def pool(self, width: float | None = None) -> Pool:
        return pool_of(self.line, self.keyframes, width or self.width, classes_SK=self.classes_SK, clock=self.clock)

    def choose(self, split: SplitName, fold: int, num_folds: int = 3, seed: int = 0, width: float = 0) -> Members:
        config = DataConfig(split=split, fold=fold, num_folds=num_folds, split_seed=seed)
        return splits.choose(self.pool(width or self.width), self.line, config)

    def clips(self, width: float) -> Iterator[np.ndarray]:
        """int64 [S, T], counted in the recording: what each sample's clip shows, for every way to span `width`."""
        firsts_S = torch.from_numpy(self.line.firsts[[index for index, _ in self.keyframes]])
        lasts_S = firsts_S + torch.tensor([len(self.contents[index]) - 1 for index, _ in self.keyframes])
        keyframes_S = firsts_S + torch.tensor([keyframe for _, keyframe in self.keyframes])
        bounds = keyframes_S, firsts_S, lasts_S
        if self.clock is None:
            for clip_len in range(1, int(width) + 1):
                for interval in range(1, int(width) // clip_len + 1):
                    found_ST = clips.frame_indices(*bounds, clip_len=clip_len, frame_interval=interval)
                    yield (found_ST - firsts_S[:, None]).numpy()
        else:
            for clip_len, share in itertools.product((1, 2, 3, 4, 7, 16), (1.0, 0.61, 0.2)):
                found_ST = clips.frame_indices_ms(
                    *bounds, self.clock, clip_len=clip_len, frame_interval_ms=width * share / clip_len
                )
                yield (found_ST - firsts_S[:, None]).numpy()

    def shown(self, width: float) -> list[set[int]]:
        """For each sample, the frames of its recording that a clip of this span or a narrower one shows."""
        found: list[set[int]] = [set() for _ in self.keyframes]
        for indices_ST in self.clips(width):
            for mine, row in zip(found, indices_ST.tolist(), strict=True):
                mine.update(row)
        return found


def some_recording(rng: np.random.Generator, name: str, cut: slice, stream: "Stream", by_clock: bool) -> "Film":
    """A piece of a stream: the same moments under the same, shifted, disordered or no times; or other frames."""
    values: list[int | None] = list(stream.values[cut])
    times = stream.times[cut].copy()
    way = rng.choice(["same", "shifted", "another view", "disordered", "no times"], p=[0.35, 0.2, 0.15, 0.15, 0.15])
    if way == "shifted":
        times += rng.choice([1, 37, 5_000, SESSION_GAP_MS // 2, 30 * SESSION_GAP_MS])
    elif way == "another view":
        values = [1_000_000 + int(each) for each in rng.integers(0, 2**20, len(values))]
    elif way == "disordered" and not by_clock:
        for _ in range(rng.integers(1, 4)):
            i, j = rng.integers(0, len(times), 2)
            times[i], times[j] = times[j], times[i]
    for i in np.flatnonzero(rng.random(len(values)) < 0.05):
        values[i] = None
    has_times = by_clock or way != "no times"
    return Film(recording(name, values, times.tolist() if has_times else None, stream.sensor), tuple(values))


@dataclass(frozen=True)
class Stream:
    """What a sensor saw in one go."""

    sensor: str | None
    values: list[int]
    times: np.ndarray


@dataclass(frozen=True)
class Film:
    """A recording, and what its frames show."""

    recording: Recording
    values: tuple[int | None, ...]


@st.composite
def worlds(draw: st.DrawFn, by_clock: bool | None = None) -> World:
    """One to three sessions of one to three recordings each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_streams = draw(st.integers(1, 3))
    clocked = draw(st.booleans()) if by_clock is None else by_clock
    films: list[Film] = []
    for number in range(num_streams):
        num_frames = int(rng.integers(20, 90))
        steps = rng.integers(0, 300, num_frames)  # some frames at one time
        steps[rng.random(num_frames) < 0.06] = 4_000  # and gaps
        sensor = [None, "A", "B"][rng.integers(0, 3)]
        start = int(rng.integers(0, 3)) * 40 * SESSION_GAP_MS
        stream = Stream(sensor, [1000 * number + i for i in range(num_frames)], start + np.cumsum(steps))
        for _ in range(rng.integers(1, 4)):
            first, last = sorted(rng.integers(0, num_frames, 2).tolist())
            films.append(some_recording(rng, f"R{len(films)}", slice(first, last + 1), stream, clocked))
    films = [films[i] for i in rng.permutation(len(films))]
    keyframes = [
        (index, int(keyframe))
        for index, film in enumerate(films)
        for keyframe in rng.integers(0, len(film.values), rng.integers(1, 10))  # some of them twice
    ]
    keyframes = [keyframes[i] for i in rng.permutation(len(keyframes))]
    classes_SK = np.eye(NUM_CLASSES, dtype=bool)[rng.integers(0, NUM_CLASSES, len(keyframes))]
    return World(
        loaded=tuple(film.recording for film in films),
        contents=tuple(film.values for film in films),
        keyframes=tuple(keyframes),
        classes_SK=classes_SK | (rng.random(classes_SK.shape) < 0.1),
        width=draw(st.floats(1, 4_000)) if clocked else draw(st.integers(1, 14)),
        by_clock=clocked,
    )


# What is checked, straight from the frames


def seen(world: World, shown: set[int], sample: int) -> set[object]:
    """The frames, and what is in them."""
    index, _ = world.keyframes[sample]
    content = world.contents[index]
    return {(index, frame) for frame in shown} | {content[f] for f in shown if content[f] is not None}


def span(world: World, shown: set[int], sample: int) -> tuple[int, int] | None:
    """The first and the last time of the frames that a sample shows, where its recording tells them."""
    times = world.loaded[world.keyframes[sample][0]].times_N
    return None if times is None else (min(times[list(shown)]), max(times[list(shown)]))


def sharing(world: World, shown: list[set[int]], one: int, other: int) -> bool:
    """Whether two samples show an identical frame, or overlap in time on one sensor."""
    if seen(world, shown[one], one) & seen(world, shown[other], other):
        return True
    mine, theirs = span(world, shown[one], one), span(world, shown[other], other)
    sensors = [world.loaded[world.keyframes[sample][0]].sensor for sample in (one, other)]
    if mine is None or theirs is None or sensors[0] != sensors[1]:
        return False
    return mine[0] <= theirs[1] and theirs[0] <= mine[1]


def one_moment(world: World) -> list[int]:
    """For each sample its moment: keyframes of one sensor at one time, and identical ones, are one."""
    alone = [{keyframe} for _, keyframe in world.keyframes]
    group = list(range(len(alone)))
    for one, other in itertools.combinations(range(len(alone)), 2):
        if group[one] != group[other] and sharing(world, alone, one, other):
            old, new = group[other], group[one]
            group = [new if each == old else each for each in group]
    return group


def folds(world: World, num_folds: int, seed: int = 0, width: float = 0) -> list[Members | None]:
    """The members of each fold; None where nothing is left to train on."""
    found: list[Members | None] = []
    for fold in range(num_folds):
        try:
            found.append(world.choose("purged", fold, num_folds, seed, width))
        except ValueError as error:
            if "leaves no training sample" not in str(error):
                raise
            found.append(None)
    return found


def num_moments_of_sessions(world: World) -> list[int]:
    group = one_moment(world)
    session = [int(world.line.sessions[index]) for index, _ in world.keyframes]
    return [len({g for g, s in zip(group, session, strict=True) if s == each}) for each in set(session)]


def assert_nothing_shared(world: World, members: Members, width: float) -> None:
    shown = world.shown(width)
    for one, other in itertools.product(members.val.tolist(), members.train.tolist()):
        assert not sharing(world, shown, one, other), (world.keyframes[one], world.keyframes[other])


def assert_everybody_once(world: World, members: Members) -> None:
    parts = (members.train, members.val, members.dropped)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(world.keyframes)))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert len(members.train)
    assert len(members.val)


@settings(max_examples=60, deadline=None)
@given(world=worlds(), num_folds=st.integers(2, 4), fold=st.integers(0, 3), seed=st.integers(0, 2**32 - 1))
def test_purged_folds_share_no_moment(world: World, num_folds: int, fold: int, seed: int) -> None:
    fold %= num_folds
    if min(num_moments_of_sessions(world)) < num_folds:
        with pytest.raises(ValueError, match="exceeds the labelled moments"):
            world.choose("purged", fold, num_folds, seed)
        return
    try:
        members = world.choose("purged", fold, num_folds, seed)
    except ValueError as error:
        if "leaves no training sample" not in str(error):
            raise
        return  # whether rightly is checked below
    assert_everybody_once(world, members)
    assert_nothing_shared(world, members, world.width)


@settings(max_examples=50, deadline=None)
@given(world=worlds(), fold=st.integers(0, 2))
def test_sessions_left_out_share_no_moment(world: World, fold: int) -> None:
    session = world.line.sessions[[index for index, _ in world.keyframes]]
    num_sessions = len(set(session.tolist()))
    if num_sessions < 2:
        with pytest.raises(ValueError, match="needs samples of 2 sessions or more"):
            world.choose("leave-one-session-out", fold)
        return
    if fold >= num_sessions:
        with pytest.raises(ValueError, match=rf"`data\.fold` \(={fold}\) does not exist.*{num_sessions} folds"):
            world.choose("leave-one-session-out", fold)
        return
    members = world.choose("leave-one-session-out", fold)
    assert_everybody_once(world, members)
    assert len(members.dropped) == 0
    assert_nothing_shared(world, members, world.width)
    # Nor do whole recordings, nor are those of one sensor within the hour.
    apart = [{world.keyframes[i][0] for i in part} for part in (members.val.tolist(), members.train.tolist())]
    for one, other in itertools.product(*apart):
        assert not (set(world.contents[one]) & set(world.contents[other])) - {None}
        mine, theirs = world.loaded[one], world.loaded[other]
        if mine.times_N is not None and theirs.times_N is not None and mine.sensor == theirs.sensor:
            pause = max(mine.times_N.min(), theirs.times_N.min()) - min(mine.times_N.max(), theirs.times_N.max())
            assert pause > SESSION_GAP_MS


@settings(max_examples=60, deadline=None)
@given(world=worlds(), num_folds=st.integers(2, 3), seed=st.integers(0, 9))
def test_every_sample_validates_in_one_fold_with_all_of_its_moment(world: World, num_folds: int, seed: int) -> None:
    if min(num_moments_of_sessions(world)) < num_folds:
        return
    found = folds(world, num_folds, seed)
    fold_of = {sample: f for f, each in enumerate(found) if each is not None for sample in each.val.tolist()}
    assert sum(len(each.val) for each in found if each is not None) == len(fold_of)
    missing = set(range(len(world.keyframes))) - set(fold_of)
    assert bool(missing) == (None in found)
    fold_of |= dict.fromkeys(missing, -1)
    if found.count(None) <= 1:  # then those that are missing are one fold
        group = one_moment(world)
        for one, other in itertools.combinations(fold_of, 2):
            assert group[one] != group[other] or fold_of[one] == fold_of[other]
    for each, again in zip(found, folds(world, num_folds, seed), strict=True):  # nothing is left to chance
        if each is not None and again is not None:
            for name in ("train", "val", "dropped"):
                np.testing.assert_array_equal(getattr(each, name), getattr(again, name))


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seed=st.integers(0, 9))
def test_dropped_are_those_that_share_a_moment_and_no_others(world: World, seed: int) -> None:
    # A window reaches half the width to both sides of the keyframe: up to a frame more than the widest clip.
    if min(num_moments_of_sessions(world)) < 2 or world.by_clock:
        return
    reach = -(-int(world.width) // 2)
    windows = [
        set(range(max(0, keyframe - reach), min(len(world.contents[index]), keyframe + reach + 1)))
        for index, keyframe in world.keyframes
    ]
    for narrow in (found := folds(world, 2, seed, width=1)):
        # By moments alone, so that the members of the fold are known where all others are dropped.
        if narrow is None:
            return
    for members, narrow in zip(folds(world, 2, seed), found, strict=True):
        assert narrow is not None
        rest = sorted(narrow.train.tolist() + narrow.dropped.tolist())
        dropped = [i for i in rest if any(sharing(world, windows, i, other) for other in narrow.val.tolist())]
        if members is None:
            assert dropped == rest
        else:
            assert members.dropped.tolist() == dropped


@settings(max_examples=40, deadline=None)
@given(world=worlds(), share=st.floats(0.05, 1))
def test_who_validates_does_not_depend_on_the_clip(world: World, share: float) -> None:
    if min(num_moments_of_sessions(world)) < 2:
        return
    for wide, narrow in zip(folds(world, 2), folds(world, 2, width=max(1.0, share * world.width)), strict=True):
        if wide is not None:
            assert narrow is not None
            np.testing.assert_array_equal(wide.val, narrow.val)
            assert set(wide.train.tolist()) <= set(narrow.train.tolist())


@settings(max_examples=60, deadline=None)
@given(world=worlds(), num_folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_folds_are_about_equal_in_size(world: World, num_folds: int, seed: int) -> None:
    if min(num_moments_of_sessions(world)) < num_folds:
        return
    found = folds(world, num_folds, seed)
    group, session = np.array(one_moment(world)), world.line.sessions[[index for index, _ in world.keyframes]]
    for each in np.unique(session):
        members = np.flatnonzero(session == each)
        share = len(members) / num_folds
        largest = np.bincount(group[members]).max()
        for fold in found:
            if fold is not None:
                # A cut moves by a quarter of a block at either end, and to the end of a moment.
                size = np.isin(fold.val, members).sum()
                assert size >= 1
                assert abs(size - share) <= share / 2 + largest


@settings(max_examples=60, deadline=None)
@given(world=worlds(), num_folds=st.integers(2, 4), seed=st.integers(0, 99))
def test_a_fold_is_one_stretch_of_time_of_each_session(world: World, num_folds: int, seed: int) -> None:
    # Where moments are told by time alone: with copies under shifted times, a moment lies at several.
    has_one_time = all(each.times_N is not None for each in world.loaded)
    values = [value for content in world.contents for value in content if value is not None]
    if not has_one_time or len(set(values)) < len(values) or min(num_moments_of_sessions(world)) < num_folds:
        return
    for fold in folds(world, num_folds, seed):
        for session in range(world.line.num_sessions if fold is not None else 0):
            pool = world.pool()
            members = np.flatnonzero(world.line.sessions[pool.recordings_S] == session)
            times = world.line.times_N[pool.keyframes_S]
            assert fold is not None
            mine = times[np.intersect1d(fold.val, members)]
            others = times[np.setdiff1d(members, fold.val)]
            assert not len(mine) or not ((mine.min() <= others) & (others <= mine.max())).any()


# Examples


def even_world(num_samples: int = 40, num_recordings: int = 1, step: int = 3) -> World:
    """Recordings days apart, with a keyframe at every `step`-th frame, of classes that take turns."""
    loaded, contents = [], []
    for r in range(num_recordings):
        values = [10_000 * r + i for i in range(num_samples * step)]
        times = [r * 48 * SESSION_GAP_MS + 100 * i for i in range(len(values))]
        loaded.append(recording(f"R{r}", values, times))
        contents.append(tuple(values))
    keyframes = [(r, step * i) for r in range(num_recordings) for i in range(num_samples)]
    classes_SK = np.eye(NUM_CLASSES, dtype=bool)[np.arange(len(keyframes)) % NUM_CLASSES]
    return World(tuple(loaded), tuple(contents), tuple(keyframes), classes_SK, 2, False)


def test_the_split_as_provided_is_kept() -> None:
    world = even_world(num_samples=6)
    pool = replace(world.pool(), is_provided_val_S=np.array([False, False, True, False, True, True]))
    members = splits.choose(pool, world.line, DataConfig())
    assert members.train.tolist() == [0, 1, 3]
    assert members.val.tolist() == [2, 4, 5]
    assert members.dropped.tolist() == []


def test_what_is_provided_matters_to_no_other_split() -> None:
    world = even_world(num_recordings=2)
    pool = world.pool()
    turned = replace(pool, is_provided_val_S=~pool.is_provided_val_S)
    for split in ("purged", "leave-one-session-out"):
        config = DataConfig(split=split, fold=1)
        first, second = splits.choose(pool, world.line, config), splits.choose(turned, world.line, config)
        np.testing.assert_array_equal(first.val, second.val)
        np.testing.assert_array_equal(first.train, second.train)


def test_a_window_that_touches_is_dropped_and_the_next_is_not() -> None:
    # Keyframes 6 frames apart; windows of 6 reach 3 to both sides, so that neighbours share the frame between them.
    world = even_world(num_samples=20, step=6)
    for fold in range(2):
        members = world.choose("purged", fold, num_folds=2, width=6)
        (dropped,) = members.dropped.tolist()
        assert min(abs(members.val - dropped)) == 1
        assert len(world.choose("purged", fold, num_folds=2, width=4).dropped) == 0
        assert len(world.choose("purged", fold, num_folds=2, width=18).dropped) == 3


def test_other_seeds_cut_elsewhere() -> None:
    world = even_world(num_samples=60)
    cuts = {tuple(world.choose("purged", 0, 3, seed).val.tolist()) for seed in range(20)}
    assert len(cuts) > 5
    # As far as a quarter of a block, and no further.
    sizes = [len(world.choose("purged", 0, 2, seed).val) for seed in range(60)]
    assert 60 / 2 - 60 / 8 <= min(sizes) < 60 / 2 - 60 / 12
    assert 60 / 2 + 60 / 12 < max(sizes) <= 60 / 2 + 60 / 8 + 1


def classes_of(world: World, members: np.ndarray) -> list[int]:
    return world.classes_SK[members].sum(axis=0).tolist()


@pytest.mark.parametrize("seed", range(8))
def test_blocks_are_paired_so_that_every_fold_resembles_the_whole(seed: int) -> None:
    # Both sessions begin with one class and end with another: first halves together would leave a class untrained.
    world = even_world(num_samples=40, num_recordings=2)
    halves = np.tile(np.repeat([0, 1], 20), 2)
    world = replace(world, classes_SK=np.eye(NUM_CLASSES, dtype=bool)[halves])
    for fold in range(2):
        members = world.choose("purged", fold, num_folds=2, seed=seed)
        first, second, third = classes_of(world, members.val)
        assert third == 0
        # 20 of each, were the cuts not moved: by up to a quarter of a block, 5 samples, in each session.
        assert min(first, second) >= 10
        assert max(first, second) <= 30


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    # The frequent class lies evenly but for a little; the rare one is in the first half of both sessions.
    world = even_world(num_samples=200, num_recordings=2)
    classes = np.zeros(400, dtype=int)
    classes[[5, 6, 7, 205, 206, 207]] = 1
    world = replace(world, classes_SK=np.eye(NUM_CLASSES, dtype=bool)[classes])
    for seed in range(8):
        for fold in range(2):
            assert classes_of(world, world.choose("purged", fold, 2, seed).val)[1] == 3


def test_every_moment_may_be_a_fold() -> None:
    world = even_world(num_samples=5)
    found = [world.choose("purged", fold, num_folds=5, seed=3).val.tolist() for fold in range(5)]
    assert sorted(found) == [[0], [1], [2], [3], [4]]


def test_a_crowded_moment_leaves_the_other_folds_a_moment_each() -> None:
    # 30 of 34 samples at one moment, wherever it lies.
    for crowded in range(5):
        world = even_world(num_samples=5)
        keyframes = tuple((0, 3 * i) for i in range(5) for _ in range(30 if i == crowded else 1))
        world = replace(world, keyframes=keyframes, classes_SK=np.ones((34, 1), dtype=bool))
        for num_folds in (2, 3, 4, 5):
            found = [world.choose("purged", fold, num_folds).val for fold in range(num_folds)]
            assert sorted(np.concatenate(found).tolist()) == list(range(34))
            assert min(map(len, found)) >= 1


def test_more_folds_than_moments_are_refused_with_the_session() -> None:
    world = even_world(num_samples=4, num_recordings=2)
    world = replace(
        world, keyframes=tuple((index, 0 if index else 3 * (i % 4)) for i, (index, _) in enumerate(world.keyframes))
    )
    with pytest.raises(ValueError, match=r"`data\.num_folds` \(=5\) exceeds .* session R0, 4; try 4, or choose leave"):
        world.choose("purged", 0, num_folds=5)
    # Four samples of one moment cannot be parted; no number of folds helps.
    with pytest.raises(ValueError, match=r"session R1, 1; choose leave-one-session-out"):
        world.choose("purged", 0, num_folds=2)


def test_a_fold_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`data\.fold` \(=3\) does not exist: purged gives 3 folds here, 0 to 2"):
        even_world().choose("purged", 3, num_folds=3)
    with pytest.raises(ValueError, match=r"`data\.fold` \(=2\) does not exist: leave-one-session-out gives 2 folds"):
        even_world(num_recordings=2).choose("leave-one-session-out", 2)


def test_one_session_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match=r"2 sessions or more, but all are of one: R0; choose purged"):
        even_world().choose("leave-one-session-out", 0)
    # A second session without samples does not help.
    world = even_world(num_recordings=2)
    world = replace(world, keyframes=world.keyframes[:40], classes_SK=world.classes_SK[:40])
    with pytest.raises(ValueError, match="2 sessions or more"):
        world.choose("leave-one-session-out", 0)


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    world = even_world(num_samples=6)
    with pytest.raises(
        ValueError, match=r"purged, fold 1\) leaves no training sample: all \d share a moment.*clip_len"
    ):
        world.choose("purged", 1, num_folds=2, width=100)


def sharing_of(loaded: list[Recording], keyframes: list[tuple[int, int]], width: float = 2) -> bool:
    """Whether the first of two samples shares a moment with the second, as the second does with the first."""
    line = timeline.build(loaded)
    pool = pool_of(line, keyframes, width)
    (found,) = splits.sharing(pool, line, np.array([0]), np.array([1])).tolist()
    assert splits.sharing(pool, line, np.array([1]), np.array([0])).tolist() == [found]
    return found


def test_what_two_windows_share() -> None:
    times = [100 * i for i in range(20)]
    one = recording("a", list(range(20)), times)
    # In one recording, by its frames: reach 1 to both sides.
    assert sharing_of([one], [(0, 5), (0, 7)])
    assert not sharing_of([one], [(0, 5), (0, 8)])
    # In another recording of other frames, by time: 350 ms later, so that frame 5 stands at 850 ms.
    later = recording("b", list(range(100, 120)), [each + 350 for each in times])
    assert sharing_of([one, later], [(0, 8), (1, 5)])
    assert sharing_of([one, later], [(0, 7), (1, 5)])  # 600 to 800 and 750 to 950
    assert not sharing_of([one, later], [(0, 6), (1, 5)])  # 500 to 700
    # In a copy, by what its frames show, whatever its times say.
    for others in (None, [each + 10**9 for each in times], times[::-1]):
        copy = recording("c", list(range(20)), others)
        assert sharing_of([one, copy], [(0, 5), (1, 7)])
    assert not sharing_of([one, recording("c", list(range(20)))], [(0, 5), (1, 8)])


def test_recordings_without_times_share_by_their_frames_only() -> None:
    # Their positions 0, 1, 2, ... are no times that could be compared.
    a, b = recording("a", list(range(20))), recording("b", [*range(100, 119), 0])  # one frame makes them a session
    assert timeline.build([a, b]).num_sessions == 1
    assert not sharing_of([a, b], [(0, 10), (1, 10)])
    assert sharing_of([a, b], [(0, 1), (1, 18)])
    assert sharing_of([a, b], [(1, 10), (1, 12)])
    timed = recording("c", [*range(200, 219), 0], list(range(20)))
    assert not sharing_of([a, timed], [(0, 10), (1, 10)])


def test_frames_that_show_nothing_are_shared_in_their_own_recording_only() -> None:
    a, b = recording("a", [None] * 20), recording("b", [None] * 20)
    assert not sharing_of([a, b], [(0, 10), (1, 10)])
    assert sharing_of([a, b], [(0, 10), (0, 12)])


def test_times_that_run_backwards_span_from_the_earliest_to_the_latest() -> None:
    # Frame 11 stands at time 20: the window of keyframe 10 reaches from 20 to 1000.
    times = [100 * i for i in range(20)]
    times[11] = 20
    broken = recording("a", list(range(20)), times)
    assert sharing_of([broken], [(0, 10), (0, 3)])
    assert not sharing_of([broken], [(0, 14), (0, 3)])


def test_a_window_inside_another_hides_none_of_it() -> None:
    # Frame 2 is a gap of 5 seconds: the window of keyframe 2 lasts from 100 to 5300, and another view's lie inside it.
    times = [0, 100, 5_200, 5_300, *range(9_000, 9_500, 100)]
    one = recording("a", list(range(9)), times)
    other = recording("b", list(range(100, 160)), [100 * i for i in range(60)])
    line = timeline.build([one, other])
    pool = pool_of(line, [(0, 2), (1, 10), (1, 45), (1, 57)], 2)
    found = splits.overlapping_in_time(pool, line, np.array([2, 3]), np.array([0, 1]))
    assert found.tolist() == [True, False]


@pytest.mark.parametrize("is_mixed", [False, True])
def test_what_hangs_together_by_time_or_by_content_is_one_moment(is_mixed: bool) -> None:
    # Frame 30 of `a` is stored again in `b`, as of the time of frame 12, when `c` saw something else.
    times = [100 * i for i in range(40)]
    loaded = [recording("a", list(range(40)), times), recording("b", [30], [1200])]
    loaded.append(recording("c", list(range(100, 140)), times))
    keyframes = [(0, i) for i in range(0, 40, 2)] + [(1, 0), (2, 12)]
    if is_mixed:  # without times for all, a session is the order of its recordings
        loaded.append(recording("d", [500, 501, 0]))
        keyframes += [(3, 0), (3, 1)]
    contents = tuple(tuple(range(1000 * r, 1000 * r + len(each.frames_NHW))) for r, each in enumerate(loaded))
    world = World(tuple(loaded), contents, tuple(keyframes), np.ones((len(keyframes), 1), dtype=bool), 1, False)
    assert world.line.num_sessions == 1
    together = {keyframes.index(each) for each in ((0, 12), (0, 30), (1, 0), (2, 12))}
    for fold, seed in itertools.product(range(4), range(5)):
        assert len(together & set(world.choose("purged", fold, 4, seed).val.tolist())) in (0, 4)


# Through the dataset


@pytest.mark.parametrize("split", ["purged", "leave-one-session-out"])
def test_no_trial_of_a_search_moves_a_sample(made_up_root: Path, split: SplitName) -> None:
    config = DataConfig(root=str(made_up_root), split=split, num_folds=3, fold=1, purge_window=64)
    trials = [
        dataset.load(replace(config, clip_len=clip_len, frame_interval=interval))
        for clip_len, interval in ((8, 1), (64, 1), (16, 4), (32, 2))
    ]
    assert len({data.val.ids for data in trials}) == len({data.train.ids for data in trials}) == 1
    assert len({data.fingerprint for data in trials}) == 1
    assert all(data.leak_share == 0 for data in trials)
    if split == "purged":
        narrow = dataset.load(replace(config, clip_len=8, frame_interval=1, purge_window=None))
        assert narrow.val.ids == trials[0].val.ids
        assert len(narrow.train) > len(trials[0].train)
        assert set(narrow.dropped_ids) < set(trials[0].dropped_ids)


@pytest.fixture
def every_fold(real_root: Path) -> Callable[..., list[dataset.Dataset]]:
    def load(split: SplitName, num_folds: int, **changes: object) -> list[dataset.Dataset]:
        plain = DataConfig(root=str(real_root), split=split, num_folds=5)
        return [dataset.load(replace(plain, fold=fold, **changes)) for fold in range(num_folds)]  # pyright: ignore

    return load


@pytest.mark.parametrize(
    "changes",
    [{}, {"clip_len": 64, "frame_interval": 1}, {"labels": "person"}, {"frame_interval_ms": 170.0}, {"split_seed": 7}],
)
@pytest.mark.parametrize("split", ["purged", "leave-one-session-out"])
def test_the_real_folds_leak_nothing(
    every_fold: Callable[..., list[dataset.Dataset]], split: SplitName, changes: dict[str, object]
) -> None:
    found = every_fold(split, 5 if split == "purged" else 2, **changes)
    num_samples = 405 + 95 if "labels" in changes else 314 + 73
    assert sorted(each for data in found for each in data.val.ids) == sorted(
        (*found[0].train.ids, *found[0].val.ids, *found[0].dropped_ids)
    )
    for data in found:
        assert data.leak_share == 0
        assert len(data.train) + len(data.val) + len(data.dropped_ids) == num_samples
        if split == "purged":
            assert abs(len(data.val) - num_samples / 5) <= num_samples / 10
        else:
            assert len(data.dropped_ids) == 0
            assert {name[:4] for name in data.val.ids}.isdisjoint(name[:4] for name in data.train.ids)
