"""What a campaign adds to its runs: wall time of 1,000 runs on a LocalCluster that do nothing but write their record.

Writes benchmarks/results/campaigns.json.

usage: python benchmarks/campaigns.py [--small] [--turns N] [--output FOLDER]
"""

import tempfile
import time
from pathlib import Path

from measuring import settings, write

from intrinsic.campaigns import execution, parameters, runs
from intrinsic.campaigns.plan import Plan, Task
from intrinsic.campaigns.records import METHOD_VERSIONS, Record, Store, record_id

WORKERS, RUNS = 2, 1_000


def nothing(task, store):
    """Write the record of a run that does nothing."""
    store.write(Record(task.kind, task.params, {}))


def empty_plan(count):
    """A plan of so many runs that do nothing."""
    made = []
    for number in range(count):
        params = {"dataset": "nothing", "number": number, "method_version": METHOD_VERSIONS["properties"]}
        made.append(Task("properties", "digits", params, (("properties", record_id("properties", params)),)))
    return Plan(tuple(made), (), ())


def seconds_of(count, folder):
    """Wall seconds of a campaign of so many empty runs, workers started anew."""
    started = time.perf_counter()
    p = parameters.Params(workers=WORKERS)
    done = execution.run(p, store=Store(folder / str(count)), made=empty_plan(count), progress=False)
    if done.computed != count:
        raise SystemExit(f"{done.computed} of {count} empty runs were computed: {done.failed[:1]}")
    return time.perf_counter() - started


def main(argv=None):
    """Measure, print, write."""
    chosen, rows = settings(__doc__, argv, turns=3), []
    count, original = 3 if chosen.small else RUNS, runs.complete
    runs.complete = nothing
    try:
        if not chosen.small:  # the first cluster of a process starts slowly
            with tempfile.TemporaryDirectory() as folder:
                seconds_of(WORKERS, Path(folder))
        for _ in range(chosen.turns):
            with tempfile.TemporaryDirectory() as folder:
                start, whole = (seconds_of(n, Path(folder)) for n in (WORKERS, count))
            each = 1000 * (whole - start) / (count - WORKERS)
            rows.append({"runs": count, "seconds": whole, "start_seconds": start, "milliseconds_each": each})
            print(f"{count} empty runs: {whole:.1f} s, of which {start:.1f} s to start; {each:.1f} ms each", flush=True)
    finally:
        runs.complete = original
    write({"workers": WORKERS, "turns": chosen.turns, "rows": rows}, chosen.output, "campaigns")


if __name__ == "__main__":
    main()
