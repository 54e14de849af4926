"""Runs in worker processes: whatever is killed, every record is there once."""

import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from engine_work import tasks, tries, work

from intrinsic.campaigns import engine
from intrinsic.campaigns.engine import Settings
from intrinsic.campaigns.records import Store
from intrinsic.images import REPOSITORY

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def complete(todo, store, **settings):
    return engine.complete(todo, store, work, Settings(**settings), progress=False)


def stored(store):
    return sorted(int(record.params["number"]) for record in store.records("properties"))


def test_every_run_is_computed_once_in_processes_that_are_used_again(store, tmp_path):
    done = complete(tasks(tmp_path, *["plain"] * 8), store, workers=2, threads=3)
    assert (done.computed, done.stored, done.failed, done.left) == (8, 0, (), ())
    assert sorted(tries(tmp_path)) == stored(store) == list(range(8))
    assert {record.metrics["threads"] for record in store.records("properties")} == {3.0}
    assert 1 <= len({record.provenance["pid"] for record in store.records("properties")}) <= 2
    assert store.claims() == store.failures() == {}
    again = complete(tasks(tmp_path, *["plain"] * 8), store)
    assert (again.computed, again.stored) == (0, 8)
    assert len(tries(tmp_path)) == 8


def test_a_run_has_the_variables_of_its_campaign_where_its_machine_has_none_of_its_own(store, tmp_path, monkeypatch):
    """A worker process elsewhere has another environment, and serves other campaigns after this one."""
    names = ("TEST_OF_ONE", "TEST_OF_BOTH", "TEST_OF_ANOTHER")
    monkeypatch.setenv("TEST_OF_BOTH", "worker's")
    crew = engine._Crew([engine._caps(1)])
    (store.root).mkdir(parents=True)
    (store.root / engine.MARK).touch()
    try:
        for task, variables in zip(
            tasks(tmp_path, *[f"see {' '.join(names)}"] * 2),
            (dict.fromkeys(names[:2], "campaign's"), {names[2]: "another's"}),
            strict=True,
        ):
            payload, about = pickle.dumps((work, task)), (task.keys[0][1], task.label, str(store.root), task.ways)
            job = engine.Job(*about, payload, 1, variables, None, None, 1.0, 60.0)
            assert engine.attempt(job, crew).state == "done"
    finally:
        crew.stop()
        crew.all[0].kill()
    assert (tmp_path / "seen0").read_text() == "campaign's worker's none"
    assert (tmp_path / "seen1").read_text() == "none worker's another's"


def test_drafts_that_killed_processes_left_are_swept_and_those_in_work_are_not(store, tmp_path):
    old, new = (store.root / "training" / f".{name}.json.1-1.draft" for name in ("old", "new"))
    for draft in (old, new):
        draft.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    complete(tasks(tmp_path, "plain"), store)
    assert not old.exists()
    assert new.exists()


def test_a_claim_that_a_killed_process_left_is_swept_though_nothing_is_to_do(store, tmp_path):
    """A process may be killed between the record and the end of its claim."""
    complete(tasks(tmp_path, "plain"), store)
    code = "import sys; from intrinsic.campaigns.records import Store; Store(sys.argv[1]).claim('of the dead', 'run')"
    subprocess.run([sys.executable, "-c", code, str(store.root)], check=True)
    mine = store.claim("of the living", "run")
    assert set(store.claims()) == {"of the dead", "of the living"}
    assert complete([], store).computed == 0
    assert set(store.claims()) == {"of the living"}
    mine.release()


def test_runs_begin_in_the_order_of_the_plan(store, tmp_path):
    complete(tasks(tmp_path, *["plain"] * 6), store)
    assert tries(tmp_path) == list(range(6))


@pytest.mark.parametrize("retries", [0, 2])
def test_a_run_that_raises_is_tried_again_as_asked_and_noted_with_its_traceback(retries, store, tmp_path):
    todo = tasks(tmp_path, "raise", "plain")
    done = complete(todo, store, retries=retries)
    assert done.failed == (("run 0", "ValueError: no luck with 0"),)
    assert stored(store) == [1]
    assert tries(tmp_path).count(0) == 1 + retries
    ((key, note),) = store.failures().items()
    assert key == todo[0].ways[0][0]
    assert note["attempts"] == 1 + retries
    assert "engine_work.py" in note["traceback"]
    assert "no luck with 0" in note["traceback"]


def test_a_run_that_failed_comes_last_at_the_next_start_and_is_forgiven_once_it_succeeds(store, tmp_path):
    todo = tasks(tmp_path, "raise once", "plain")
    assert len(complete(todo[:1], store, retries=0).failed) == 1
    assert complete(todo, store, retries=0).computed == 2
    assert tries(tmp_path) == [0, 1, 0]
    assert store.failures() == {}


def test_a_run_whose_process_was_killed_is_computed_again(store, tmp_path):
    done = complete(tasks(tmp_path, "die once", "plain", "plain"), store, retries=0)
    assert (done.computed, done.failed) == (3, ())
    assert stored(store) == [0, 1, 2]
    assert store.failures() == {}


def test_a_run_that_kills_its_process_every_time_does_not_stop_the_others(store, tmp_path):
    done = complete(tasks(tmp_path, "die", "plain"), store)
    assert done.failed == (("run 0", "its process was killed by signal 9 (SIGKILL)"),)
    assert tries(tmp_path).count(0) == engine.MOST_KILLS + 1
    assert stored(store) == [1]


def test_a_run_that_hangs_is_killed_and_has_failed(store, tmp_path):
    done = complete(tasks(tmp_path, "hang", "plain"), store, run_minutes=0.05, beat_s=0.5)
    ((label, reason),) = done.failed
    assert label == "run 0"
    assert "longer than 0.05 minutes" in reason
    assert stored(store) == [1]


def test_no_run_starts_after_the_limit_of_time(store, tmp_path):
    todo = tasks(tmp_path, *["sleep 1"] * 6)
    done = complete(todo, store, limit_minutes=2.5 / 60)
    assert 1 <= done.computed < 6
    assert len(done.left) + done.computed == 6
    assert stored(store) == list(range(done.computed))
    assert complete(todo, store).computed == 6 - done.computed


def test_a_full_disk_is_waited_for(store, tmp_path):
    done = complete(tasks(tmp_path, "full once", "plain"), store, retries=0)
    assert (done.computed, done.failed) == (2, ())
    assert store.failures() == {}


def test_a_folder_that_vanishes_ends_the_campaign_with_one_sentence(store, tmp_path):
    with pytest.raises(engine.EngineError, match=r"could not be written to .*the same command continues"):
        complete(tasks(tmp_path, "vanish", "plain"), store, patience_s=2)
    assert not store.root.exists()  # it is not made anew beside the lost one
    assert complete(tasks(tmp_path, "plain", "plain"), store).computed == 2


def test_two_campaigns_over_one_store_compute_no_run_twice(store, tmp_path):
    todo, found = tasks(tmp_path, *["sleep 0.1"] * 20), []
    both = [threading.Thread(target=lambda: found.append(complete(todo, store, workers=2))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(tries(tmp_path)) == stored(store) == list(range(20))
    assert sum(done.computed for done in found) == 20
    assert sum(done.stored for done in found) == 20


def test_a_killed_campaign_leaves_no_process_and_the_next_one_continues(store, tmp_path):
    code = (
        "from engine_work import tasks, work; from intrinsic.campaigns import engine;"
        "from intrinsic.campaigns.records import Store;"
        f"engine.complete(tasks({str(tmp_path)!r}, *['sleep 1'] * 6), Store({str(store.root)!r}), work, "
        "engine.Settings(workers=2), progress=False)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "INTRINSIC_MARK": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while len(stored(store)) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    while (left := marked(tmp_path)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
    before = stored(store)
    done = complete(tasks(tmp_path, *["sleep 1"] * 6), store, workers=2)
    assert done.computed + len(before) == 6
    assert stored(store) == list(range(6))


def marked(mark):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"INTRINSIC_MARK={mark}".encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


# ---------------------------------------------------------------------------------------------------- Dask


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as two:
        yield two


@pytest.mark.slow
def test_a_dask_cluster_computes_every_run_once(cluster, store, tmp_path):
    done = complete(tasks(tmp_path, *["plain"] * 6), store, scheduler=cluster.scheduler_address)
    assert (done.computed, done.failed) == (6, ())
    assert sorted(tries(tmp_path)) == stored(store) == list(range(6))


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_the_run_it_had(cluster, store, tmp_path):
    def kill_one():
        while len(stored(store)) < 2:
            time.sleep(0.05)
        nanny = next(iter(cluster.workers.values()))
        os.kill(nanny.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    settings = {"scheduler": cluster.scheduler_address, "beat_s": 0.5, "stale_s": 5}
    done = complete(tasks(tmp_path, *["sleep 0.5"] * 10), store, **settings)
    killer.join()
    assert done.failed == ()
    assert stored(store) == list(range(10))
    assert len(tries(tmp_path)) <= 12


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_started_again_loses_no_run(store, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = (tmp_path / "log").open("w")

    def start(*words):
        command = [sys.executable, "-m", "dask", *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=tmp_path)

    def start_both():
        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        options = ("--nworkers", "1", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        return [scheduler, start("worker", f"tcp://127.0.0.1:{port}", "--host", "127.0.0.1", *options)]

    started, killed = start_both(), []

    def kill_and_start():
        while len(stored(store)) < 3:
            time.sleep(0.05)
        started[0].kill()
        killed.append(len(stored(store)))
        time.sleep(2)
        started.extend(start_both())

    killer = threading.Thread(target=kill_and_start, daemon=True)
    try:
        time.sleep(3)
        killer.start()
        settings = {"scheduler": f"tcp://127.0.0.1:{port}", "beat_s": 0.5, "stale_s": 5, "patience_s": 60}
        done = complete(tasks(tmp_path, *["sleep 0.5"] * 12), store, **settings)
        killer.join(timeout=30)
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()
    assert killed
    assert killed[0] < 12  # in the middle
    assert done.failed == done.left == ()
    assert stored(store) == list(range(12))
    assert len(tries(tmp_path)) <= 14


@pytest.mark.slow
def test_an_address_without_a_scheduler_is_refused_with_one_sentence(store, tmp_path, monkeypatch):
    with pytest.raises(
        engine.ClusterError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 .*dask scheduler"
    ):
        complete(tasks(tmp_path, "plain"), store, scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["foo", "foo:", "nothing://x:1"])
def test_an_address_that_is_none_is_refused_with_what_one_looks_like(store, tmp_path, address):
    with pytest.raises(engine.ClusterError, match=r"is not the address of a Dask scheduler .*tcp://10\.0\.0\.1:8786"):
        complete(tasks(tmp_path, "plain"), store, scheduler=address)


def test_the_slurm_file_makes_the_job_that_it_describes():
    described = engine.read_cluster(REPOSITORY / "params" / "clusters" / "slurm.yaml")
    described = described.model_copy(update={"options": {**described.options, "interface": None}})
    cluster = engine.make_cluster(described)
    try:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tcp://127.0.0.1:")
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")
    finally:
        cluster.close()
    for line in ("#SBATCH -p gpu", "#SBATCH -t 08:00:00", "#SBATCH --cpus-per-task=4", "#SBATCH --gres=gpu:1", "GPU=1"):
        assert line in script
    assert "module load cuda" in script
    assert "distributed.cli.dask_worker" in script


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("class: NoCluster\n", "'NoCluster' is none of dask-jobqueue's"),
        ("class: SLURMCluster\njobs: 0\n", "jobs: "),
        ("class: SLURMCluster\nqueue: gpu\n", "queue"),
        ("jobs: 2\n", "class: "),
        ("- a\n", "holds a list, so .*the keys class, jobs and options"),
        ("", "cluster.yaml is empty, so it describes no jobs; .*the keys class, jobs and options"),
        ("class: SLURMCluster\njobs: 2\njobs: 3\n", "'jobs' is given twice, line 3"),
        ("class: SLURMCluster\noptions: {cores: abc, memory: 1GB}\n", "SLURMCluster does not take these options"),
        ("class: SLURMCluster\noptions: {cores: 1, memory: 1GB, foo: 1}\n", "SLURMCluster does not take .*'foo'"),
        ("class: SLURMCluster\noptions: {1: 1}\n", "options.*valid string"),
        ("class: JobQueueCluster\noptions: {cores: 1, memory: 1GB}\n", "JobQueueCluster does not take"),
        ("class: SLURMCluster\noptions: {cores: 1, memory: 1GB, scheduler_options: [1]}\n", "scheduler_options is"),
    ],
)
def test_a_cluster_file_that_cannot_be_used_is_refused(text, says, tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(engine.ClusterError, match=says) as caught:
        engine.make_cluster(engine.read_cluster(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"limit_minutes": 0}, {"run_minutes": -1}, {"retries": -1}, {"workers": 0}])
def test_settings_without_meaning_are_refused(settings):
    with pytest.raises(engine.EngineError, match="give"):
        Settings(**settings)


# --------------------------------------------------------------------------------------------------- the table


def test_the_table_shows_what_runs_and_what_failed_first_and_fits_the_terminal():
    from collections import Counter

    rows = {(f"set {i}", "resnet18", 250): Counter(done=1) for i in range(30)}
    rows["set 7", "resnet18", 250] = Counter(running=1)
    rows["set 9", "resnet18", 250] = Counter(failed=1)
    lines = engine.table(rows, 10)
    assert len(lines) <= 10
    assert lines[1].startswith("set 7")
    assert lines[2].startswith("set 9")
    assert lines[-1] == f"... and {len(rows) - (len(lines) - 2)} rows more"
    assert len(engine.table(rows, 100)) == len(rows) + 1


def test_the_time_left_follows_the_runs_measured(store, tmp_path):
    todo = tasks(tmp_path, *["plain"] * 4)
    campaign = engine._Campaign(todo, store, work, Settings(), [10, 10, 20, 20], False)
    campaign.state.waiting.extend(range(4))
    assert campaign.seconds_left(2) == 30
    campaign.state.waiting.popleft()
    campaign.state.seconds[0] = 20.0  # twice as long as expected
    assert campaign.seconds_left(1) == 100
