"""The page of one image set, executed, as one HTML file that needs nothing else; nothing is written elsewhere."""

import html
import json
import os
import re
import tempfile
from pathlib import Path
from unittest.mock import patch

from markdown_it import MarkdownIt

from intrinsic.campaigns import records
from intrinsic.publishing import build

STYLE = """body { font: 16px/1.5 Helvetica, Arial, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
th { text-align: left; vertical-align: top; padding-right: 1em } pre { overflow-x: auto; background: #f4f4f4 }
td, li, figcaption { overflow-wrap: anywhere } img { max-width: 100% } summary { cursor: pointer; color: #555 }"""


def report(source: str, out: Path, **parameters) -> Path:
    """Execute the page of an image set, write it as one HTML file, and return the file.

    Parameters
    ----------
    source : str
        A catalogue name, a folder, a table or an .npz file.
    out : path
        The HTML file.
    **parameters
        Of the page, such as size and channels; None: as the images are.

    Raises
    ------
    BookError
        Where a cell fails, with what it says.
    """
    out = records.writable(Path(out), ".html")
    with tempfile.TemporaryDirectory() as folder:
        page = build.set_page(str(source), {"size": None, "channels": None, **parameters})
        executed, elsewhere = Path(folder, "executed"), {"INTRINSIC_CACHE": f"{folder}/cache"}
        with patch.dict(os.environ, elsewhere | {"PYTHONDONTWRITEBYTECODE": "1"}):
            try:
                build.execute([page], executed, state="", workers=1, progress=False)
            except build.BookError as error:  # the page lies in a folder that goes
                raise build.BookError(str(error).split("\n(as far")[0].splitlines()[-1]) from None
        cells = json.loads((executed / f"{page.name}.ipynb").read_text(encoding="utf-8"))["cells"]
    body = "\n".join(map(_cell, cells))
    head = f'<meta charset="utf-8"><title>{html.escape(page.title)}</title><style>{STYLE}</style>'
    records.write_text(out, f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>{body}</body></html>\n')
    return out


def _cell(cell) -> str:
    """A cell as HTML: text, folded code, outputs."""
    tags, source = cell["metadata"].get("tags", ()), "".join(cell["source"])
    if "Exercises" in source or "parameters" in tags or "injected-parameters" in tags:
        return ""
    if cell["cell_type"] == "markdown":
        return _markdown(source)
    code = f"<details><summary>Code</summary><pre>{html.escape(source)}</pre></details>"
    return code + ("" if "remove-cell" in tags else "".join(map(_output, cell["outputs"])))


def _output(output) -> str:
    """An output as HTML: a picture, HTML, Markdown, or text. What is only said to a person at work is left out."""
    data = {kind: "".join(value) for kind, value in output.get("data", {}).items() if isinstance(value, str | list)}
    text = html.escape(data.get("text/plain", ""), quote=True)
    if "image/png" in data:
        return f'<p><img alt="{text}" src="data:image/png;base64,{data["image/png"].strip()}"></p>'
    if "text/html" in data or "text/markdown" in data:
        return data.get("text/html") or _markdown(data["text/markdown"])
    return text and f"<pre>{text}</pre>"


def _markdown(text) -> str:
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(re.sub(r"\$([^$]+)\$", r"*\1*", text))
