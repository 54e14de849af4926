import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from intrinsic.campaigns import records
from intrinsic.campaigns.records import (
    METHOD_VERSIONS,
    Record,
    RecordError,
    Store,
    finite,
    provenance,
    publish,
    read_published,
    record_id,
    write_text,
)


def training(**params):
    keys = {"dataset": "x", "seed": 0, "method_version": 1, **params}
    return Record("training", keys, {"test_loss_nats": 0.25}, provenance={"seconds": 1.0})


def test_the_id_depends_on_kind_and_params_and_on_nothing_else():
    a = training(seed=1)
    b = Record("training", dict(reversed(a.params.items())), {"test_loss_nats": 9.0}, provenance={"host": "b"})
    assert a.id == b.id
    assert training(seed=2).id != a.id
    assert record_id("attack", a.params) != a.id


def test_a_record_survives_the_store_unchanged(tmp_path):
    store = Store(tmp_path)
    record = Record(
        "properties",
        {"dataset": "x", "grey_levels": [1, 2], "rate": 1e-4, "none": None},
        {"d_mle": 4.25, "k_f_all": None},
        {"k_f_all": "infinite"},
        {"growth": [1.0, 2.0]},
        {"seconds": 2.0},
    )
    store.write(record)
    assert store.read("properties", record.id) == record
    assert ("properties", record.id) in store
    assert ("training", record.id) not in store
    assert store.ids("properties") == [record.id]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "0.5"])
def test_a_metric_that_is_not_a_finite_number_is_refused(value):
    with pytest.raises(RecordError, match="finite number"):
        Record("training", {}, {"test_loss_nats": value})


def test_null_needs_a_reason_and_gets_it_from_finite():
    with pytest.raises(RecordError, match="without a reason"):
        Record("training", {}, {"k_f": None})
    metrics, reasons = finite({"a": math.inf, "b": 2, "c": None}, {"c": "no pair", "b": "not used"})
    assert metrics == {"a": None, "b": 2.0, "c": None}
    assert reasons == {"a": "the value is inf", "c": "no pair"}
    Record("training", {}, metrics, reasons)


def test_nested_params_unknown_kinds_and_long_series_are_refused():
    with pytest.raises(RecordError, match="not flat"):
        Record("training", {"a": {"b": 1}}, {})
    with pytest.raises(RecordError, match="not a kind"):
        Record("tarining", {}, {})
    with pytest.raises(RecordError, match="at most 2000"):
        Record("training", {}, {}, series={"loss": [0.0] * 2001})


def test_a_damaged_or_altered_file_is_named(tmp_path):
    store = Store(tmp_path)
    path = store.write(training())
    whole = path.read_text()
    path.write_text(whole[:40])
    with pytest.raises(RecordError, match=path.name):
        store.read("training", path.stem)
    body = json.loads(whole)
    body["params"]["seed"] = 99
    path.write_text(json.dumps(body))
    with pytest.raises(RecordError, match="hash to"):
        store.read("training", path.stem)


def test_a_record_under_another_name_is_refused(tmp_path):
    """So that no run is taken for another."""
    store = Store(tmp_path)
    one, other = store.write(training(seed=1)), store.write(training(seed=2))
    other.write_bytes(one.read_bytes())
    with pytest.raises(RecordError, match=rf"{other.name} holds the training record {one.stem}"):
        store.read("training", other.stem)
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / one.name).write_bytes(one.read_bytes())
    with pytest.raises(RecordError, match=f"attack/{one.name} holds the training record"):
        store.read("attack", one.stem)
    assert store.read("training", one.stem) == training(seed=1)


BROKEN = {
    "a list": b"[1]",
    "a text": b'"text"',
    "nested": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe" + training().to_json().encode(),
    "NaN": training(rate=12.5).to_json().replace("12.5", "NaN").encode(),
    "of no id": json.dumps({k: v for k, v in json.loads(training().to_json()).items() if k != "id"}).encode(),
} | {
    f"{part}: {str(value)[:12]}": json.dumps({**json.loads(training().to_json()), part: value}).encode()
    for part, value in [
        *(("params", [1]), ("params", None), ("metrics", [1]), ("metrics", {"a": 10**400}), ("metrics", {"a": None})),
        *(("reasons", None), ("series", {"a": 1}), ("provenance", None), ("kind", "tarining"), ("schema", [1])),
    ]
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_record_is_named_with_its_file(tmp_path, content):
    store = Store(tmp_path)
    path = store.write(training())
    path.write_bytes(content)
    with pytest.raises(RecordError, match=rf"{path.name} is damaged"):
        store.read("training", path.stem)
    published = tmp_path / "p.jsonl"
    published.write_bytes(training(seed=5).to_json().encode() + b"\n" + content + b"\n")
    with pytest.raises(RecordError, match=r"p\.jsonl, line 2 is damaged"):
        read_published(published)


def test_a_record_that_is_set_aside_is_kept_and_counts_as_missing(tmp_path):
    store = Store(tmp_path)
    path = store.write(training())
    path.write_text("half")
    for _ in range(2):
        store.set_aside("training", path.stem)
    assert ("training", path.stem) not in store
    assert store.ids("training") == []
    assert [(p.name, p.read_text()) for p in path.parent.iterdir()] == [(f".{path.name}.damaged", "half")]


def test_one_thread_at_a_time_is_alone_with_a_file_and_nothing_is_left(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = tmp_path / "count"
    path.write_text("0")

    def add(_):
        with records.alone(path):
            now = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(now + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(80)))
    assert path.read_text() == "80"
    assert [p.name for p in tmp_path.iterdir()] == ["count"]


def test_published_records_are_sorted_whole_and_of_one_method_version(tmp_path):
    made = [training(seed=s) for s in range(5)]
    path = tmp_path / "quick.jsonl"
    assert publish(reversed(made), path) == 5
    back = read_published(path)
    assert [r.id for r in back] == sorted(r.id for r in made)
    assert {r.id: r for r in back} == {r.id: r for r in made}
    before = path.read_bytes()
    publish(made, path)
    assert path.read_bytes() == before
    with pytest.raises(RecordError, match="method versions"):
        publish([*made, training(method_version=2)], path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udc80")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_killed_writer_leaves_whole_files_only(tmp_path):
    script = (
        "import sys, itertools\nfrom intrinsic.campaigns.records import Record, Store\nstore = Store(sys.argv[1])\n"
        "for i in itertools.count():\n"
        "    store.write(Record('training', {'i': i}, {'a': 1.0}, series={'s': [0.5] * 2000}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("training/*.json"))) < 20 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = list(Store(tmp_path).records("training"))
    assert len(found) >= 20
    assert all(len(r.series["s"]) == 2000 for r in found)


def test_the_state_changes_with_what_the_store_holds(tmp_path):
    store = Store(tmp_path)
    empty = store.state()
    store.write(training())
    one = store.state()
    store.write(training())
    assert empty != one == store.state()


def test_provenance_names_versions_and_is_no_part_of_the_identity():
    facts = provenance(seconds=1.5)
    assert facts["seconds"] == 1.5
    assert {"commit", "torch", "numpy", "python", "written"} <= facts.keys()
    assert set(METHOD_VERSIONS) == {"properties", "training", "attack", "representation", "slope"}


# ------------------------------------------------------------------------- failures and claims


def test_a_failure_is_noted_with_its_traceback_and_forgiven(tmp_path):
    store = Store(tmp_path)
    assert store.failures() == {}
    store.fail("training", "ab", "vgg13 x", "ValueError: no", "Traceback ...", attempts=2)
    ((key, note),) = store.failures().items()
    assert key == ("training", "ab")
    assert (note["label"], note["reason"], note["attempts"]) == ("vgg13 x", "ValueError: no", 2)
    store.forgive(*key)
    assert store.failures() == {}
    assert store.ids("training") == []


@pytest.mark.parametrize("note", ["[1]", '{"a": 1}', "{", "\x00", '{"label": "x", "reason": "y", "traceback": ""}'])
def test_a_note_that_says_no_failure_is_named(tmp_path, note):
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "training-ab.json").write_text(note)
    with pytest.raises(RecordError, match=r"training-ab\.json cannot be read .*; delete it"):
        Store(tmp_path).failures()


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"pid": 1', "5"])
def test_a_claim_that_names_no_process_is_taken_over_once_its_file_is_old(tmp_path, text):
    store = Store(tmp_path)
    claim = store.claim("ab", "x")
    claim.path.write_text(text)
    assert not claim.beat()
    assert (store.claims()["ab"]["host"], store.claims()["ab"]["stale"]) == ("", False)
    assert store.claim("ab", "x") is None
    os.utime(claim.path, (time.time() - 61,) * 2)
    assert store.claim("ab", "x").beat()


def test_a_run_is_claimed_once_and_again_after_its_release(tmp_path):
    store = Store(tmp_path)
    claim = store.claim("ab", "vgg13 x")
    assert store.claim("ab", "vgg13 x") is None
    assert store.claims()["ab"]["pid"] == os.getpid()
    claim.release()
    assert store.claims() == {}
    assert store.claim("ab", "vgg13 x") is not None


def test_a_claim_without_heartbeat_is_taken_over_and_its_first_owner_learns_of_it(tmp_path):
    store = Store(tmp_path)
    first = store.claim("ab", "x")
    os.utime(first.path, (time.time() - 61,) * 2)
    assert store.claims()["ab"]["stale"]
    second = store.claim("ab", "x")
    assert second is not None
    assert second.beat()
    assert not first.beat()
    first.release()
    assert second.beat()
    assert [p.name for p in first.path.parent.iterdir()] == ["ab.json"]


@pytest.mark.skipif(not os.path.exists("/proc/self/ns/pid"), reason="process numbers are looked up in /proc")
def test_the_claim_of_a_process_that_is_gone_is_free_at_once(tmp_path):
    script = f"from intrinsic.campaigns.records import Store; assert Store({str(tmp_path)!r}).claim('ab', 'x')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert Store(tmp_path).claims()["ab"]["stale"]
    assert Store(tmp_path).claim("ab", "x") is not None


def test_of_many_threads_one_gets_a_stale_claim(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    store = Store(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        for i in range(30):
            first = store.claim(f"r{i}", "x")
            os.utime(first.path, (time.time() - 100,) * 2)
            won = [one for one in pool.map(lambda _, i=i: store.claim(f"r{i}", "x"), range(8)) if one]
            assert sum(one.beat() for one in won) == 1


def test_a_record_of_an_older_schema_is_read_through_every_migration(monkeypatch):
    """Schema -1 called its metrics values, and schema 0 had no reasons."""
    now = Record("training", {"model": "resnet18"}, {"test_accuracy": 0.5}, {}, {}, {"seconds": 1})
    old = json.loads(now.to_json())
    old |= {"schema": -1, "values": old.pop("metrics")}
    del old["reasons"]
    text = json.dumps(old)
    with pytest.raises(RecordError, match="schema -1"):
        Record.from_json(text)
    steps = {
        -1: lambda body: {**body, "schema": 0, "metrics": body["values"]},
        0: lambda body: {**body, "schema": 1, "reasons": {}},
    }
    monkeypatch.setattr(records, "MIGRATIONS", steps)
    assert Record.from_json(text) == now
    assert Record.from_json(now.to_json()) == now


def test_a_file_to_write_has_a_folder_and_the_ending_of_what_it_holds(tmp_path):
    assert records.writable(tmp_path / "a.CSV", ".csv") == tmp_path / "a.CSV"
    assert records.writable(str(tmp_path / "a"), *()) == tmp_path / "a"
    with pytest.raises(records.BadOutput, match=r"a\.png does not end in \.htm or \.html, .* such as a\.htm"):
        records.writable(tmp_path / "a.png", ".htm", ".html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        records.writable(tmp_path, ".csv")
    with pytest.raises(FileNotFoundError, match=r"no is no folder, so a\.csv cannot be written there"):
        records.writable(tmp_path / "no" / "a.csv", ".csv")
    assert list(tmp_path.iterdir()) == []
