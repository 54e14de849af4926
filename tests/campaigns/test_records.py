"""Records: whole or absent, known by what was asked, read by anyone."""

import errno
import json
import os

import pytest

from intrinsic.campaigns import parameters, records, status
from intrinsic.campaigns.records import Record, RecordError, Store


def record(number=1, **metrics):
    return Record("attack", {"parent": "abc", "number": number, "method_version": 2}, metrics or {"x": 0.5})


def test_an_id_is_that_of_kind_and_params_in_any_order():
    assert records.record_id("training", {"a": 1, "b": None}) == records.record_id("training", {"b": None, "a": 1})
    assert records.record_id("training", {"a": 1}) != records.record_id("attack", {"a": 1})
    assert records.record_id("training", {"dataset": "x", "n_train": 250}) == "b521a452c377ea56"


def test_a_record_comes_back_as_it_was_written(tmp_path):
    one, store = record(x=0.1, y=1e-300), Store(tmp_path)
    store.write(one)
    assert store.read("attack", one.id) == one
    assert store.keys() == {("attack", one.id)}


@pytest.mark.parametrize(
    ("kind", "params", "metrics"),
    [
        ("atack", {}, {}),
        ("attack", {"a": {"b": 1}}, {}),
        ("attack", {}, {"x": float("nan")}),
        ("attack", {}, {"x": True}),
        ("attack", {}, {"x": None}),
    ],
)
def test_what_is_no_record_is_refused(kind, params, metrics):
    with pytest.raises(RecordError):
        Record(kind, params, metrics)


def test_values_that_are_not_finite_become_null_with_a_reason():
    metrics, reasons = records.finite({"a": float("inf"), "b": None, "c": 2}, {"b": "no pair"})
    assert metrics == {"a": None, "b": None, "c": 2.0}
    assert reasons["b"] == "no pair"
    assert "inf" in reasons["a"]
    Record("attack", {}, metrics, reasons)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 2, "kind": "attack", "id": "x"}', "\xff", "cut", "other"]
)
def test_a_damaged_record_is_named_and_counts_as_missing(tmp_path, text):
    one, store = record(), Store(tmp_path)
    path = store.write(one)
    whole = path.read_text()
    path.write_text({"cut": whole[:-20], "other": record(2).to_json()}.get(text, text), encoding="latin-1")
    with pytest.raises(RecordError, match=one.id):
        store.read("attack", one.id)
    with pytest.warns(UserWarning, match="attack records left out: 1"):
        assert list(store.records("attack")) == []
    assert ("attack", one.id) not in store
    store.write(one)
    assert ("attack", one.id) in store


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    records.write_text(path, "before")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        records.write_text(path, "after")
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "before"


def test_a_note_of_a_failure_stays_until_it_is_forgiven(tmp_path):
    store = Store(tmp_path)
    assert store.failure("training", "x") is None
    store.fail("training", "x", label="a", reason="b", traceback="c")
    assert store.failure("training", "x")["reason"] == "b"
    store.forgive("training", "x")
    assert store.failure("training", "x") is None


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="INTRINSIC_STORE"):
        Store(tmp_path / "file")


def test_a_published_file_is_sorted_and_of_one_method(tmp_path):
    path, store, p = tmp_path / "x.jsonl", Store(tmp_path / "store"), parameters.Params(name="any")
    for one in (record(2), record(1), record(2)):
        store.write(one)
    assert status.publish(p, store, path, everything=True).total == 2
    found = records.read_published(path)
    assert list(found) == sorted(found)
    store.write(Record("attack", {"parent": "abc", "method_version": 1}, {}))
    with pytest.raises(RecordError, match="attack"):
        status.publish(p, store, path, everything=True)
    assert records.read_published(path) == found


def test_published_records_are_whole_and_of_todays_methods():
    found = records.published()
    assert len(found) > 2000
    versions = {(one.kind, one.params["method_version"]) for one in found.values()}
    assert versions == set(records.METHOD_VERSIONS.items())
    assert all(len(json.loads(one.to_json())["id"]) == 16 for one in found.values())


def test_working_records_come_before_published_ones(tmp_path):
    one = next(one for one in records.published().values() if one.kind == "slope")
    mine = Record("slope", one.params, {"slope_max": 1.0})
    store = Store(tmp_path)
    store.write(mine)
    found = {each.id: each for each in records.collected("slope", store)}
    assert found[one.id] == mine
    assert {each.id for each in records.collected("slope")} == found.keys()
