"""The commands that README and the book's text show: each is one that exists, and the quick ones run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from image_files import dicom
from PIL import Image

from intrinsic import cli, images

ROOT = images.REPOSITORY
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "book").rglob("*.md"))]
PLACES = ("FOLDER", "path/to/folder", "scans")  # of the reader's own images


def commands(text: str) -> list[str]:
    """The commands of the bash blocks of a text, one a line, without comments; lines that end in \\ are joined."""
    blocks = re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    parts = (shlex.split(line, comments=True) for line in lines)
    return [shlex.join(words) for words in parts if words]


FOUND = sorted({line for path in TEXTS for line in commands(path.read_text(encoding="utf-8"))})


def words_of(command: str) -> list[str]:
    """Its words without settings of the environment before it and without what its output goes to."""
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words[: words.index(">")] if ">" in words else words


@pytest.fixture
def scans(tmp_path):
    """Pictures of the reader: two classes, several patients; beside them a tree of DICOM files and their findings."""
    rng = np.random.default_rng(0)
    for label in ("ill", "well"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for i in range(24):
            picture = Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8))
            picture.save(tmp_path / "scans" / label / f"p{i // 3}_{i}.png")
    for i in range(24):
        dicom(tmp_path / "SCANS" / f"p{i // 3}" / "study" / f"{i}.dcm", rng.integers(0, 255, (16, 16), np.uint8),
              PatientID=f"P{i // 3}")  # fmt: skip
    findings = "".join(f"P{i},{'no' if i % 2 else 'yes'}\n" for i in range(8))
    (tmp_path / "readings.csv").write_text(f"patient,finding\n{findings}")
    return tmp_path / "scans"


def test_comments_continued_lines_and_other_blocks_are_read_as_a_shell_does():
    text = "```bash\n# one\na b  # c\nd \\\n  e\n```\n```python\nf\n```\n"
    assert commands(text) == ["a b", "d e"]


def test_there_are_commands_to_test():
    assert len(FOUND) > 15
    assert {words_of(command)[0] for command in FOUND} <= {
        "make",
        "conda",
        "pip",
        "intrinsic",
        "papermill",
        "git",
        "dask",
    }


@pytest.mark.parametrize("command", [c for c in FOUND if words_of(c)[0] == "intrinsic"])
def test_a_command_of_the_package_is_parsed_and_its_files_exist(command):
    arguments = cli.parser().parse_args(words_of(command)[1:])
    file = getattr(arguments, "params", None)
    assert file is None or file == "FILE" or (ROOT / file).exists()


@pytest.mark.parametrize("command", [c for c in FOUND if words_of(c)[0] == "make"])
def test_a_target_of_make_exists(command):
    words = [word for word in words_of(command) if "=" not in word and "<" not in word]
    done = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in FOUND if words_of(c)[0] == "papermill"])
def test_a_page_and_its_parameters_exist(command):
    words = words_of(command)
    assert (ROOT / words[1]).exists()
    assert "-f" not in words or (ROOT / words[words.index("-f") + 1]).exists()


def quick(command: str) -> bool:
    words = words_of(command)
    own = any(place in words for place in PLACES)
    return words[0] == "intrinsic" and (
        (words[1] == "measure" and "FOLDER" not in words[2:3]) or (words[1] == "datasets" and (own or len(words) == 2))
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in FOUND if quick(c)])
def test_a_quick_command_runs(command, scans):
    words = [str(scans) if word in PLACES else word for word in words_of(command)[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "intrinsic.cli", *words], cwd=scans.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_pictures_and_pages_that_the_readme_links_exist_and_are_small():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    pictures = [ROOT / link for link in links if Path(link).suffix in (".png", ".webp", ".svg")]
    assert pictures
    assert max(path.stat().st_size for path in pictures) < 200_000
