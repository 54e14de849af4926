"""Where Chromium is, for the tests that look at the book; `python tests/browser.py --install` gets one."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "Chromium was not found, without which nobody looks at the pages; run make browser"


def find_chromium() -> str | None:
    """The path of a Chromium that starts: $CHROMIUM, one on the PATH, or playwright's own."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), _playwrights_own()]
    return next((path for path in candidates if path and _starts(path)), None)


def _playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        path = driver.chromium.executable_path
    return path if Path(path).exists() else None


def _starts(path: str) -> bool:
    """Ubuntu's chromium-browser may be a stub that only asks for a snap."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"chrom" in done.stdout.lower()


def install() -> int:
    """apt as root or with sudo, then playwright's own download; 0 once a Chromium starts."""
    root = os.geteuid() == 0 if hasattr(os, "geteuid") else False
    sudo = [] if root else ["sudo", "-n"]
    may_sudo = root or shutil.which("sudo") is not None
    attempts = []
    if shutil.which("apt-get") and may_sudo:
        attempts.append([[*sudo, "apt-get", "update", "-qq"], [*sudo, "apt-get", "install", "-y", "-qq", "chromium"]])
    attempts.append([[sys.executable, "-m", "playwright", "install", "chromium"]])
    if may_sudo:
        attempts.append([[sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"]])
    for commands in attempts:
        for command in commands:
            subprocess.run(command, check=False, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        if found := find_chromium():
            print(found)
            return 0
    print(
        "Chromium could be installed neither with apt nor by playwright, so the browser tests cannot run; "
        "install it yourself, or name one: CHROMIUM=/path/to/chromium make test",
        file=sys.stderr,
    )
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--install", action="store_true", help="install Chromium where none is found")
    arguments = parser.parse_args()
    if found := find_chromium():
        print(found)
        return 0
    if arguments.install:
        return install()
    print(MISSING, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
