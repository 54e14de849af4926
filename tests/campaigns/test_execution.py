"""Campaigns on Dask: whatever dies, raises, hangs or fills up, a record is whole or absent and is there once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed
import made_up
import pytest

from intrinsic.campaigns import execution, parameters, records

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(own_store, monkeypatch):
    monkeypatch.setattr(execution.runs, "complete", made_up.work)
    return records.Store(own_store)


@pytest.fixture
def p():
    return parameters.read(ROOT / "tests" / "tiny.yaml")


def test_each_task_comes_to_its_end_whatever_the_others_do(store, p, capsys):
    made = made_up.planned("good", "raise", "raise_once", "die", "hang", "good")
    found = execution.run(p, store=store, made=made, run_minutes=0.15)
    assert found.computed == 4
    assert {label.split()[1] for label, _ in found.failed} == {"raise", "hang"}
    notes = {how: store.failure(*made.tasks[i].keys[0]) for i, how in enumerate(("good", "raise", "", "", "hang"))}
    assert notes["good"] is None
    assert "no luck with 1" in notes["raise"]["reason"]
    assert "made_up.py" in notes["raise"]["traceback"]
    assert "0.15 minutes" in notes["hang"]["reason"]
    assert [one.metrics["threads"] for one in store.records("properties")] == [1] * 4
    again = execution.run(p, store=store, made=made_up.planned("good", "raise_once"), progress=False)
    assert (again.computed, again.stored, again.failed) == (1, 1, ())  # the other two are tasks of other numbers


def test_two_clients_of_one_scheduler_end_with_one_record_each(store, p):
    made, found = made_up.planned(*["slow"] * 6), []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as there:
        address = there.scheduler_address
        how = {"store": store, "made": made, "scheduler": address, "progress": False}
        clients = [threading.Thread(target=lambda: found.append(execution.run(p, **how))) for _ in range(2)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
    assert [one.failed for one in found] == [(), ()]
    assert store.keys() == made.keys


def test_a_full_disk_is_one_sentence_and_loses_nothing(store, p):
    with pytest.raises(execution.StoreError, match="No space left"):
        execution.run(p, store=store, made=made_up.planned("good", "full", "hang"), progress=False)
    store.root.chmod(0o755)
    assert len(list(store.records("properties"))) <= 1
    assert not list(store.root.glob("*/.*.draft"))


def test_a_store_that_cannot_be_made_is_told_before_any_work(tmp_path, p):
    (tmp_path / "file").write_text("")
    with pytest.raises((execution.StoreError, OSError), match="file"):
        execution.run(p, store=records.Store(tmp_path / "file" / "store"), made=made_up.planned("good"))


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "nonsense://x", "tcp://127.0.0.1", "tcp://127.0.0.1:1", "tcp://a b:1"]
)
def test_an_address_that_cannot_be_is_told_at_once(address):
    started = time.monotonic()
    with pytest.raises(execution.ClusterError) as found:
        execution.check_address(address)
    assert address in str(found.value)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("body", ["", "class: Slurm", "jobs: 2", "class: SLURMCluster\nqueue: x", "class: [", "[1]"])
def test_a_file_that_describes_no_cluster_is_named(tmp_path, body):
    path = tmp_path / "odd.yaml"
    path.write_text(body)
    with pytest.raises(execution.ClusterError, match=r"odd\.yaml"):
        execution.queue_cluster(path)


def test_the_cluster_file_of_the_repository_writes_a_job(monkeypatch):
    import yaml

    body = yaml.safe_load((ROOT / "params" / "clusters" / "slurm.yaml").read_text())
    seen = {}

    class SLURMCluster:
        def __init__(self, **options):
            seen.update(options)

        def adapt(self, minimum_jobs, maximum_jobs):
            seen["jobs"] = (minimum_jobs, maximum_jobs)

    import dask_jobqueue

    monkeypatch.setattr(dask_jobqueue, "SLURMCluster", SLURMCluster)
    execution.queue_cluster(ROOT / "params" / "clusters" / "slurm.yaml")
    assert seen["jobs"] == (body["jobs"], body["jobs"])
    assert "host" not in seen["scheduler_options"]  # it names an interface


INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
import made_up
from intrinsic.campaigns import execution, parameters, records
if __name__ == "__main__":
    execution.runs.complete = made_up.work
    p = parameters.read({tiny!r})
    execution.run(p, store=records.Store({root!r}), made=made_up.planned("hang", "hang"), progress=False)
"""


def test_an_interrupt_ends_it_in_seconds(tmp_path):
    tests, root = str(Path(__file__).parent), tmp_path / "store"
    script = tmp_path / "client.py"
    script.write_text(INTERRUPTED.format(tests=tests, tiny=str(ROOT / "tests" / "tiny.yaml"), root=str(root)))
    client = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while len(made_up.begun(root)) < 2 and time.monotonic() < until:
            time.sleep(0.2)
        started = time.monotonic()
        os.killpg(client.pid, signal.SIGINT)
        client.wait(timeout=60)
        assert time.monotonic() - started < 15  # seconds, also on a machine that is busy
    finally:
        client.kill()
    assert not list(root.glob("*/*.json"))
