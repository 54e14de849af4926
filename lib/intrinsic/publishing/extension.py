"""The book's Sphinx extension: charts on pages, and scripts that all come from the book itself.

Vega comes from vl-convert, MathJax from sphinx-mathjax-offline; no page asks another host.
"""

import html
import importlib.util
import json
import re
import shutil
import zlib
from pathlib import Path

import vl_convert
from docutils import nodes

CHART = "application/vnd.vegalite.v5+json"
MATHJAX, SCRIPT = "sphinx-mathjax-offline", "tex-chtml-full.js"


def embedded_json(value) -> str:
    """Write JSON that can stand inside <script>: no character of it ends the element or opens a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def chart_html(spec: dict) -> tuple[str, str]:
    """Return what stands before and after the picture of a chart, which `charts.js` replaces by the chart."""
    label = html.escape(spec.get("description") or "Chart", quote=True)
    before = f'<div class="vega-chart" role="img" aria-label="{label}"><div class="vega-chart-static">'
    return before, f'</div><script type="application/json">{embedded_json(spec)}</script></div>'


class ChartRenderer:
    """Renderer of myst_nb for charts, and for pictures that bring a text alternative."""

    mime_priority_overrides = (("html", CHART, 1),)

    @staticmethod
    def handle_mime(renderer, data, inline):
        """Return the nodes of an output, or None for one that is not ours."""
        if inline or data.mime_type not in (CHART, "image/png"):
            return None
        if data.mime_type == "image/png":
            return ChartRenderer._picture(renderer, data)
        before, after = chart_html(data.content)
        _, outputs = renderer.renderer.nb_client.code_cell_outputs(data.cell_index)
        png = outputs[data.output_index]["data"].get("image/png")
        picture = []
        if png is not None:
            still = type(data)("image/png", png, data.cell_metadata, data.output_metadata, line=data.line)
            picture = ChartRenderer._picture(renderer, still) or renderer.render_image(still)
        end = nodes.raw("", after, format="html", classes=["vega-chart-end"])
        return [nodes.raw("", before, format="html"), *picture, end]

    @staticmethod
    def _picture(renderer, data):
        alternative = data.output_metadata.get("image/png", {}).get("alt")
        if not alternative:
            return None
        made = renderer.render_image(data)
        for node in made:
            node["alt"] = alternative
            node["classes"] = [*node.get("classes", []), "no-scaled-link", "of-pixels"]
        return made


def setup(app):
    """Register the extension with Sphinx."""
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("autodoc-process-docstring", _plain_signs, priority=100)  # before napoleon
    app.connect("html-page-context", _finish_page, priority=910)  # after the theme has set titles and lists
    app.connect("build-finished", _write_scripts)
    app.extensions["sphinx_multitoc_numbering"].parallel_read_safe = True  # it numbers after all pages are read
    version = zlib.crc32(Path(__file__).read_bytes())
    return {"version": "1", "env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}


def _plain_signs(app, what, name, obj, options, lines) -> None:
    """In docstrings |x| and K_ are mathematics, and neither substitutions nor links; examples stay as they are."""
    example = False
    for i, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = re.split(r"(`+[^`]*`+)", line)
            parts[::2] = [re.sub(r"(\||(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
            lines[i] = "".join(parts)


def _finish_page(app, pagename, templatename, context, doctree) -> None:
    """Escape titles, which the theme takes as HTML, and name what folds, for readers who hear a page."""
    for key in ("root_title", "pagetitle", "page_description"):
        if key in context:
            context[key] = html.escape(context[key])
    made = context.get("generate_toctree_html")
    if made is not None:
        name = '<summary aria-label="Pages below this one">'
        context["generate_toctree_html"] = lambda *a, **k: str(made(*a, **k)).replace("<summary>", name)
    if "body" in context:
        listed = '<div role="list" class="citation-list">'
        context["body"] = context["body"].replace(listed, '<div class="citation-list">')


def _write_scripts(app, error) -> None:
    if error is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    bundle = static / "vega-bundle.js"
    if not bundle.exists():
        script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        bundle.write_text(f"(function () {{\n{script}\n}})();\n", encoding="utf-8")
    if not (static / "mathjax" / SCRIPT).exists():
        package = Path(next(iter(importlib.util.find_spec(MATHJAX).submodule_search_locations)))
        kept = package / "static" / "mathjax"
        shutil.copytree(kept / "output" / "chtml", static / "mathjax" / "output" / "chtml", dirs_exist_ok=True)
        shutil.copy2(kept / SCRIPT, static / "mathjax" / SCRIPT)
