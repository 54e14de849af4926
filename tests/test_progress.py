import json
import os
import time
from dataclasses import replace

import pytest

from intrinsic import cli
from intrinsic.campaigns import campaign, progress, records
from intrinsic.campaigns.records import METHOD_VERSIONS, Record, Store, read_published

TINY = os.path.join(os.path.dirname(__file__), "tiny.yaml")


@pytest.fixture(autouse=True)
def published(monkeypatch):
    """Files of published records that the test names itself."""
    files = []
    monkeypatch.setattr(campaign, "_published_files", lambda: files)
    return files


@pytest.fixture
def tiny():
    return campaign.read(TINY)


def records_of(task, written="2026-01-01T00:00:00+00:00"):
    """Records with the keys of a task and made-up numbers."""
    settings = {"properties": [task.params], "training": [task.params]}[task.kind]
    yield Record(task.kind, settings[0], {"a": 1.0}, provenance={"written": written})
    for kind, all_ in task.settings.items():
        for params in all_:
            yield Record(kind, params, {"a": 1.0}, provenance={"written": written})


def fill(store, tasks):
    for task in tasks:
        for record in records_of(task):
            store.write(record)


def fail(store, task):
    store.fail(*task.keys[0], task.label, "no memory <b>", "Traceback: line 1", 2)


def claim(store, task, age):
    held = store.claim(task.keys[0][1], task.label)
    os.utime(held.path, (time.time() - age, time.time() - age))


# ----------------------------------------------------------------------------------------- status


def test_every_task_is_in_one_state_and_a_silent_claim_is_none(tiny, own_store):
    store, tasks = Store(own_store), campaign.plan(tiny).tasks
    fill(store, tasks[:1])
    fail(store, tasks[2])
    claim(store, tasks[3], age=5)
    claim(store, tasks[4], age=records.STALE_S + 5)
    found = progress.status(tiny)
    assert [state for _, state in found.states] == ["done", "to do", "failed", "running", "to do", "to do"]
    assert found.frame()[list(progress.STATES)].sum().to_dict() == {
        "done": 1, "running": 1, "failed": 1, "to do": 3, "not reachable": 0
    }  # fmt: skip
    assert [one.reason for one in found.failures] == ["no memory <b>"]


def test_a_record_that_cannot_be_read_is_to_do_and_one_warning_counts_all(tiny, own_store):
    store, tasks = Store(own_store), campaign.plan(tiny).tasks
    fill(store, tasks)
    first, second = store.path(*tasks[1].keys[0]), store.path(*tasks[3].keys[2])
    first.write_text("")
    second.write_text(second.read_text()[:60])
    with pytest.warns(UserWarning, match=rf"count as missing: 2, the first: .*{first.name}") as told:
        found = progress.status(tiny)
    assert len(told) == 1
    assert [state for _, state in found.states] == ["done", "to do", "done", "to do", "done", "done"]
    assert first.exists()


def test_a_foreign_claim_is_none_of_the_plan(tiny, own_store):
    for i, text in enumerate(["[]", '{"a": 1}']):
        records.write_text(own_store / "claims" / f"x{i}.json", text)
    assert {state for _, state in progress.status(tiny).states} == {"to do"}


def test_what_is_published_is_done_and_what_is_stored_afterwards_has_not_failed(tiny, own_store, published, tmp_path):
    store, tasks = Store(own_store), campaign.plan(tiny).tasks
    fill(store, tasks)
    fail(store, tasks[2])
    assert {state for _, state in progress.status(tiny).states} == {"done"}
    made = progress.publish(tiny, tmp_path / "tiny.jsonl")
    published.append(made.path)
    elsewhere = Store(tmp_path / "elsewhere")
    assert {state for _, state in progress.status(tiny, store=elsewhere).states} == {"done"}


def test_a_size_out_of_reach_stands_in_its_row_though_the_set_has_a_space_in_its_name(tiny):
    reason = "only 3 images"
    found = progress.Status((), (), (("resnet18 my scans N=64 seed=0", reason),))
    row = found.frame().iloc[0]
    assert (row.dataset, row.model, row.n_train, row["not reachable"]) == ("my scans", "resnet18", 64, 1)
    assert progress.grouped([("a", reason), ("b", reason), ("c", "x")]) == [f"a and 1 more: {reason}", "c: x"]


def test_failed_tasks_that_match_are_to_do_again(tiny, own_store):
    store, tasks = Store(own_store), campaign.plan(tiny).tasks
    for task in tasks[2:]:
        fail(store, task)
    assert progress.retry(tiny, "*torus_waves*") == [t.label for t in tasks if "N=" in t.label and "torus" in t.label]
    assert len(progress.status(tiny).failures) == 2
    assert len(progress.retry(tiny)) == 2
    assert progress.status(tiny).failures == ()


def test_a_pattern_that_no_failed_task_matches_is_refused_with_those_that_failed(tiny, own_store, capsys):
    store, task = Store(own_store), campaign.plan(tiny).tasks[2]
    with pytest.raises(progress.RetryError, match=r"no failed task matches 'zzz\*'.*none has failed"):
        progress.retry(tiny, "zzz*")
    assert cli.main(["retry", TINY]) == 0
    assert "no task has failed" in capsys.readouterr().out
    fail(store, task)
    assert cli.main(["retry", TINY, "--only", "zzz*"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"no failed task matches 'zzz*', so nothing is to do again: failed are {task.label}" in said.err
    assert len(progress.status(tiny).failures) == 1
    assert cli.main(["retry", TINY]) == 0
    assert "1 failed task is to do again" in capsys.readouterr().out


def test_a_damaged_failure_is_named(tiny, own_store):
    store, task = Store(own_store), campaign.plan(tiny).tasks[2]
    fail(store, task)
    path = next((store.root / "failed").iterdir())
    path.write_text("{")
    with pytest.raises(ValueError, match=path.name):
        progress.status(tiny)


def test_the_page_needs_no_network_and_shows_failures_as_text(tiny, own_store, tmp_path, capsys):
    store, tasks = Store(own_store), campaign.plan(tiny).tasks
    fail(store, tasks[2])
    assert cli.main(["status", TINY, "--traceback", "--html", str(tmp_path / "s.html")]) == 0
    page, said = (tmp_path / "s.html").read_text(), capsys.readouterr().out
    assert "no memory &lt;b&gt;" in page
    assert "http" not in page
    assert "<script" not in page
    assert "Traceback: line 1" in said
    assert "0 of 6 tasks done, 1 failed, 5 to do, 0 not reachable" in said


# -------------------------------------------------------------------------------------- publishing


def test_pieces_from_two_machines_add_up_to_one_file(tiny, tmp_path):
    tasks, path = campaign.plan(tiny).tasks, tmp_path / "tiny.jsonl"
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    fill(one, tasks[:3])
    fill(two, tasks[3:])
    made = progress.publish(tiny, path, store=one)
    assert (made.total, made.added, made.kept) == (5, 5, 0)
    made = progress.publish(tiny, path, store=two)
    assert (made.total, made.added, made.kept) == (14, 9, 5)
    assert {(r.kind, r.id) for r in read_published(path)} == {key for task in tasks for key in task.keys}
    before = path.read_bytes()
    made = progress.publish(tiny, path, store=two)
    assert (made.total, made.added, made.replaced, made.kept) == (14, 0, 0, 14)  # equal records are no others
    assert path.read_bytes() == before


def test_two_that_publish_to_one_file_at_once_lose_nothing(tiny, tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    tasks, path = campaign.plan(tiny).tasks, tmp_path / "out" / "tiny.jsonl"
    path.parent.mkdir()
    stores, publish = [Store(tmp_path / name) for name in "ab"], records.publish
    fill(stores[0], tasks[:3])
    fill(stores[1], tasks[3:])

    def slow(*given):
        time.sleep(0.3)
        return publish(*given)

    monkeypatch.setattr(records, "publish", slow)
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda store: progress.publish(tiny, path, store=store), stores))
    assert sorted(one.total for one in made) in ([5, 14], [9, 14])
    assert len(read_published(path)) == 14
    assert [p.name for p in path.parent.iterdir()] == ["tiny.jsonl"]


def test_records_of_another_campaign_are_left_out_unless_all_are_asked_for(tiny, tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "tiny.jsonl"
    fill(store, campaign.plan(tiny.model_copy(update={"per_class": 50})).tasks)
    made = progress.publish(tiny, path, store=store)
    assert (made.total, made.left_out) == (12, 2)
    assert progress.publish(tiny, path, store=store, everything=True).total == 14


@pytest.mark.parametrize(
    ("value", "written", "wins"), [(2.0, "2026-02", True), (2.0, "2025-12", False), (1.0, "2025-12", True)]
)
def test_a_working_record_wins_if_its_numbers_are_equal_or_it_is_newer(tiny, tmp_path, value, written, wins):
    store, path = Store(tmp_path / "store"), tmp_path / "tiny.jsonl"
    old = next(records_of(campaign.plan(tiny).tasks[0], written="2026-01"))
    store.write(old)
    progress.publish(tiny, path, store=store)
    new = replace(old, metrics={"a": value}, provenance={"written": written})
    store.write(new)
    made = progress.publish(tiny, path, store=store)
    assert (made.replaced, made.kept) == ((1, 0) if wins else (0, 1))
    assert read_published(path) == [new if wins else old]


@pytest.mark.parametrize(
    ("command", "name", "says"),
    [
        (["status", TINY, "--html"], "no/x.html", "is no folder, so x.html cannot be written there"),
        (["status", TINY, "--html"], "kept.txt", "does not end in .html or .htm"),
        (["publish", TINY, "--output"], "no/x/p.jsonl", "is no folder, so p.jsonl cannot be written there"),
        (["publish", TINY, "--output"], ".", "is a folder"),
        (["publish", TINY, "--output"], "kept.txt", "does not end in .jsonl"),
        (["measure", "digits_0_1", "--flagged"], "kept.txt", "does not end in .csv"),
        (["measure", "digits_0_1", "--flagged"], ".", "is a folder"),
        (["book", "--no-compute", "--params", TINY, "--output"], "kept.txt", "is a file, and the book is written to"),
        (["book", "--no-compute", "--params", TINY, "--output"], "kept.txt/x", "kept.txt is a file, and the book"),
    ],
)
def test_a_place_that_cannot_be_written_to_is_refused_in_one_sentence_before_any_work(
    tiny, own_store, tmp_path, capsys, command, name, says
):
    fill(Store(own_store), campaign.plan(tiny).tasks)
    (tmp_path / "kept.txt").write_text("precious")
    assert cli.main([*command, os.path.join(tmp_path, name)]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert (tmp_path / "kept.txt").read_text() == "precious"
    assert not (tmp_path / "no").exists()


def test_runs_that_a_set_cannot_reach_are_published_with_their_reasons(tiny, tmp_path):
    store, path = Store(tmp_path / "store"), tmp_path / "tiny.jsonl"
    larger = tiny.model_copy(update={"runs": [tiny.runs[0].model_copy(update={"n_train": [32, 50_000]})]})
    fill(store, campaign.plan(tiny).tasks)
    progress.publish(larger, path, store=store)
    found = records.read_unreachable(path)
    beyond = [label for label in campaign.run_labels(larger) if "N=50000" in label]
    assert len(beyond) == 2
    assert found == dict(campaign.plan(larger).unreachable)
    assert sorted(found) == sorted(beyond)
    assert all("ask for at most" in why for why in found.values())

    progress.publish(tiny, path, store=store)  # says nothing of 50,000 images
    assert records.read_unreachable(path) == found
    progress.publish(tiny, path, store=store, everything=True)
    assert records.read_unreachable(path) == found

    reached, other = campaign.run_labels(tiny)[0], "resnet18 elsewhere N=32 seed=0"
    records.unreachable_file(path).write_text(json.dumps({reached: "too few", other: "too few"}))
    progress.publish(tiny, path, store=store)
    assert records.read_unreachable(path) == {other: "too few"}
    records.unreachable_file(path).write_text(json.dumps({reached: "too few"}))
    progress.publish(tiny, path, store=store)
    assert sorted(file.name for file in tmp_path.glob("tiny*")) == ["tiny.jsonl"]


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', b"\xff"])
def test_a_damaged_file_of_unreachable_runs_is_named_and_nothing_is_written(tiny, tmp_path, text):
    store, path = Store(tmp_path / "store"), tmp_path / "tiny.jsonl"
    fill(store, campaign.plan(tiny).tasks)
    records.unreachable_file(path).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(records.RecordError, match=r"tiny\.unreachable\.json is damaged: delete it"):
        progress.publish(tiny, path, store=store)
    assert not path.exists()


def test_nothing_is_published_where_nothing_is_stored(tiny, tmp_path):
    with pytest.raises(progress.PublishError, match="no record of the plan of tiny is stored"):
        progress.publish(tiny, tmp_path / "tiny.jsonl", store=Store(tmp_path / "store"))
    assert not (tmp_path / "tiny.jsonl").exists()


def test_two_method_versions_of_one_kind_are_not_published_together(tiny, tmp_path, monkeypatch):
    store, path = Store(tmp_path / "store"), tmp_path / "tiny.jsonl"
    fill(store, campaign.plan(tiny).tasks)
    progress.publish(tiny, path, store=store)
    before = path.read_bytes()
    monkeypatch.setitem(METHOD_VERSIONS, "attack", METHOD_VERSIONS["attack"] + 1)
    fill(store, campaign.plan(tiny).tasks)
    with pytest.raises(progress.PublishError, match="attack records of method versions"):
        progress.publish(tiny, path, store=store)
    assert path.read_bytes() == before
