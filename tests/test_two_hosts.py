"""A scheduler and a worker on two hosts, which are network namespaces; the link between them is cut and restored."""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from engine_work import tries

from intrinsic.campaigns.records import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
HOSTS = {"first": "10.213.77.1", "second": "10.213.77.2"}
CUT_S = 10


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture
def hosts():
    """Names of two network namespaces with a link between them."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed, so there are no network namespaces")
    names = {host: f"intrinsic-{os.getpid()}-{host}" for host in HOSTS}
    try:
        for name in names.values():
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        link = {host: f"i{os.getpid()}{host[0]}" for host in HOSTS}
        ip("link", "add", link["first"], "type", "veth", "peer", "name", link["second"])
        for host, name in names.items():
            done = [
                ip("link", "set", link[host], "netns", name, "name", "eth0"),
                ip("-n", name, "addr", "add", f"{HOSTS[host]}/24", "dev", "eth0"),
                ip("-n", name, "link", "set", "eth0", "up"),
                ip("-n", name, "link", "set", "lo", "up"),
            ]
            if any(one.returncode for one in done):
                pytest.skip(f"no link can be laid between namespaces here: {[one.stderr for one in done]}")
        yield names
    finally:
        for name in names.values():
            ip("netns", "del", name)


def test_a_campaign_completes_though_the_link_is_cut_for_ten_seconds(hosts, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    address = f"tcp://{HOSTS['first']}:8786"
    store, log = Store(tmp_path / "store"), (tmp_path / "log").open("w")

    def on(host, *command):
        words = ["ip", "netns", "exec", hosts[host], sys.executable, *command]
        return subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=log)

    code = (
        "from engine_work import tasks, work; from intrinsic.campaigns import engine;"
        "from intrinsic.campaigns.records import Store;"
        f"done = engine.complete(tasks({str(tmp_path)!r}, *['sleep 0.5'] * 30), Store({str(store.root)!r}), work, "
        f"engine.Settings(scheduler={address!r}, patience_s=60, beat_s=1), progress=False);"
        "assert done.computed == 30 and not done.failed, done"
    )
    cut = []

    def cut_the_link():
        while len(store.ids("properties")) < 5:
            time.sleep(0.1)
        ip("-n", hosts["second"], "link", "set", "eth0", "down")
        cut.append(len(store.ids("properties")))
        time.sleep(CUT_S)
        ip("-n", hosts["second"], "link", "set", "eth0", "up")

    started = [on("first", "-m", "dask", "scheduler", "--host", HOSTS["first"], "--port", "8786", "--no-dashboard")]
    try:
        options = ["--host", HOSTS["second"], "--nworkers", "1", "--nthreads", "1", "--no-dashboard"]
        started.append(on("second", "-m", "dask", "worker", address, *options))
        time.sleep(5)
        client, cutter = on("first", "-c", code), threading.Thread(target=cut_the_link, daemon=True)
        cutter.start()
        assert client.wait(timeout=150) == 0, (tmp_path / "log").read_text()
        cutter.join(timeout=30)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
    assert cut
    assert cut[0] < 30  # in the middle
    assert sorted(int(record.params["number"]) for record in store.records("properties")) == list(range(30))
    assert len(tries(tmp_path)) <= 32
