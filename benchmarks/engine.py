"""What the engine adds to the runs of a campaign: worker processes, claims, heartbeats, records.

Two campaigns over an empty store, from the call to its return, so that starting the worker processes counts:
runs that do nothing but write their record, and runs of 30 seconds on one worker process, whose wall time is compared
with the sum of the times that the runs measured of themselves.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import intrinsic.engine
from intrinsic.images import REPOSITORY
from intrinsic.records import Record, Store, write_text

sys.path.append(str(REPOSITORY / "tests"))
from engine_work import tasks  # made-up runs, as the tests of the engine have them


def work(run, store):
    """Last as long as its number of seconds says, then write the record, with the seconds that passed."""
    started = time.perf_counter()
    time.sleep(float(run.how))
    store.write(Record(run.kind, run.params, {"seconds": time.perf_counter() - started}, {}, {}, {}))


def campaign(runs: int, seconds: float, workers: int) -> tuple[float, float]:
    """(wall seconds of a campaign, sum of the seconds of its runs)"""
    import engine as here  # by its module's name, as worker processes find it

    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        settings = intrinsic.engine.Settings(workers=workers)
        started = time.perf_counter()
        todo = tasks(folder, *[str(seconds)] * runs)
        done = intrinsic.engine.complete(todo, store, here.work, settings, progress=False)
        wall = time.perf_counter() - started
        if done.computed != runs:
            raise SystemExit(f"{done.computed} of {runs} runs were computed; the first that failed: {done.failed[:1]}")
        return wall, sum(record.metrics["seconds"] for record in store.records("properties"))


def main() -> None:
    """Measure, print, write."""
    from training import CORES, machine  # here, since worker processes read this file too

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--empty", type=int, default=1_000, help="runs that do nothing (1,000)")
    parser.add_argument("--long", type=int, default=10, help="runs of 30 seconds (10)")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "engine.json")
    arguments = parser.parse_args()
    found = {"machine": machine()}
    for workers in (1, CORES):
        wall, _ = campaign(arguments.empty, 0.0, workers)
        found[f"empty_{workers}"] = {"runs": arguments.empty, "workers": workers, "seconds": wall}
        print(f"{arguments.empty} empty runs on {workers} worker processes: {wall:.1f} s", flush=True)
    wall, total = campaign(arguments.long, 30.0, 1)
    found["long"] = {"runs": arguments.long, "seconds": wall, "sum_of_runs": total, "overhead": wall / total - 1}
    print(f"{arguments.long} runs of 30 s: {wall:.1f} s, {100 * (wall / total - 1):.2f} % over their sum")
    write_text(arguments.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
