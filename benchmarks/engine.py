"""What the engine adds to the runs of a campaign (worker processes, claims, heartbeats, records), and reading records.

Two campaigns over an empty store, from the call to its return, so that starting the worker processes counts:
runs that do nothing but write their record, and runs of 30 seconds on one worker process, whose wall time is compared
with the sum of the times that the runs measured of themselves. Then 10,000 records of a store, copies of published runs
under other seeds with what hangs on them, are read into one frame.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import intrinsic.campaigns.engine
from intrinsic.campaigns.records import Record, Store, read_published, write_text
from intrinsic.images import REPOSITORY

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
        settings = intrinsic.campaigns.engine.Settings(workers=workers)
        started = time.perf_counter()
        todo = tasks(folder, *[str(seconds)] * runs)
        done = intrinsic.campaigns.engine.complete(todo, store, here.work, settings, progress=False)
        wall = time.perf_counter() - started
        if done.computed != runs:
            raise SystemExit(f"{done.computed} of {runs} runs were computed; the first that failed: {done.failed[:1]}")
        return wall, sum(record.metrics["seconds"] for record in store.records("properties"))


def reading(count: int) -> dict:
    """Seconds of reading at least so many records of a store into a frame, and of doing it again."""
    import intrinsic.campaigns.campaign  # here, since worker processes read this file too

    records = read_published(REPOSITORY / "book" / "records" / "published.jsonl")
    runs = [r for r in records if r.kind == "training"]
    hanging = {run.id: [r for r in records if r.params.get("parent") == run.id] for run in runs}
    p = intrinsic.campaigns.campaign.read(REPOSITORY / "params" / "published.yaml")
    with tempfile.TemporaryDirectory() as folder:
        store, written, seed, blocks = Store(folder), 0, 0, []
        for record in records:
            if record.kind == "properties":
                store.write(record)
                written += 1
        while written < count:
            for run in runs:
                seed += 1
                copy = replace(run, params={**run.params, "seed": 1_000 + seed})
                own = [replace(r, params={**r.params, "parent": copy.id}) for r in hanging[run.id]]
                for record in (copy, *own):
                    store.write(record)
                written += 1 + len(own)
                facts = run.params
                block = {"models": [facts["model"]], "n_train": [facts["n_train"]], "datasets": [facts["dataset"]]}
                blocks.append({**block, "seeds": [1_000 + seed]})
        p = p.model_copy(update={"runs": type(p).model_validate({**p.model_dump(), "runs": blocks}).runs})
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            frame = intrinsic.campaigns.campaign.runs_frame(p, store=store)
            seconds.append(time.perf_counter() - started)
        if len(frame) != seed:
            raise SystemExit(f"{len(frame)} of {seed} runs came into the frame")
    return {"records": written, "runs": seed, "seconds": seconds[0], "again_seconds": seconds[1]}


def main() -> None:
    """Measure, print, write."""
    from training import CORES, machine  # here, since worker processes read this file too

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--empty", type=int, default=1_000, help="runs that do nothing (1,000)")
    parser.add_argument("--long", type=int, default=10, help="runs of 30 seconds (10)")
    parser.add_argument("--records", type=int, default=10_000, help="records that are read (10,000)")
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
    found["reading"] = read = reading(arguments.records)
    print(
        f"{read['records']} records, {read['runs']} runs: {read['seconds']:.2f} s, again {read['again_seconds']:.2f} s"
    )
    write_text(arguments.output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
