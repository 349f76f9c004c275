"""Frames of recordings as pictures: temperatures as colours, with the boxes of people.

Legend: H height, W width of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from slowfast_ray.data.annotations import Box
from slowfast_ray.running.audits.audit_pictures import Picture, canvas, picture_of, short

HEAT = "inferno"
"""Even steps of temperature are even steps of lightness."""


@dataclass(frozen=True)
class Person:
    """A box in a frame."""

    name: str
    box: Box
    is_asked: bool
    """Whether the sample is about this person."""


def frame(
    frame_HW: np.ndarray, people: Sequence[Person], span_celsius: tuple[float, float], words: tuple[str, str]
) -> Picture:
    """A frame in colours of temperature, enlarged without smoothing, with boxes; `words` are alt and caption."""
    height, width = frame_HW.shape
    with canvas(3.3, 3.3 * height / width, layout=None) as figure:
        axes = figure.add_axes((0, 0, 1, 1))
        axes.imshow(
            frame_HW, cmap=HEAT, vmin=span_celsius[0], vmax=span_celsius[1], interpolation="nearest", aspect="auto"
        )
        axes.set_axis_off()
        for person in people:
            _draw_person(axes, person, height, width)
        return picture_of(figure, *words)


def temperatures(span_celsius: tuple[float, float]) -> Picture:
    """What the colours of frames mean."""
    with canvas(3.3, 0.55, layout=None) as figure:
        axes = figure.add_axes((0.03, 0.62, 0.94, 0.3))
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=HEAT, aspect="auto", extent=(*span_celsius, 0, 1))
        axes.set_yticks([])
        axes.set_xlabel("degrees Celsius", labelpad=1, fontsize=9)
        axes.tick_params(labelsize=9, length=2, pad=1)
        low, high = span_celsius
        return picture_of(
            figure,
            f"Colour scale from {low:.0f} to {high:.0f} degrees Celsius, dark to light.",
            "Colours of the frames.",
        )


def _draw_person(axes: Axes, person: Person, height: int, width: int) -> None:
    x, y, box_width, box_height = person.box
    # Pixels lie around whole numbers: the frame's left edge is at -0.5.
    left, top = (x - box_width / 2) * width - 0.5, (y - box_height / 2) * height - 0.5
    color, line = ("white", "-") if person.is_asked else ("#B8C4CE", ":")
    axes.add_patch(
        Rectangle(
            (left, top), box_width * width, box_height * height,
            fill=False, edgecolor=color, linewidth=1.6 if person.is_asked else 1.0, linestyle=line,
        )
    )  # fmt: skip
    above = top > 0.1 * height
    # Inside the picture, whatever the box: a name of 30 letters takes half its width.
    at = min(max(left, -0.5), 0.45 * width), max(top, -0.5) if above else top + box_height * height
    axes.text(
        *at, short(person.name, 30),
        fontsize=8, color="white", ha="left", va="bottom" if above else "top",
        bbox={"facecolor": "#1F2933", "alpha": 0.72, "pad": 1.2, "linewidth": 0},
    )  # fmt: skip
