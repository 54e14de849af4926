"""Sentences above thirty words in the pages, README and CONTRIBUTING; `python tests/prose.py [FILES]` lists them."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 30
SKIPPED = ("CHANGELOG.md", "book/records")


def prose(path: Path) -> str:
    """The text of a page: of a notebook its markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def sentences(text: str) -> list[str]:
    """The sentences of Markdown: no code, tables, headings or directives; a formula or a link counts as its text."""
    text = re.sub(r"^(```|~~~).*?^\1[^\n]*$", "\n\n", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$", " formula ", text, flags=re.S)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", " x ", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^\s*(#|\||:::|:\w|\(|\{).*$", "\n", text, flags=re.M)
    text = re.sub(r"^\s*([-*]|\d+\.)\s+", "\n\n", text, flags=re.M)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        plain = re.sub(r"[*_{}]", "", " ".join(paragraph.split()))
        found += re.split(r"(?<=[.!?:])\s+(?=[A-Z0-9(\"“])", plain)
    return [sentence for sentence in found if sentence]


def long_sentences(path: Path, most: int = MOST) -> list[tuple[int, str]]:
    """(words, sentence) of those with more than `most` words."""
    counted = [(len(re.findall(r"[\w'’.-]*\w", sentence)), sentence) for sentence in sentences(prose(path))]
    return [(words, sentence) for words, sentence in counted if words > most]


def main(arguments) -> int:
    """Print what is too long; 1 where anything is."""
    paths = [Path(name) for name in arguments] or [
        *sorted((ROOT / "book").rglob("*.ipynb")), *sorted(ROOT.rglob("book/**/*.md")), *sorted(ROOT.glob("*.md"))
    ]  # fmt: skip
    paths = [p for p in paths if ".ipynb_checkpoints" not in p.parts and "_build" not in p.parts]
    count = 0
    for path in paths:
        if any(part in path.as_posix() for part in SKIPPED):
            continue
        for words, sentence in long_sentences(path):
            count += 1
            name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            print(f"{name}: {words} words: {sentence[:160]}{'…' if len(sentence) > 160 else ''}")
    if count:
        print(f"{count} sentences have more than {MOST} words", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
