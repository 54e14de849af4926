"""Peak memory and seconds of `intrinsic measure` on folders: 1,000 pictures of 1024 x 1024, and 60,000 of 28 x 28.

The pictures are made in a temporary folder. Memory is compared with that of the pixels alone. Writes
benchmarks/results/memory.json.

usage: python benchmarks/memory.py [--small] [--turns N] [--output FOLDER]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import settings, write
from PIL import Image

SETS = [(1_000, 1024), (60_000, 28)]
SMALL = [(80, 28)]


def pictures(folder, n, side):
    """n smooth grey PNG pictures in two folders of classes."""
    rng = np.random.default_rng(0)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)).resize((side, side))
        path = folder / "ab"[i % 2] / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        coarse.save(path, compress_level=1)


def measured(folder, cache):
    """(seconds, bytes at the peak) of the command on a folder, in a process of its own."""
    environment = {**os.environ, "INTRINSIC_CACHE": str(cache)}
    command = [sys.executable, "-m", "intrinsic.cli", "measure", str(folder), "--json"]
    with tempfile.TemporaryFile() as told:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"intrinsic measure ended with {process.returncode}:\n{told.read().decode()}")
    return seconds, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(argv=None):
    """Measure, print, write."""
    chosen, rows = settings(__doc__, argv, turns=1), []
    for n, side in SMALL if chosen.small else SETS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place, "pictures")
            folder.mkdir()
            pictures(folder, n, side)
            for turn in range(chosen.turns):
                seconds, peak = measured(folder, Path(place, f"cache{turn}"))
                row = {"n": n, "side": side, "seconds": seconds, "peak_mib": round(peak / 2**20, 1)}
                rows.append(row | {"pixels_mib": round(n * side**2 / 2**20, 1)})
                print(
                    "{n} of {side} x {side}: {seconds:.1f} s, {peak_mib} MiB ({pixels_mib} of pixels)".format(
                        **rows[-1]
                    )
                )
    write({"turns": chosen.turns, "rows": rows}, chosen.output, "memory")


if __name__ == "__main__":
    main()
