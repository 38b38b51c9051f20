"""Pieces of the report's HTML. Every text that comes in is escaped here."""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from rlhf.plot_parts import Drawing


def page(title: str, headline: str, bodies: Mapping[str, str]) -> str:
    """A whole page, which opens offline: its charts' script is in it.

    Args:
        title: plain text.
        headline: HTML above the sections.
        bodies: HTML of the sections by their titles; empty ones are left out.
    """
    import vl_convert

    shown = {name: body for name, body in bodies.items() if body}
    sections = "\n".join(section(name, body) for name, body in shown.items())
    body = f"{headline}\n{navigation(list(shown))}\n<main>\n{sections}\n</main>"
    template = files("policy.evaluation").joinpath("report_page.html").read_text(encoding="utf-8")
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed").replace(
        "</script", "<\\/script"
    )
    return Template(template).substitute(title=escape(title), body=body, vega=bundle)


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def section(title: str, body: str) -> str:
    """A section under its heading; `body` is HTML."""
    name = _anchor(title)
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(title)}</h2>\n'
        f"{body}\n</section>"
    )


def navigation(titles: Sequence[str]) -> str:
    """Links to the sections."""
    links = "".join(f'<li><a href="#{_anchor(t)}">{escape(t)}</a></li>' for t in titles)
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column names its rows; it scrolls on its own where room is short."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table>\n<caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def charts(*drawings: Drawing | None) -> str:
    """Charts side by side where the page is wide enough; None is left out."""
    figures = [figure(chart) for chart in drawings if chart is not None]
    return f'<div class="charts">\n{"".join(figures)}</div>' if figures else ""


def figure(chart: Drawing) -> str:
    """An altair chart: its title and description as text, its specification for the script.

    The drawing itself is hidden from screen readers: the description says what it shows.
    """
    spec = chart.to_dict()
    title = " ".join(spec.pop("title")["text"])
    description = spec.pop("description")
    spec["config"]["aria"] = False
    return (
        f"<figure>\n<h3>{escape(title)}</h3>\n"
        f'<div class="chart"></div>\n{_json_script(spec)}\n'
        f"<figcaption>{escape(description)}</figcaption>\n</figure>\n"
    )


def _json_script(content: Any) -> str:
    """JSON as a data block; no `<` in it can end the element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower())
