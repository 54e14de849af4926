"""A campaign and a batch of notebooks whose processes are killed again and again: `make drill`.

60 small runs (half of them train a network) on three worker processes, and beside them 12 notebooks on two more, each
with a kernel. Every few seconds one of the workers, the kernels or the two clients is killed, kind and process by
chance; a client that was killed is started again at once. After KILLS kills both are left alone. At the end every
record has to be there exactly once, with the metrics of a campaign that nobody disturbed, and every notebook whole.

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

import nbformat
import yaml

from intrinsic.campaigns import campaign, engine
from intrinsic.campaigns.records import KINDS, Store
from intrinsic.publishing import book

WORKERS = 3
NOTEBOOKS = 12
MARK = "INTRINSIC_DRILL"  # by which processes of the drill know each other
EVERY_S = (1.0, 5.0)  # between two kills
CELLS = ("import time", "total = sum(i**number for i in range(1, 11))", "time.sleep(3)\nprint(total)")


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


def write_notebooks(folder: Path) -> None:
    """One notebook of a few cells, executed with NOTEBOOKS parameters."""
    cells = [nbformat.v4.new_markdown_cell("# Drill")]
    cells.append(nbformat.v4.new_code_cell("number = 0", metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "drill.ipynb")


def execute_notebooks(folder: Path) -> None:
    """The client of the notebooks, which are kept where they are done."""
    pages = [book.Page(folder / "drill.ipynb", f"book/page_{i}", {"number": i}) for i in range(NOTEBOOKS)]
    book.execute(pages, folder / "executed", state="drill", settings=engine.Settings(workers=2), progress=False)


def not_whole(folder: Path) -> list[Path]:
    """Executed notebooks that are missing, or lack their last output."""
    odd = []
    for i in range(NOTEBOOKS):
        path = folder / "executed" / "book" / f"page_{i}.ipynb"
        outputs = nbformat.read(path, 4).cells[-1].outputs if path.exists() else []
        if [one.text.strip() for one in outputs] != [str(sum(j**i for j in range(1, 11)))]:
            odd.append(path)
    return odd


class Client:
    """A command over the store, in a process that is started again after it was killed."""

    def __init__(self, command: list[str], store: Path):
        self.command, self.environment = command, {**os.environ, "INTRINSIC_STORE": str(store), MARK: str(store)}
        self.start()

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(self.command, env=self.environment, **quiet)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def campaign_command(params: Path) -> list[str]:
    return [sys.executable, "-m", "intrinsic.cli", "run", str(params), "--no-progress"]


def processes(store: Path, of: str) -> list[int]:
    """Ids of the processes over a store whose command has a word."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = f"{MARK}={store}".encode() in (entry / "environ").read_bytes()
            if mine and of.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def busy(client: Client, store: Path) -> bool:
    """Whether a client has ended or has processes that work for it."""
    if client.process.poll() is not None:
        return True
    words = (
        ("intrinsic.campaigns.kernels", "ipykernel")
        if "--notebooks" in client.command
        else ("intrinsic.campaigns.engine",)
    )
    return any(processes(store, of) for of in words)


def disturbed(params: Path, folder: Path, kills: int, seed: int, until: float) -> dict[str, int]:
    """Run both to their ends through the kills; how often a process of each kind was killed."""
    chance, counts, store = random.Random(seed), {"client": 0, "worker": 0, "kernel": 0}, folder / "store"
    runs = Client(campaign_command(params), store)
    notebooks = Client([sys.executable, __file__, "--notebooks", str(folder)], store)
    clients = [runs, notebooks]
    try:
        while sum(counts.values()) < kills:
            pause = time.monotonic() + chance.uniform(*EVERY_S)
            while time.monotonic() < pause:
                if time.monotonic() > until:
                    raise SystemExit(f"the drill took too long: {counts} were killed")
                if runs.process.poll() is not None:  # done before its time: records go, so that there is more to do
                    for kind in KINDS:
                        for id in Store(store).ids(kind)[::2]:
                            Store(store).path(kind, id).unlink()
                    runs.start()
                if notebooks.process.poll() is not None:
                    for path in sorted((folder / "executed" / "book").glob("*.ipynb"))[::2]:
                        path.unlink()
                    notebooks.start()
                time.sleep(0.1)
            while not all(busy(client, store) for client in clients) and time.monotonic() < until:
                time.sleep(0.1)  # a client that has just started has no processes yet
            victims = {"client": [client.process.pid for client in clients]}
            victims["worker"] = processes(store, "intrinsic.campaigns.engine")
            # forked kernels and the process that forks them, and kernels that were started
            victims["kernel"] = processes(store, "intrinsic.campaigns.kernels") + processes(store, "ipykernel")
            kind = chance.choice([kind for kind, ids in victims.items() if ids])
            victim = chance.choice(sorted(victims[kind]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
                counts[kind] += 1
            for client in clients:
                if victim == client.process.pid:
                    client.process.wait()
                    client.start()
        for client in clients:
            if client.process.wait(timeout=max(until - time.monotonic(), 1)):
                client.start()  # what was killed more often than it is tried is left to the next one
                code = client.process.wait(timeout=max(until - time.monotonic(), 1))
                if code:
                    raise SystemExit(f"the last `{' '.join(client.command[1:4])}` ended with code {code}")
    finally:
        for client in clients:
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
    parser.add_argument("--notebooks", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.notebooks:
        execute_notebooks(arguments.notebooks)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        params = plan(folder, arguments.runs)
        write_notebooks(folder)
        started = time.monotonic()
        calm = Store(folder / "calm")
        done = Client(campaign_command(params), calm.root).process.wait()
        if done:
            raise SystemExit(f"the undisturbed campaign ended with code {done}")
        expected = metrics(calm)
        keys = {key for task in campaign.plan(campaign.read(params)).tasks for key in task.keys}
        print(f"undisturbed: {len(expected)} records in {time.monotonic() - started:.0f} s", flush=True)
        started, store = time.monotonic(), Store(folder / "store")
        counts = disturbed(params, folder, arguments.kills, arguments.seed, started + 60 * arguments.minutes)
        killed = ", ".join(f"{count} {kind}s" for kind, count in counts.items())
        print(f"killed {killed}; {time.monotonic() - started:.0f} s")
        found, executed = metrics(store), Store(folder / "executed")
        left = [*(folder / "store" / "checkpoints").glob("*"), *(folder / "executed").rglob("*.draft*")]
        for one in (store, executed):
            left += [*one.claims(), *one.failures()]
        if found != expected or set(found) != keys:
            odd = [key for key in expected if found.get(key) != expected[key]]
            raise SystemExit(f"{len(odd)} of {len(expected)} records are missing or differ, the first: {odd[:1]}")
        if odd := not_whole(folder):
            raise SystemExit(f"{len(odd)} of {NOTEBOOKS} notebooks are not whole, the first: {odd[0].name}")
        if left:
            raise SystemExit(f"left behind: {left[:3]}")
        print(
            f"all {len(found)} records are there once, equal to the undisturbed ones; {NOTEBOOKS} notebooks are whole"
        )
        print("nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
