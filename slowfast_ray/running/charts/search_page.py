"""The page of a search's charts, drawn with plotly: one HTML file that needs nothing but itself.

Names are anybody's, so they are escaped, and the page forbids requests to the browser.
"""

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from slowfast_ray.running.audits.audit_pictures import FAINT, GREY, INK
from slowfast_ray.running.charts.search_charts_parts import Axis, Chart, Look, Panel

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def page(title: str, lead: str, charts: Sequence[Chart]) -> str:
    """The charts as one HTML page, interactive without a network."""
    sections = "".join(
        f'<section id="{chart.stem}">\n<h2>{escape(chart.heading)}</h2>\n<p>{escape(chart.sentence)}</p>\n'
        f"{_html(chart, is_first=chart is charts[0])}\n</section>\n"
        for chart in charts
    )
    return _PAGE.format(title=escape(title), lead=escape(lead), font=FONT, ink=INK, line=FAINT, sections=sections)


def _html(chart: Chart, *, is_first: bool) -> str:
    return plotly.io.to_html(
        figure(chart),
        include_plotlyjs=is_first,
        full_html=False,
        div_id=f"chart-{chart.stem}",
        config={
            "displaylogo": False,
            "responsive": True,
            "showSendToCloud": False,  # a button that uploads the chart, there unless it is forbidden
            "toImageButtonOptions": {"filename": chart.stem, "scale": 2},
        },
    )


def figure(chart: Chart) -> go.Figure:
    """The chart as plotly draws it."""
    rows = chart.rows()
    made = make_subplots(
        rows,
        chart.columns,
        shared_yaxes="all" if chart.columns > 1 else False,  # pyright: ignore[reportArgumentType]
        vertical_spacing=0.0 if rows == 1 else 62 / chart.height,
        horizontal_spacing=0.03,
    )
    for label, look in chart.legend().items():  # whatever the points look like, and whether there are any in view
        made.add_scatter(x=[None], y=[None], name=_text(label), legendgroup=label, **_style(look))
    for number, panel in enumerate(chart.panels):
        row, column = number // chart.columns + 1, number % chart.columns + 1
        for each in panel.series:
            made.add_scatter(
                x=list(each.x),
                y=list(each.y),
                row=row,
                col=column,
                showlegend=False,
                legendgroup=each.label,
                hoverinfo="text" if each.hover else "skip",
                hovertext=[_text(hover) for hover in each.hover],
                **_style(each.look),
            )
        made.update_xaxes(_axis(panel.x), row=row, col=column)
        made.update_yaxes(_axis(panel.y), row=row, col=column)
        for note in _annotations(panel):
            made.add_annotation(note, row=row, col=column)
    return made.update_layout(
        height=chart.height + (50 if chart.legend() else 0),
        margin={"l": 60, "r": 20, "t": 12, "b": 50},
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": FONT, "size": 12, "color": INK},
        hovermode="closest",
        hoverlabel={"bgcolor": "white", "bordercolor": GREY, "align": "left", "font": {"color": INK}},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"},
    )


def _style(look: Look) -> dict[str, Any]:
    modes = [*(["lines"] if look.width else []), *(["markers"] if look.symbol else [])]
    found: dict[str, Any] = {"mode": "+".join(modes), "opacity": look.alpha}
    if look.width:
        found["line"] = {"color": look.color, "width": look.width, "dash": "dash" if look.is_dashed else "solid"}
    if look.symbol:
        symbol = look.symbol if look.is_filled else f"{look.symbol}-open"
        found["marker"] = {
            "color": look.color,
            "symbol": symbol,
            "size": look.size,
            "line": {"width": 0.8 if look.is_filled else 1.6, "color": "white" if look.is_filled else look.color},
        }
    return found


def _axis(axis: Axis) -> dict[str, Any]:
    found = {"type": "log" if axis.is_log else "linear", "zeroline": False, "range": axis.span}
    if axis.is_hidden:
        return {**found, "visible": False}
    if axis.ticks:
        found |= {"tickvals": [at for at, _ in axis.ticks], "ticktext": [_text(shown) for _, shown in axis.ticks]}
    title = {"text": _text(axis.label), "standoff": 8}
    return {**found, "title": title, "gridcolor": FAINT, "linecolor": GREY, "ticks": "outside", "tickcolor": GREY}


def _annotations(panel: Panel) -> Iterator[dict[str, Any]]:
    for note in panel.notes:
        yield {
            "x": note.x,
            "y": note.y,
            "text": f"<b>{_text(note.text)}</b>" if note.is_bold else _text(note.text),
            "xanchor": {"left": "right", "right": "left"}.get(note.side, "center"),
            "yanchor": "middle",
            "showarrow": False,
            "font": {"size": note.size},
            "bgcolor": "rgba(255,255,255,0.8)",
        }


def _text(text: str) -> str:
    """Text for plotly, which reads some HTML in it, and formulas between dollars."""
    return escape(text, quote=False).replace("$", "&#36;").replace("\n", "<br>")


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
* {{ box-sizing: border-box; }} body {{ margin: 0; background: #f5f7f9; color: {ink}; font: 16px/1.5 {font}; }}
main {{ max-width: 1040px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 30px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; margin: 0 0 4px; overflow-wrap: anywhere; }}
p {{ color: #52606d; margin: 0 0 12px; overflow-wrap: anywhere; }}
section {{ background: white; border: 1px solid {line}; border-radius: 10px; padding: 24px; margin: 20px 0; }}
section {{ overflow-x: auto; }} section > div {{ min-width: 640px; }}
</style>
</head>
<body><main>
<h1>{title}</h1>
<p>{lead}</p>
{sections}</main></body>
</html>
"""
