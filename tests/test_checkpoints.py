"""Tensors in files; weights; a run that is killed goes on to the same numbers."""

import functools
import itertools
import json
import multiprocessing
import os
import random
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from intrinsic.networks import checkpoints, models, training
from intrinsic.networks.checkpoints import BadWeights, DamagedFile

KINDS = (torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8)


def tensors():
    generator = torch.Generator().manual_seed(0)
    made = {str(kind): (torch.rand(3, 4, generator=generator) * 100).to(kind) for kind in KINDS}
    made["channels-last"] = torch.rand(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last)
    made["scalar"] = torch.tensor(3.5)
    made["empty"] = torch.empty(0, 2)
    made["shared"] = made["channels-last"]
    made["special"] = torch.tensor([torch.nan, torch.inf, -0.0])
    return made


# ----------------------------------------------------------------------------------------------- files


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path):
    facts = {"list": [1, 2.5, None], "tenth": 0.1, "text": "ü"}
    checkpoints.save(tmp_path / "new" / "a", tensors(), facts)
    found, about = checkpoints.load(tmp_path / "new" / "a")
    assert about == facts
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), value.contiguous().reshape(-1).view(torch.uint8))
    assert os.listdir(tmp_path / "new") == ["a"]  # no draft stays


def test_the_hash_knows_names_types_shapes_values_and_facts_but_no_layout():
    base = {"a": torch.arange(8.0).reshape(1, 2, 2, 2), "b": torch.zeros(2)}
    same = {"b": torch.zeros(2), "a": base["a"].to(memory_format=torch.channels_last)}
    assert checkpoints.content_hash(base) == checkpoints.content_hash(same)
    others = [
        {**base, "b": torch.zeros(2, dtype=torch.int32)},
        {**base, "b": torch.zeros(2, 1)},
        {**base, "b": torch.tensor([0.0, 1e-30])},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    hashes = {checkpoints.content_hash(other) for other in others} | {checkpoints.content_hash(base, {"seed": 1})}
    assert len(hashes) == 6
    assert checkpoints.content_hash(base) not in hashes


@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_changed_byte_or_a_cut_anywhere_is_found(tmp_path, where):
    path = tmp_path / "a"
    checkpoints.save(path, tensors(), {"seed": 1})
    whole = path.read_bytes()
    place = int(where * len(whole))
    changed = bytearray(whole)
    changed[place] ^= 0x10
    for damaged in (bytes(changed), whole[:place]):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match=str(path)):
            checkpoints.load(path)


def test_a_changed_fact_is_found(tmp_path):
    checkpoints.save(tmp_path / "a", {"a": torch.zeros(2)}, {"seed": 1})
    whole = (tmp_path / "a").read_bytes()
    assert whole.count(rb"{\"seed\": 1}") == 1
    (tmp_path / "a").write_bytes(whole.replace(rb"{\"seed\": 1}", rb"{\"seed\": 2}"))
    with pytest.raises(DamagedFile, match="not what was written"):
        checkpoints.load(tmp_path / "a")


def test_a_foreign_file_and_an_absent_one_are_told_apart(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(DamagedFile, match="not written by this package"):
        checkpoints.load(tmp_path / "foreign")
    with pytest.raises(FileNotFoundError):
        checkpoints.load(tmp_path / "absent")


def test_a_failed_write_leaves_the_file_before_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "a"
    checkpoints.save(path, {"a": torch.zeros(2)})
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(path, {"a": torch.ones(2)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_what_a_write_leaves_where_its_process_is_killed_is_discarded(tmp_path):
    code = (
        "import os, torch, safetensors.torch\n"
        "from pathlib import Path\n"
        "from intrinsic import checkpoints\n"
        "def killed(held, file, metadata):\n"
        "    Path(file).parent.joinpath('.tmpX').touch()\n"
        "    os._exit(9)\n"
        "safetensors.torch.save_file = killed\n"
        f"checkpoints.save({str(tmp_path / 'a')!r}, {{'a': torch.ones(2)}})\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert len(os.listdir(tmp_path)) == 1
    checkpoints.discard(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_discarding_removes_the_file_and_the_drafts_of_killed_processes_only(tmp_path):
    for name in ("a", ".a.123-4.draft", "b", ".b.1-1.draft", ".ab.1-1.draft"):
        (tmp_path / name).touch()
    (tmp_path / ".a.9-9.draft").mkdir()
    (tmp_path / ".a.9-9.draft" / ".tmpX").touch()  # as safetensors leaves it where its process is killed
    checkpoints.discard(tmp_path / "a")
    checkpoints.discard(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == [".ab.1-1.draft", ".b.1-1.draft", "b"]


# --------------------------------------------------------------------------------------------- weights


def small(channels=1, n_classes=2, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3),
            nn.BatchNorm2d(4),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, n_classes),
        )


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def test_saved_weights_make_the_same_network(tmp_path):
    network = small(seed=3).to(memory_format=torch.channels_last)
    network[1].running_mean += 2
    network[1].num_batches_tracked += 7
    checkpoints.save_weights(network, tmp_path / "w", {"seed": 3})
    other = small(seed=4)
    assert checkpoints.load_weights(other, tmp_path / "w") == {"seed": 3}
    assert same_weights(network, other)


def test_weights_of_another_network_and_damaged_ones_leave_it_as_it_was(tmp_path):
    checkpoints.save_weights(small(n_classes=3), tmp_path / "w")
    network = small(seed=5)
    with pytest.raises(BadWeights, match=r"the first is 4\.(bias|weight)"):
        checkpoints.load_weights(network, tmp_path / "w")
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-1])
    with pytest.raises(DamagedFile):
        checkpoints.load_weights(network, tmp_path / "w")
    assert same_weights(network, small(seed=5))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "nested", "parallel"])
def test_pretrained_weights_are_read_from_every_usual_file(tmp_path, kind):
    from safetensors.torch import save_file

    state = small(seed=6).state_dict()
    path = tmp_path / f"w.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        body = {"pth": state, "nested": {"epoch": 3, "state_dict": state}}
        body["parallel"] = {f"module.{name}": value for name, value in state.items()}
        torch.save(body[kind], path)
    network = small(seed=7)
    assert checkpoints.load_pretrained(network, path) == []
    assert same_weights(network, small(seed=6))


def test_a_head_of_other_classes_keeps_its_own_weights(tmp_path):
    torch.save(small(n_classes=1000, seed=6).state_dict(), tmp_path / "w.pth")
    network = small(seed=7)
    assert checkpoints.load_pretrained(network, tmp_path / "w.pth") == ["4.weight", "4.bias"]
    assert torch.equal(network[4].weight, small(seed=7)[4].weight)
    assert torch.equal(network[0].weight, small(seed=6)[0].weight)


@pytest.mark.parametrize(("theirs", "ours"), [(3, 1), (1, 3)])
def test_a_first_convolution_of_other_channels_answers_as_the_files_does_on_a_grey_picture(tmp_path, theirs, ours):
    given, network = small(channels=theirs, seed=6).eval(), small(channels=ours, seed=7).eval()
    torch.save(given.state_dict(), tmp_path / "w.pth")
    checkpoints.load_pretrained(network, tmp_path / "w.pth")
    grey = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(grey.expand(-1, ours, -1, -1)), given(grey.expand(-1, theirs, -1, -1)))


def test_pretrained_weights_of_another_architecture_are_refused(tmp_path):
    network, path = small(seed=7), tmp_path / "w.pth"
    state = small().state_dict()
    for body, why in (
        ({k: v for k, v in state.items() if k != "1.weight"}, "'1.weight' is absent"),
        ({**state, "1.weight": torch.zeros(9)}, r"has the shape \(9,\)"),
        ({**state, "0.weight": torch.zeros(4, 3, 5, 5)}, r"'0.weight' has the shape \(4, 3, 5, 5\)"),
        ({**state, "9.weight": torch.zeros(9)}, "lacks, the first is '9.weight'"),
    ):
        torch.save(body, path)
        with pytest.raises(BadWeights, match=why):
            checkpoints.load_pretrained(network, path)
    assert same_weights(network, small(seed=7))


class Harmful:
    """A pickle that would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_no_code_of_a_pretrained_file_is_run(tmp_path):
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "w.pth")
    with pytest.raises(DamagedFile, match="cannot be read as weights"):
        checkpoints.load_pretrained(small(), tmp_path / "w.pth")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("body", [b"", b"no weights", b"PK\x03\x04 cut"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_of_something_else_is_refused(tmp_path, name, body):
    (tmp_path / name).write_bytes(body)
    with pytest.raises(DamagedFile, match=name):
        checkpoints.load_pretrained(small(), tmp_path / name)


# --------------------------------------------------------------------------------------- runs that go on


def clouds(n, side):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, side, side, generator=generator) * 0.3
    y = torch.arange(n) % 2
    x[y == 1, :, 2:6, 2:6] += 0.2
    return x, y


def network(dropout=0.3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, stride=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 3, 3),
            nn.Conv2d(3, 3, 3),  # whose shape is the same in the order of its memory
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(48, 2),
        )


FIXED = {"until": "epochs", "seed": 5, "device": "cpu"}
RUNS = {  # (images, side, settings): from 48 pixels weights and moments are channels-last
    "channels-last": (45, 48, {**FIXED, "epochs": 30, "batch_size": 8, "warmup_steps": 100, "augment": "shift-flip"}),
    "bfloat16": (37, 32, {**FIXED, "epochs": 35, "batch_size": 6, "precision": "bfloat16"}),
    "until fit": (
        41,
        16,
        {"seed": 6, "batch_size": 8, "max_epochs": 35, "min_steps": 175, "class_weights": "balanced", "device": "cpu"},
    ),
}


def trained(name, checkpoint=None, minutes=1e9, **settings):
    """(weights, result but its seconds) of a run, with one thread."""
    torch.set_num_threads(1)
    n, side, own = RUNS[name]
    x, y = clouds(n, side)
    model = network()
    result = training.train(model, x, y, **own, checkpoint=checkpoint, checkpoint_minutes=minutes, **settings)
    numbers = {key: value for key, value in vars(result).items() if key != "seconds"}
    return checkpoints.content_hash(model.state_dict()), numbers


@functools.cache
def never_stopped(name):
    return trained(name)


def to_the_end(name, folder):
    """In a process of its own: writes weights and numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights, numbers = trained(name, folder / "run", minutes=0)
    (folder / "numbers.json").write_text(json.dumps([weights, numbers]))


@pytest.mark.slow
def test_runs_killed_at_ten_random_moments_end_as_runs_never_stopped(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["intrinsic.networks.training"])
    moments, kills = random.Random(0), 0
    for name in RUNS:
        folder = tmp_path / name
        folder.mkdir()
        for attempt in range(9):
            process = context.Process(target=to_the_end, args=(name, folder))
            process.start()
            if attempt < 4:
                process.join(moments.uniform(0.05, 0.7))
                process.kill()
            process.join()
            kills += process.exitcode == -9
            if process.exitcode == 0:
                break
            assert process.exitcode == -9
        weights, numbers = never_stopped(name)
        assert json.loads((folder / "numbers.json").read_text()) == [weights, numbers]
        assert os.listdir(folder) == ["numbers.json"]  # neither a checkpoint nor a draft stays
    assert kills >= 10


class Stopped(Exception):
    """A run's end at a moment that a test chooses."""


def stopped_after(name, path, writes, monkeypatch, **settings):
    """A run that ends right after so many checkpoints."""
    save, count = checkpoints.save, []

    def counted(*given):
        save(*given)
        count.append(given)
        if len(count) == writes:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", counted)
        with pytest.raises(Stopped):
            trained(name, path, minutes=0, **settings)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("writes", [1, 3, 6, 12])  # 6: the last step of an epoch, before it is looked at
def test_a_run_goes_on_from_its_last_step(tmp_path, monkeypatch, name, writes):
    stopped_after(name, tmp_path / "run", writes, monkeypatch)
    left = checkpoints.load(tmp_path / "run")[1]["run"]
    assert left["steps"] + left["position"] == writes
    steps = []
    step = training._Step.__call__
    monkeypatch.setattr(training._Step, "__call__", lambda *given: steps.append(1) or step(*given))
    weights, numbers = trained(name, tmp_path / "run")
    assert len(steps) == numbers["steps"] - writes  # none is done twice
    assert (weights, numbers) == never_stopped(name)
    assert os.listdir(tmp_path) == []


def test_moments_are_restored_in_the_layout_of_their_weights(tmp_path, monkeypatch):
    stopped_after("channels-last", tmp_path / "run", 2, monkeypatch)
    seen = []
    adam = training._adam
    monkeypatch.setattr(training, "_adam", lambda *given: seen.append(adam(*given)) or seen[0])
    model = network()
    tensors, _ = checkpoints.load(tmp_path / "run")
    for i, (name, weight) in enumerate(model.named_parameters()):
        assert tensors[f"optimizer.{i}.exp_avg"].shape == weight.shape, name
    n, side, settings = RUNS["channels-last"]
    strides = []

    def look(*_):
        for parameter, state in seen[0].state.items():
            strides.append((parameter.stride(), state["exp_avg"].stride(), state["exp_avg_sq"].stride()))

    training.train(model, *clouds(n, side), **settings, checkpoint=tmp_path / "run", progress=look)
    assert len(strides) == 30 * 10
    assert all(one == two == three for one, two, three in strides)


@pytest.mark.parametrize("damage", ["byte", "cut", "text", "empty"])
def test_a_damaged_checkpoint_is_told_and_the_run_starts_over(tmp_path, monkeypatch, damage):
    path = tmp_path / "run"
    stopped_after("bfloat16", path, 7, monkeypatch)
    body = path.read_bytes()
    middle = len(body) // 2
    path.write_bytes(
        {
            "byte": body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :],
            "cut": body[:middle],
            "text": b"hello",
            "empty": b"",
        }[damage]
    )
    with pytest.warns(UserWarning, match=rf"starts over: {path}.*delete it") as told:
        found = trained("bfloat16", path)
    assert len(told) == 1
    assert found == never_stopped("bfloat16")


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"learning_rate": 0.002}, "learning_rate"),
        ({"weight_decay": 0.0, "keep_checkpoint": True}, "weight_decay"),
        ({"warmup_steps": 5}, "warmup_steps"),
        ({"class_weights": [1, 2]}, "class_weights"),
    ],
)
def test_a_checkpoint_of_other_settings_is_told_and_the_run_starts_over(tmp_path, monkeypatch, settings, differs):
    stopped_after("bfloat16", tmp_path / "run", 7, monkeypatch, **settings)
    with pytest.warns(UserWarning, match=f"a run that differs in {differs}, so"):
        found = trained("bfloat16", tmp_path / "run")
    assert found == never_stopped("bfloat16")


def test_other_images_labels_or_first_weights_are_another_run(tmp_path, monkeypatch):
    stopped_after("bfloat16", tmp_path / "run", 7, monkeypatch)
    n, side, settings = RUNS["bfloat16"]
    x, y = clouds(n, side)
    body = (tmp_path / "run").read_bytes()
    for x_, y_, model, differs in (
        (x + 1e-6, y, network(), "images"),
        (x, 1 - y, network(), "images"),
        (x, y, small(), "first_weights"),
    ):
        (tmp_path / "run").write_bytes(body)
        with pytest.warns(UserWarning, match=f"differs in {differs}, so"):
            training.train(model, x_, y_, **settings, checkpoint=tmp_path / "run", checkpoint_minutes=1e9)


def test_a_full_disk_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        found = trained("until fit", tmp_path / "run", minutes=0)
    assert found == never_stopped("until fit")


def test_a_kept_checkpoint_gives_the_result_again_without_a_step(tmp_path, monkeypatch):
    first = trained("until fit", tmp_path / "run", keep_checkpoint=True)
    assert os.listdir(tmp_path) == ["run"]
    monkeypatch.setattr(training._Step, "__call__", lambda *_: pytest.fail("a step"))
    assert trained("until fit", tmp_path / "run", keep_checkpoint=True) == first
    assert trained("until fit", tmp_path / "run") == first
    assert os.listdir(tmp_path) == []


def test_checkpoints_change_no_number_and_are_written_by_the_clock(tmp_path, monkeypatch):
    written, now = [], [0.0]
    save = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *given: written.append(now[0]) or save(*given))

    def later():
        now[0] += 7
        return now[0]

    n, side, settings = RUNS["bfloat16"]
    monkeypatch.setattr(training.time, "monotonic", later)
    model, plain = network(), network()
    training.train(model, *clouds(n, side), **settings, checkpoint=tmp_path / "run", checkpoint_minutes=1)
    training.train(plain, *clouds(n, side), **settings)
    assert same_weights(model, plain)
    assert len(written) > 10
    assert all(b - a >= 60 for a, b in itertools.pairwise(written))


def test_a_resnet_goes_on_too(tmp_path, monkeypatch):
    x, y = clouds(12, 32)
    settings = {"until": "epochs", "epochs": 2, "batch_size": 4, "device": "cpu"}
    plain, model = (models.create("resnet18", seed=1) for _ in range(2))
    training.train(plain, x, y, **settings)
    save = checkpoints.save
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *given: save(*given) or (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            training.train(model, x, y, **settings, checkpoint=tmp_path / "run", checkpoint_minutes=0)
    model = models.create("resnet18", seed=1)
    training.train(model, x, y, **settings, checkpoint=tmp_path / "run")
    assert same_weights(plain, model)
