"""What a chart is made of, said once: search_page.py draws it with plotly, search_pictures.py with matplotlib.

So page and PNG cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 920
"""Of a picture [CSS pixels]."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How points are drawn; sizes in CSS pixels."""

    color: str
    symbol: str = ""
    """circle, diamond, cross or x; empty for a line without symbols."""
    is_filled: bool = True
    size: float = 8.0
    width: float = 0.0
    """Of the line; 0 for symbols without one."""
    is_dashed: bool = False
    alpha: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points with one look; NaN breaks their line."""

    x: Sequence[float]
    y: Sequence[float]
    look: Look
    label: str = ""
    """In the legend, which names each label once."""
    hover: Sequence[str] = ()
    """What the page tells of each point."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What stands along a panel; `ticks` are positions with their words, empty where the library shall choose."""

    label: str = ""
    is_log: bool = False
    ticks: Sequence[tuple[float, str]] = ()
    span: tuple[float, float] | None = None
    """From where to where, on a linear axis."""
    is_hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Note:
    """Words at a place of a panel with linear axes, centred on it, or to its left or right."""

    x: float
    y: float
    text: str
    side: str = "center"
    size: float = 11.0
    is_bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Series over two axes, the first series at the bottom."""

    x: Axis
    y: Axis
    series: Sequence[Series] = ()
    notes: Sequence[Note] = ()


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Panels in rows under a heading, with the sentence that explains them."""

    stem: str
    """Of the PNG's name; the place on the page."""
    heading: str
    sentence: str
    panels: Sequence[Panel]
    height: float
    """Of the panels with their axes [CSS pixels]."""
    columns: int = 1
    """More than one share their y axis."""

    def legend(self) -> dict[str, Look]:
        """The look of each label."""
        return {each.label: each.look for panel in self.panels for each in panel.series if each.label}

    def rows(self) -> int:
        """How many rows of panels there are."""
        return -(-len(self.panels) // self.columns)


def chart(
    stem: str, heading: str, sentence: str, panels: Sequence[Panel] | str, *, height: float = 360, columns: int = 1
) -> Chart:
    """A chart; words instead of panels say why there is nothing to draw."""
    if isinstance(panels, str):
        nowhere = Axis(span=(0, 1), is_hidden=True)
        panels = [Panel(x=nowhere, y=nowhere, notes=[Note(x=0.5, y=0.5, text=panels, size=13)])]
        height, columns = 160, 1
    return Chart(stem=stem, heading=heading, sentence=sentence, panels=panels, height=height, columns=columns)
