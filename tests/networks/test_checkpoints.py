"""Tensors in files: what is loaded is what was saved, or an error."""

import copy

import pytest
import torch
from networks.simple import convolutional
from safetensors.torch import save_file

from intrinsic.networks import checkpoints
from intrinsic.networks.checkpoints import DamagedFile, content_hash, load, load_weights, save

TENSORS = {
    "channels-last": torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "bytes": torch.arange(9, dtype=torch.uint8),
    "number": torch.tensor(2.5, dtype=torch.float64),
    "nan": torch.tensor([torch.nan, -0.0]),
}


def test_what_is_loaded_is_what_was_saved(tmp_path):
    save(tmp_path / "a" / "file", TENSORS, {"epoch": 3, "rates": [0.1]})
    found, facts = load(tmp_path / "a" / "file")
    assert facts == {"epoch": 3, "rates": [0.1]}
    assert content_hash(found) == content_hash(TENSORS)
    assert [one.name for one in (tmp_path / "a").iterdir()] == ["file"]


def test_the_hash_knows_names_types_shapes_values_and_facts_but_no_layout():
    one = {"a": torch.arange(120.0).view(2, 3, 4, 5)}
    assert content_hash(one) == content_hash({"a": one["a"].to(memory_format=torch.channels_last)})
    others = [{"b": one["a"]}, {"a": one["a"].double()}, {"a": one["a"].view(3, 2, 4, 5)}, {"a": one["a"] + 1}]
    assert len({content_hash(each) for each in [one, *others]} | {content_hash(one, 1)}) == 6


@pytest.mark.parametrize("damage", ["cut", "first", "middle", "last", "foreign"])
def test_damage_is_found(tmp_path, damage):
    path = tmp_path / "file"
    save(path, TENSORS, {"epoch": 3})
    content = bytearray(path.read_bytes())
    if damage == "foreign":
        save_file({"a": torch.zeros(2)}, path)
    else:
        content[{"cut": -1, "first": 0, "middle": len(content) - 300, "last": -1}[damage]] ^= 1
        path.write_bytes(content[:-1] if damage == "cut" else content)
    with pytest.raises(DamagedFile, match=str(path)):
        load(path)


def test_a_failed_write_leaves_the_file_before_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "file"
    save(path, {"a": torch.zeros(2)})

    def full(*_):
        raise OSError("full")

    monkeypatch.setattr(checkpoints.os, "replace", full)
    with pytest.raises(OSError, match="full"):
        save(path, {"a": torch.ones(2)})
    assert torch.equal(load(path)[0]["a"], torch.zeros(2))
    assert list(tmp_path.iterdir()) == [path]


def test_discarding_removes_the_file_and_the_drafts_of_killed_processes_only(tmp_path):
    for name in (".run.12-3.draft", ".other.12-3.draft"):
        (tmp_path / name).mkdir()
    save(tmp_path / "run", TENSORS)
    checkpoints.discard(tmp_path / "run")
    checkpoints.discard(tmp_path / "run")
    assert [one.name for one in tmp_path.iterdir()] == [".other.12-3.draft"]


def test_weights_make_the_same_network_or_leave_it_as_it_was(tmp_path):
    network = convolutional()
    save(tmp_path / "own", network.state_dict(), {"parent": "x"})
    other = convolutional()
    torch.nn.init.ones_(other[0].weight)
    assert load_weights(other, tmp_path / "own") == {"parent": "x"}
    assert content_hash(other.state_dict()) == content_hash(network.state_dict())
    third = convolutional(3)
    before = copy.deepcopy(third.state_dict())
    with pytest.raises(DamagedFile, match=r"8\.weight"):
        load_weights(third, tmp_path / "own")
    assert content_hash(third.state_dict()) == content_hash(before)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_weights(third, tmp_path / "absent")
