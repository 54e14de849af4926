"""What a campaign adds to its runs: the wall time of runs that do nothing but write their record.

usage: python benchmarks/engine.py [--runs 1000] [--workers 2]
"""

import argparse
import tempfile
import time
from pathlib import Path

from intrinsic.campaigns import execution, parameters
from intrinsic.campaigns.plan import Plan, Task
from intrinsic.campaigns.records import Record, Store, record_id


def nothing(task, store):
    """Write the record of a run that does nothing."""
    store.write(Record(task.kind, task.params, {}))


def tasks(count: int):
    for number in range(count):
        params = {"dataset": "nothing", "number": number, "method_version": 3}
        yield Task("properties", "digits", params, (("properties", record_id("properties", params)),))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    import engine as here  # by its module's name, as worker processes find it

    execution.runs.complete = here.nothing
    p = parameters.params(workers=arguments.workers)
    with tempfile.TemporaryDirectory() as folder:
        for runs in (1, arguments.runs):
            store, started = Store(Path(folder) / str(runs)), time.perf_counter()
            done = execution.run(p, store=store, made=Plan(tuple(tasks(runs)), (), ()), progress=False)
            seconds = time.perf_counter() - started
            print(f"{done.computed} runs that do nothing: {seconds:.1f} s, {1000 * seconds / runs:.1f} ms each")


if __name__ == "__main__":
    main()
