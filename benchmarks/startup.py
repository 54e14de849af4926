"""Start-up: the import of one estimator against that of torch alone, and two commands, each in a new process.

Writes benchmarks/results/startup.json. The ratio of the import to torch's is taken within a turn.

usage: python benchmarks/startup.py [--small] [--turns N] [--output FOLDER]
"""

import subprocess
import sys

from measuring import in_turn, said, settings, spread, write

COMMANDS = {
    "import torch": (["-c", "import torch"], 0),
    "from intrinsic import label_sharpness": (["-c", "from intrinsic import label_sharpness"], 0),
    "intrinsic measure digits": (["-m", "intrinsic.cli", "measure", "digits"], 0),
    "intrinsic measure NOPE": (["-m", "intrinsic.cli", "measure", "NOPE"], 1),
}


def call(words, expected):
    """Run Python with these words; another exit code than expected ends the measurement."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode != expected:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}, not {expected}:\n{done.stderr}")


def main(argv=None):
    """Measure, print, write."""
    chosen = settings(__doc__, argv, turns=5)
    methods = {title: lambda how=how: call(*how) for title, how in COMMANDS.items()}
    seconds, _ = in_turn(methods, chosen.turns, warm=0 if chosen.small else 1)
    base, rows = seconds["import torch"], []
    for title, times in seconds.items():
        rows.append({"command": title, "seconds": spread(times), "times_torch": spread(times / base)})
        print(f"{title:<40} {said(rows[-1]['seconds'])} s, {said(rows[-1]['times_torch'])} times import torch")
    write({"turns": chosen.turns, "rows": rows}, chosen.output, "startup")


if __name__ == "__main__":
    main()
