"""What is wrong with the labels: people who disagree, classes that one side lacks, boxes, images.

Legend: K classes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from slowfast_ray.data import labels
from slowfast_ray.data.annotations import Annotations, Image, Person
from slowfast_ray.data.audit_findings import MAX_EXAMPLES, Finding
from slowfast_ray.data.config import DataConfig
from slowfast_ray.data.dataset import Dataset
from slowfast_ray.data.timeline import Timeline

FEW = 5
"""Of fewer training samples than this, a class is hardly learnt."""

EFFECTS_OF_TIES = {
    "lowest": "their label is the lowest category id, not a choice of people",
    "drop": "they are left out",
    "rarest": "their label is the rarest class, not a choice of people",
}


def findings(files: Sequence[Annotations], timeline: Timeline, config: DataConfig) -> list[Finding]:
    """What the annotation files tell, whatever the split: labels, boxes, images."""
    return [*_conflicts(files, config), *_moments(files, timeline), *_boxes(files, config), *_images(files)]


def _conflicts(files: Sequence[Annotations], config: DataConfig) -> Iterable[Finding]:
    if config.labels != "majority":
        return
    classes = files[0].classes
    tied = [[image for image in file.images if len(_winners(image)) > 1] for file in files]
    outvoted = [
        [image for image in file.images if len(_winners(image)) == 1 and len({p.label for p in image.people}) > 1]
        for file in files
    ]
    total = sum(len(file.images) for file in files)
    if num_tied := sum(map(len, tied)):
        yield Finding(
            key="label/tie",
            severity="note" if config.ties == "drop" else "warning",
            title=f"{num_tied} of {total} keyframes have people with different labels and no majority "
            f"({_per_file(tied, files)}): {EFFECTS_OF_TIES[config.ties]}.",
            count=num_tied,
            total=total,
            examples=_with_labels([image for images in tied for image in images], classes),
            remedy="Choose --data.labels person or --data.labels multi, where everybody's label counts.",
        )
    if num_outvoted := sum(map(len, outvoted)):
        yield Finding(
            key="label/outvoted",
            severity="note",
            title=f"{num_outvoted} of {total} keyframes hold people whose label a majority outvotes "
            f"({_per_file(outvoted, files)}).",
            count=num_outvoted,
            total=total,
            examples=_with_labels([image for images in outvoted for image in images], classes),
            remedy="Choose --data.labels person or --data.labels multi, where everybody's label counts.",
        )


def _moments(files: Sequence[Annotations], timeline: Timeline) -> Iterable[Finding]:
    at_moment: dict[int, list[Image]] = defaultdict(list)
    for file in files:
        for image in file.images:
            frame = timeline.firsts[timeline.index(image.recording)] + image.keyframe
            at_moment[int(timeline.moments_N[frame])].append(image)
    twice = [images for images in at_moment.values() if len(images) > 1]
    differ = [images for images in twice if len({tuple(sorted(p.label for p in image.people)) for image in images}) > 1]
    if differ:
        yield Finding(
            key="label/moment",
            severity="warning",
            title=f"{len(differ)} of {len(twice)} moments that were labelled twice carry different labels.",
            count=len(differ),
            total=len(twice),
            examples=tuple(" and ".join(image.id for image in images) for images in differ[:MAX_EXAMPLES]),
            remedy="Look at these keyframes and label them alike.",
        )


def classes(data: Dataset) -> Iterable[Finding]:
    """Classes that are missing or rare on one side of the split."""
    num_train_K, num_val_K = (part.num_per_class_K(len(data.classes)).numpy() for part in (data.train, data.val))
    parts = list(zip(data.classes, num_train_K.tolist(), num_val_K.tolist(), strict=True))
    total = len(parts)
    unlearnt = [f"{name} ({num_val} val)" for name, num_train, num_val in parts if num_val and not num_train]
    unproven = [f"{name} ({num_train} train)" for name, num_train, num_val in parts if num_train and not num_val]
    absent = [name for name, num_train, num_val in parts if not num_train and not num_val]
    few = [f"{name} ({num_train} train)" for name, num_train, _ in parts if 0 < num_train < FEW]
    if unlearnt:
        yield Finding.of(
            unlearnt,
            key="class/untrained",
            severity="serious",
            title=f"{len(unlearnt)} of {total} classes occur in val but not in train, so that they are always missed.",
            total=total,
            remedy="Add training samples of them, or choose another --data.split or --data.fold.",
        )
    if unproven:
        yield Finding.of(
            unproven,
            key="class/unvalidated",
            severity="warning",
            title=f"{len(unproven)} of {total} classes occur in train but not in val: nothing is measured about them.",
            total=total,
            remedy="Add validation samples of them, or choose another --data.split or --data.fold.",
        )
    if few:
        yield Finding.of(
            few,
            key="class/few",
            severity="warning",
            title=f"{len(few)} of {total} classes have fewer than {FEW} train samples.",
            total=total,
            remedy="Label more of them, or merge them with a class that is like them; --data.class-balance 0.5 draws "
            "them more often.",
        )
    if absent:
        yield Finding.of(
            absent,
            key="class/absent",
            severity="note",
            title=f"{len(absent)} of {total} classes occur neither in train nor in val.",
            total=total,
            remedy="Label samples of them, or take them out of the categories.",
        )


def _boxes(files: Sequence[Annotations], config: DataConfig) -> Iterable[Finding]:
    people = [
        (f"{image.id}#{number}", person)
        for file in files
        for image in file.images
        for number, person in enumerate(image.people)
    ]
    needed = config.labels == "person"
    missing = [name for name, person in people if person.box is None]
    wrong = [name for name, person in people if person.box is not None and not labels.is_fractions(person.box)]
    over = [name for name, person in people if _reaches_over(person)]
    if missing:
        yield Finding.of(
            missing,
            key="box/missing",
            severity="serious" if needed else "note",
            title=f"{len(missing)} of {len(people)} people have no box of four finite numbers.",
            total=len(people),
            remedy="Write `bbox` as [centre x, centre y, width, height]; without it, --data.labels person is refused.",
        )
    if wrong:
        yield Finding.of(
            wrong,
            key="box/fractions",
            severity="serious" if needed else "warning",
            title=f"{len(wrong)} of {len(people)} people have a box that is empty or no fractions of the frame.",
            total=len(people),
            remedy="Divide boxes by the frame's width and height; until then, --data.labels person is refused.",
        )
    if over:
        yield Finding.of(
            over,
            key="box/border",
            severity="note",
            title=f"{len(over)} of {len(people)} people have a box that reaches over the frame's border.",
            total=len(people),
            remedy="Look whether these boxes are [centre x, centre y, width, height], not corners.",
        )


def _reaches_over(person: Person) -> bool:
    box = person.box
    return box is not None and labels.is_fractions(box) and labels.reaches_over_the_border(box)


def _images(files: Sequence[Annotations]) -> Iterable[Finding]:
    num_unlabelled = [file.num_unlabelled for file in files]
    if any(num_unlabelled):
        total = sum(len(file.images) + file.num_unlabelled for file in files)
        yield Finding(
            key="image/unlabelled",
            severity="note",
            title=f"{sum(num_unlabelled)} of {total} images have no annotation and are left out.",
            count=sum(num_unlabelled),
            total=total,
            examples=tuple(f"{file.num_unlabelled} in {file.path.name}" for file in files if file.num_unlabelled),
            remedy="Annotate who is in them, or take them out of the files.",
        )
    train, val = ([image.id for image in file.images] for file in files)
    both = sorted(set(train) & set(val))
    if both:
        yield Finding.of(
            both,
            key="image/both",
            severity="warning",
            title=f"{len(both)} of {len(val)} images in val.json have the id of an image in train.json.",
            total=len(val),
            remedy="Give every image an id of its own, and list it in one file only.",
        )


def _winners(image: Image) -> list[int]:
    return labels.most_frequent(Counter(person.label for person in image.people))


def _per_file(chosen: Sequence[Sequence[Image]], files: Sequence[Annotations]) -> str:
    return ", ".join(
        f"{len(images)} of {len(file.images)} in {file.path.name}" for images, file in zip(chosen, files, strict=True)
    )


def _with_labels(images: Sequence[Image], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{image.id}: {', '.join(names[person.label] for person in image.people)}" for image in images[:MAX_EXAMPLES]
    )
