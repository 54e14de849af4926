"""A campaign whose processes are killed again and again: `make drill`.

60 small runs (half of them train a network) on three worker processes. Every few seconds a random one of the workers
and the client is killed; a client that was killed is started again at once. After KILLS kills the campaign is left
alone. At the end every record has to be there exactly once, with the metrics of a campaign that nobody disturbed.

usage: python tests/drill.py [--kills 50] [--runs 60] [--seed 0] [--minutes 20]
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from intrinsic import campaign
from intrinsic.records import KINDS, Store

WORKERS = 3
EVERY_S = (1.0, 5.0)  # between two kills


def plan(folder: Path, runs: int) -> Path:
    """A parameter file of so many training runs, all small; the sets' properties come beside."""
    seeds = list(range(runs))
    body = {
        "name": "drill",
        "datasets": ["digits_0_1"],
        "dataset": "digits_0_1",
        "runs": [{"models": ["resnet18"], "n_train": [16], "seeds": seeds, "datasets": ["digits_0_1"]}],
        "size": 8, "per_class": 30, "draws": 3, "k": 5, "until": "epochs", "epochs": 2, "precision": "float32",
        "attack_images": 8, "sanity_images": 0, "checkpoint_minutes": 0.005, "workers": WORKERS,
    }  # fmt: skip
    path = folder / "drill.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


def start(params: Path, store: Path) -> subprocess.Popen:
    """The client, in a session of its own."""
    environment = {**os.environ, "INTRINSIC_STORE": str(store), "INTRINSIC_DRILL": str(store)}
    command = [sys.executable, "-m", "intrinsic.cli", "run", str(params), "--no-progress"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers(store: Path) -> list[int]:
    """Process ids of the worker processes over a store."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"INTRINSIC_DRILL={store}".encode() in (entry / "environ").read_bytes()
            if mine and b"intrinsic.engine" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def disturbed(params: Path, store: Path, kills: int, seed: int, until: float) -> dict[str, int]:
    """Run the campaign to its end through the kills; how often a client and a worker were killed."""
    chance, counts = random.Random(seed), {"client": 0, "worker": 0}
    client = start(params, store)
    try:
        while sum(counts.values()) < kills:
            pause = time.monotonic() + chance.uniform(*EVERY_S)
            while time.monotonic() < pause:
                if time.monotonic() > until:
                    raise SystemExit(f"the drill took too long: {counts} were killed")
                if client.poll() is not None:  # done before its time: its records go, so that there is more to do
                    for kind in KINDS:
                        for id in Store(store).ids(kind)[::2]:
                            Store(store).path(kind, id).unlink()
                    client = start(params, store)
                time.sleep(0.1)
            while not (busy := workers(store)) and client.poll() is None and time.monotonic() < until:
                time.sleep(0.1)  # a client that has just started has none yet
            victims = [*busy, client.pid]
            victim = chance.choice(victims)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                counts["client" if victim == client.pid else "worker"] += 1
            if victim == client.pid:
                client.wait()
                client = start(params, store)
        code = client.wait(timeout=max(until - time.monotonic(), 1))
        if code:  # runs that were killed more often than a campaign tries them are left to the next one
            code = start(params, store).wait(timeout=max(until - time.monotonic(), 1))
        if code:
            raise SystemExit(f"the last campaign ended with code {code}")
    finally:
        client.kill()
    return counts


def metrics(store: Store) -> dict:
    """{(kind, id): metrics} of every record; a file that is not whole raises."""
    return {(kind, record.id): record.metrics for kind in KINDS for record in store.records(kind)}


def main() -> int:
    """Undisturbed, disturbed, compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=20, help="after which the drill has failed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = plan(folder, arguments.runs)
        started = time.monotonic()
        calm = Store(folder / "calm")
        done = start(params, calm.root).wait()
        if done:
            raise SystemExit(f"the undisturbed campaign ended with code {done}")
        expected = metrics(calm)
        keys = {key for task in campaign.plan(campaign.read(params)).tasks for key in task.keys}
        print(f"undisturbed: {len(expected)} records in {time.monotonic() - started:.0f} s", flush=True)
        started, store = time.monotonic(), folder / "store"
        counts = disturbed(params, store, arguments.kills, arguments.seed, started + 60 * arguments.minutes)
        found = metrics(Store(store))
        left = [*Store(store).claims(), *Store(store).failures(), *(store / "checkpoints").glob("*")]
        print(f"killed {counts['worker']} workers and {counts['client']} clients; {time.monotonic() - started:.0f} s")
        if found != expected or set(found) != keys:
            odd = [key for key in expected if found.get(key) != expected[key]]
            raise SystemExit(f"{len(odd)} of {len(expected)} records are missing or differ, the first: {odd[:1]}")
        if left:
            raise SystemExit(f"left behind: {left[:3]}")
        print(f"all {len(found)} records are there once, equal to the undisturbed ones; nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
