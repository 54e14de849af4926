"""The drill: a campaign whose processes are killed at random moments, compared with one that nobody disturbs.

A scheduler, its workers under nannies and the client run as processes of their own, and one that has ended is started
again. Every few seconds one of them is killed, kind and process by chance. At the end every record has to be there
once, with the metrics of the undisturbed campaign. Then pages of the book are executed by a process that is killed, or
whose kernels are. At the end every page has to be there whole, and no kernel may be left.

usage: python tests/drill.py [--kills 50] [--runs 60] [--pages 10] [--page-kills 10] [--seed 0] [--minutes 12]
"""

import argparse
import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
import yaml

from intrinsic.campaigns import parameters, plan
from intrinsic.campaigns.records import Store

EVERY_S = (1.0, 5.0)  # between two kills
KINDS = ("client", "scheduler", "nanny", "worker")


def parameter_file(folder: Path, runs: int) -> Path:
    """A campaign of so many small training runs."""
    grid = [{"models": ["resnet18"], "n_train": [16], "seeds": list(range(runs))}]
    body = {
        "name": "drill", "datasets": ["digits_0_1"], "runs": grid, "size": 8, "per_class": 30, "draws": 3, "k": 5,
        "until": "epochs", "epochs": 2, "precision": "float32", "attack_images": 8, "sanity_images": 0,
        "checkpoint_minutes": 0.005, "workers": 2,
    }  # fmt: skip
    path = folder / "drill.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


class Crew:
    """The processes of a disturbed campaign; one that has ended is started again by `watch`."""

    def __init__(self, params: Path, store: Path):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        address, python = f"tcp://127.0.0.1:{port}", [sys.executable, "-m"]
        self.commands = {
            "scheduler": [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)],
            "nanny": [*python, "distributed.cli.dask_worker", address, "--nworkers", "2", "--nthreads", "1"],
            "client": [*python, "intrinsic.cli", "run", str(params), "--scheduler", address, "--no-progress"],
        }
        self.commands["scheduler"] += ["--no-dashboard"]
        self.commands["nanny"] += ["--no-dashboard", "--memory-limit", "0", "--death-timeout", "20"]
        self.environment = {**os.environ, "INTRINSIC_STORE": str(store)}
        self.environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "100"
        self.running: dict[str, subprocess.Popen] = {}

    def watch(self, *, client: bool = True) -> None:
        for name, command in self.commands.items():
            one = self.running.get(name)
            if one is None or (one.poll() is not None and (client or name != "client")):
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                self.running[name] = subprocess.Popen(command, env=self.environment, **quiet)

    def victims(self, kind: str) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one = psutil.Process(self.running["nanny" if kind == "worker" else kind].pid)
            if kind != "worker":
                return [one]
            return [child for child in one.children() if "spawn_main" in " ".join(child.cmdline())]
        return []

    def close(self) -> None:
        for kind in ("worker", *self.running):
            for one in self.victims(kind):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()


def disturbed(params: Path, store: Store, kills: int, chance: random.Random, until: float) -> dict[str, int]:
    """Run the campaign to its end through the kills; how often a process of each kind was killed."""
    crew, counts = Crew(params, store.root), dict.fromkeys(KINDS, 0)
    try:
        while sum(counts.values()) < kills:
            crew.watch()
            pause = time.monotonic() + chance.uniform(*EVERY_S)
            while time.monotonic() < pause:
                if crew.running["client"].poll() == 0:  # done before its time: half of the records go
                    for key in sorted(store.keys())[::2]:
                        store.path(*key).unlink()
                crew.watch()
                time.sleep(0.1)
            kind = chance.choice(KINDS)
            if found := crew.victims(kind):
                with contextlib.suppress(psutil.NoSuchProcess):
                    chance.choice(found).kill()
                    counts[kind] += 1
            if time.monotonic() > until:
                raise SystemExit(f"the drill took too long: killed were {counts}")
        while crew.running["client"].poll() != 0 and time.monotonic() < until:
            crew.watch()
            time.sleep(0.5)
    finally:
        crew.close()
    return counts


def disturbed_pages(folder: Path, n_pages: int, kills: int, chance: random.Random, until: float) -> dict[str, int]:
    """Execute pages through the kills; how often the process and a kernel were killed."""
    code = f"""
import yaml
from pathlib import Path
from intrinsic.images import REPOSITORY
from intrinsic.publishing import build
pages = build.plan(yaml.safe_load((REPOSITORY / "_toc.yml").read_text()), {{}})[:{n_pages}]
build.execute(pages, Path({str(folder)!r}), state="", workers=2, progress=False)
"""
    counts, one, rc = {"process": 0, "kernel": 0}, None, 1
    while rc:
        one = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        pause = time.monotonic() + chance.uniform(10, 20) if sum(counts.values()) < kills else until
        while one.poll() is None and time.monotonic() < pause:
            time.sleep(0.1)
        rc = one.poll()
        if rc is None and time.monotonic() < until:
            kernels = [
                k for k in psutil.Process(one.pid).children(recursive=True) if "ipykernel" in " ".join(k.cmdline())
            ]
            victim = chance.choice(["process", "kernel"]) if kernels else "process"
            counts[victim] += 1
            (chance.choice(kernels) if victim == "kernel" else psutil.Process(one.pid)).kill()
            rc = one.wait()
        if time.monotonic() > until:
            one.kill()
            raise SystemExit(f"the pages took too long: killed were {counts}")
    return counts


def kernels_of(folder: Path) -> list[psutil.Process]:
    """Kernels that were started for a folder's pages and still run."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "ipykernel" in " ".join(one.cmdline()) and str(folder) in " ".join(one.environ().values()):
                found.append(one)
    return found


def metrics(store: Store) -> dict:
    """{(kind, id): metrics} of every record; one that is not whole raises."""
    return {key: store.read(*key).metrics for key in sorted(store.keys())}


def main() -> int:
    """Undisturbed, disturbed, compared."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--page-kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=12, help="after which the drill has failed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        params, started = parameter_file(Path(name), arguments.runs), time.monotonic()
        until = started + 60 * arguments.minutes
        calm, store = Store(Path(name) / "calm"), Store(Path(name) / "store")
        command = [sys.executable, "-m", "intrinsic.cli", "run", str(params), "--no-progress"]
        subprocess.run(command, env={**os.environ, "INTRINSIC_STORE": str(calm.root)}, check=True)
        expected, planned = metrics(calm), {key for t in plan.plan(parameters.read(params)).tasks for key in t.keys}
        print(f"undisturbed: {len(expected)} records in {time.monotonic() - started:.0f} s", flush=True)
        counts = disturbed(params, store, arguments.kills, random.Random(arguments.seed), until)
        print(f"killed {counts}; {time.monotonic() - started:.0f} s in all")
        found = metrics(store)
        if found != expected or set(found) != planned:
            odd = [key for key in expected if found.get(key) != expected[key]]
            raise SystemExit(f"{len(odd)} of {len(expected)} records are missing or differ, the first: {odd[:1]}")
        if left := [*store.root.glob("checkpoints/*.safetensors"), *store.root.glob("failed/*")]:
            raise SystemExit(f"left behind: {left[:3]}")
        print(f"all {len(found)} records are there once, equal to the undisturbed ones", flush=True)
        folder, chance = Path(name) / "pages", random.Random(arguments.seed)
        counts = disturbed_pages(folder, arguments.pages, arguments.page_kills, chance, until)
        whole = [nbformat.read(path, 4) for path in folder.rglob("*.ipynb")]
        print(f"killed {counts}; {time.monotonic() - started:.0f} s in all")
        if len(whole) != arguments.pages or any("intrinsic" not in page.metadata for page in whole):
            raise SystemExit(f"{len(whole)} of {arguments.pages} pages are there")
        time.sleep(5)  # a kernel whose parent has gone sees it within seconds
        if left := kernels_of(folder.parent):
            raise SystemExit(f"{len(left)} kernels still run")
        print(f"all {len(whole)} pages are there, each whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
