import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from intrinsic import cli, images
from intrinsic.campaigns import campaign, engine, records
from intrinsic.campaigns.records import Store, publish
from intrinsic.networks import models

TINY = Path(__file__).with_name("tiny.yaml")


@pytest.fixture(scope="module")
def tiny():
    return campaign.read(TINY)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A completed tiny campaign: its outcome and its store."""
    store = Store(tmp_path_factory.mktemp("finished"))
    return campaign.run(tiny, store=store, progress=False), store


# ------------------------------------------------------------------------------------- parameters


def test_quick_yaml_is_the_embedded_default():
    assert campaign.read(images.REPOSITORY / "params" / "quick.yaml") == campaign.Params()


def test_the_published_campaign_is_of_sets_in_the_catalogue_in_the_order_of_what_runs_are_worth():
    p = campaign.read(images.REPOSITORY / "params" / "published.yaml")
    assert set(p.datasets) <= set(images.catalogue())
    at_500 = {
        (model, name) for block in p.runs for model in block.models if 500 in block.n_train for name in p.datasets
    }
    assert at_500 == {(model, name) for model in campaign.models.MODELS for name in p.datasets}
    assert {seed for block in p.runs[:2] for seed in block.seeds} == set(range(5))  # the pilot, over seeds
    first = {}
    for i, block in enumerate(p.runs):
        for cell in ((model, n) for model in block.models for n in block.n_train if not block.datasets):
            first.setdefault(cell, i)
    of = {model: [i for (name, _), i in first.items() if name == model] for model in campaign.models.MODELS}
    assert max(first[model, 500] for model in of) < min(first["resnet18", n] for n in (1000, 1750))  # each network once
    assert sorted(n for name, n in first if name == "resnet18") == [62, 125, 250, 500, 1000, 1750]
    assert max(of["resnet18"]) < min(first[name, n] for name, n in first if name != "resnet18" and n != 500)


def test_the_papers_protocol_is_27_tasks_and_972_runs_a_seed():
    p = campaign.read(images.REPOSITORY / "params" / "paper.yaml")
    assert set(p.datasets) <= set(images.catalogue())
    grid = list(campaign.cells(p))
    assert len(p.datasets) == 27
    assert len({name.partition("-")[0] for name in p.datasets}) == 11
    assert len(grid) == 27 * 6 * 6
    wanted = campaign._training_wanted(p, "mura", "resnet34", 500, 0)
    assert (wanted["until"], wanted["epochs"], wanted["batch_size"], wanted["size"]) == ("epochs", 100, 25, 224)


def test_the_estimate_of_gpu_hours_is_operations_over_rate(monkeypatch):
    monkeypatch.setattr(campaign.models, "operations", lambda model, **_: {"resnet18": 1e9, "vgg13": 5e9}[model])
    blocks = [{"models": ["resnet18", "vgg13"], "n_train": [100, 200], "seeds": [0, 1]}]
    p = campaign.params(datasets=["digits"], runs=blocks, protocol="paper")
    expected = 3 * (1e9 + 5e9) * (100 + 200) * 2 * 100 / 2e12 / 3600
    assert campaign.gpu_hours(p, 2) == pytest.approx(expected)


def test_gpu_hours_of_a_run_until_fit_are_those_of_its_cap_in_epochs_and_in_steps(monkeypatch):
    monkeypatch.setattr(campaign.models, "operations", lambda model, **_: 1e9)
    batch = models.default_batch_size("resnet18")

    def epochs(n, **keys):
        p = campaign.params(datasets=["digits"], runs=[{"models": ["resnet18"], "n_train": [n]}], **keys)
        return campaign.gpu_hours(p, 1) * 3600e12 / (3e9 * n)

    assert epochs(batch, epochs=100, min_steps=1500) == pytest.approx(1500)  # one step an epoch
    assert epochs(3 * batch, epochs=100, min_steps=1501) == pytest.approx(501)
    assert epochs(2 * batch + 1, epochs=100, min_steps=1500) == pytest.approx(500)  # the third step has one image
    assert epochs(100 * batch, epochs=100, min_steps=1500) == pytest.approx(100)
    assert epochs(batch, epochs=7, min_steps=1500, until="epochs") == pytest.approx(7)


@pytest.mark.parametrize("rate", [0, -5, float("nan")])
def test_a_rate_that_is_not_above_zero_gives_no_hours(rate):
    with pytest.raises(campaign.CampaignError, match="give a rate above 0"):
        campaign.gpu_hours(campaign.Params(), rate)


def _stored_run(store, p, n_train, seconds, **metrics):
    """A stored training run of `n_train` images as a campaign would have left it."""
    wanted = {**campaign._training_wanted(p, "digits_0_1", "resnet18", n_train, 0), "image_hash": "0"}
    found = {"steps": 20.0, "epochs": 10.0, "fitted": 1.0} | metrics
    store.write(records.Record("training", wanted, found, {}, {}, {"training_seconds": seconds}))


def _task(p, n_train, model="resnet18"):
    wanted = campaign._training_wanted(p, "digits_0_1", model, n_train, 0)
    return campaign.Task("training", "digits_0_1", {**wanted, "image_hash": "0"}, ())


@pytest.fixture
def without_published(monkeypatch):
    monkeypatch.setattr(campaign, "_published_files", list)


@pytest.mark.usefixtures("without_published")
def test_time_of_a_run_grows_as_the_root_of_its_images_until_fit_and_as_their_number_by_epochs(tmp_path):
    store, p = Store(tmp_path), campaign.read(TINY)
    fit = campaign.Params(**{**p.model_dump(), "until": "fit", "min_steps": 10**6})
    for n, seconds in ((100, 10.0), (400, 40.0), (225, 700.0)):  # 0.01 s an image; the last one shared its processor
        _stored_run(store, fit, n, seconds, steps=2 * n**0.5)
    few, many = campaign.estimate_seconds([_task(fit, 100), _task(fit, 400)], store)
    batch = models.default_batch_size("resnet18")
    rest = campaign._passes(_task(fit, 100)) * 0.01 + 2
    assert few == pytest.approx(2 * 10 * batch * 0.01 + rest)
    assert many == pytest.approx(2 * 20 * batch * 0.01 + rest)
    few, many = campaign.estimate_seconds([_task(p, 100), _task(p, 400)], store)
    assert few == pytest.approx(p.epochs * 100 * 0.01 + rest)
    assert many == pytest.approx(p.epochs * 400 * 0.01 + rest)


@pytest.mark.usefixtures("without_published")
def test_networks_without_a_stored_run_are_estimated_by_their_operations(tmp_path):
    p = campaign.read(TINY)
    small, large = campaign.estimate_seconds([_task(p, 64), _task(p, 64, "resnet50")], Store(tmp_path))
    ratio = models.operations("resnet50", size=16) / models.operations("resnet18", size=16)
    assert (large - 2) / (small - 2) == pytest.approx(ratio)


@pytest.mark.usefixtures("without_published")
def test_a_network_without_a_stored_run_takes_the_steps_of_those_with_its_batch(tmp_path):
    store, p = Store(tmp_path), campaign.read(TINY)
    fit = campaign.Params(**{**p.model_dump(), "until": "fit", "min_steps": 10**6})
    _stored_run(store, fit, 100, 1.0, steps=50.0)  # of a ResNet, five times the root of its images
    for model, factor in (("resnet50", 5.0), ("vgg13", campaign.WARMED_UP_STEPS)):
        task, batch = _task(fit, 400, model), models.default_batch_size(model)
        each = campaign._guessed_seconds_per_image(model, task.params["size"], task.params["channels"])
        (seconds,) = campaign.estimate_seconds([task], store)
        assert (seconds - 2) / each - campaign._passes(task) == pytest.approx(factor * 20 * batch)


@pytest.mark.parametrize(
    ("model", "keys", "warmup"),
    [
        ("resnet18", {}, None),
        ("vgg16", {}, 2000),
        ("vgg16", {"warmup_steps": 0}, None),
        ("resnet18", {"warmup_steps": 7}, 7),
        ("vgg16", {"protocol": "paper"}, None),
        ("vgg16", {"protocol": "paper", "warmup_steps": 0}, None),
    ],
)
def test_a_record_names_its_warm_up_where_there_is_one(model, keys, warmup):
    """So that records of ResNets from before there was any keep their ids."""
    p = campaign.params(**keys)
    wanted = campaign._training_wanted(p, "digits", model, 64, 0)
    assert wanted.get("warmup_steps") == warmup
    assert ("warmup_steps" in wanted) == (warmup is not None)


def test_the_papers_protocol_has_no_warm_up():
    with pytest.raises(campaign.CampaignError, match="trains at its whole rate from the first step"):
        campaign.params(protocol="paper", warmup_steps=5)


@pytest.mark.usefixtures("without_published")
def test_an_estimate_keeps_runs_with_and_without_warm_up_apart(tmp_path):
    store = Store(tmp_path)
    keys = {**campaign.read(TINY).model_dump(), "until": "fit", "min_steps": 10**6}
    warm, cold = campaign.Params(**keys), campaign.Params(**{**keys, "warmup_steps": 0})
    task = _task(warm, 100, "vgg13")
    found = {"steps": 400.0, "epochs": 40.0, "fitted": 1.0}
    store.write(records.Record("training", task.params, found, {}, {}, {}))
    each = campaign._guessed_seconds_per_image("vgg13", task.params["size"], task.params["channels"])
    for p, factor in ((warm, 40.0), (cold, campaign.TYPICAL_STEPS)):
        (seconds,) = campaign.estimate_seconds([_task(p, 400, "vgg13")], store)
        assert (seconds - 2) / each - campaign._passes(_task(p, 400, "vgg13")) == pytest.approx(factor * 20 * 16)


@pytest.mark.usefixtures("without_published")
def test_runs_without_a_networks_warm_up_serve_only_where_there_are_no_others(tmp_path):
    store, keys = Store(tmp_path), campaign.read(TINY).model_dump()
    setting = {key: keys[key] for key in campaign.PIXELS}
    found = {"steps": 4.0, "epochs": 4.0, "fitted": 1.0, "test_loss_nats": 0.5}

    def kept(*warmups):
        for i, warmup in enumerate(warmups):
            p = campaign.Params(**{**keys, "warmup_steps": warmup})
            store.write(records.Record("training", _task(p, 100 + i, "vgg13").params, found, {}, {}, {}))
        return [r.params.get("warmup_steps", 0) for r in campaign._fitted_runs("vgg13", setting, store)]

    assert kept(0, 0) == [0, 0]
    assert kept(0, 0, None) == [2000]


@pytest.mark.parametrize("start", [0.0, 0.5, 30.0])
def test_a_measured_step_is_what_each_step_adds_to_a_training(monkeypatch, start):
    clock = [0.0]

    def train(*_, epochs, **__):
        clock[0] += start + 0.2 * epochs

    monkeypatch.setattr(campaign.training, "train", train)
    monkeypatch.setattr(campaign.time, "perf_counter", lambda: clock[0])
    campaign._seconds_per_image.cache_clear()
    try:
        each = campaign._seconds_per_image("resnet18", 16, 1, 10, "float32")
    finally:
        campaign._seconds_per_image.cache_clear()
    assert each == pytest.approx(0.02 if start < 1 else (start + 0.6) / 6 / 10)


def test_attacks_radii_and_slopes_count_by_their_gradients():
    p = campaign.params(datasets=["digits_0_1"], runs=[{"models": ["resnet18"], "n_train": [32]}], attack_images=100)
    plain = next(t for t in campaign.plan(p).tasks if t.kind == "training")
    more = campaign.params(**{**p.model_dump(), "radius_images": 50})
    radii = next(t for t in campaign.plan(more).tasks if t.kind == "training")
    assert campaign._passes(radii) - campaign._passes(plain) == pytest.approx(campaign.GRADIENT * 200 * 50)


def test_operations_are_those_counted_by_hand():
    network, sizes = models.create("resnet18", channels=1), []
    for module in network.modules():  # sizes of maps at 32 pixels, by the strides of the architecture
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, given, out: sizes.append(2 * m.weight.numel() * out.shape[2] * out.shape[3])
            )
    network.eval()(torch.zeros(1, 1, 32, 32))
    counted = sum(sizes) + 2 * network.fc.weight.numel()
    assert models.operations("resnet18", size=32) == counted


def test_a_dry_run_of_sets_that_are_away_counts_their_runs(capsys):
    assert cli.main(["run", str(images.REPOSITORY / "params" / "paper.yaml"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "972 training runs (972 a seed)" in told
    assert "oai" in told


@pytest.mark.slow
def test_the_papers_protocol_runs_on_made_up_images(tmp_path, monkeypatch):
    """Every kind of record, with the file's own settings but for sizes, numbers and epochs."""
    made = np.random.default_rng(0)
    x = made.integers(0, 256, (80, 32, 32), dtype=np.uint8)
    x[::2, :8] //= 4
    np.savez(tmp_path / "copy.npz", images=x, labels=np.arange(80) % 2)
    monkeypatch.setattr(campaign.models, "PAPER_EPOCHS", 2)
    monkeypatch.setattr(campaign, "_published_files", list)
    p = campaign.read(images.REPOSITORY / "params" / "paper.yaml")
    few = {"per_class": 20, "draws": 2, "k": 5, "attack_images": 8, "pgd_steps": 2, "radius_images": 2}
    few |= {"sanity_images": 2, "slope_pairs": 4, "size": 32, "datasets": [str(tmp_path / "copy.npz")]}
    blocks = [{"models": ["resnet18"], "n_train": [24], "seeds": [0]}]
    p = campaign.params(**{**p.model_dump(), **few, "runs": blocks})
    store = Store(tmp_path / "store")
    made = campaign.plan(p)
    found = [record for task in made.tasks for record in campaign.compute(task, store=store)]
    assert {record.kind for record in found} == set(records.KINDS)
    (trained,) = [record for record in found if record.kind == "training"]
    assert trained.params["protocol"] == "paper"
    assert trained.metrics["epochs"] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae: quick", "'nmae' is not a parameter"),
        (
            "runs: [{models: [resnet18], n_train: [64], seed: [0]}]",
            "block 1 of runs: 'seed' is not a parameter, .*the parameters are models, n_train, seeds, datasets, radius",
        ),
        ("runs: [{models: [resnet19], n_train: [64]}]", "'resnet19' is not a network"),
        ("size: big", "size: .*integer"),
        ("size: 4", "size: .*greater than or equal to 8"),
        ("channels: 2", "channels: .*1 or 3"),
        ("grey_level: 3", "grey_level 3 is not one of grey_levels"),
        ("name: ../x", "name: .*pattern"),
        ("- a\n- b", "`key: value` lines"),
        ("a: [", "not valid YAML"),
        ("name: !!python/object:os.system {}", "not valid YAML"),
        ("1: 2", "1 is not a parameter"),
        ("null: 2", "None is not a parameter"),
        ("k: 20\nk: 30", "'k' is given twice, line 2"),
        ("runs: [{models: [resnet18], models: [vgg13], n_train: [64]}]", "'models' is given twice"),
        ("workers: 0", "workers: .*greater than or equal to 1"),
        ("epochs: " + 400 * "9", "epochs: .*less than or equal to 1000000000"),
        ("min_steps: " + 400 * "9", "min_steps: .*less than or equal to 1000000000"),
        ("runs: [{models: [resnet18], n_train: [9999999999]}]", "n_train: 9999999999 is more than can be computed"),
        ("runs: [{models: [resnet18], n_train: [64], seeds: [9999999999999999999]}]", "seeds: 9999999999999999999 is"),
        ("clouds: [2, 0]", "clouds: entry 2: .*greater than or equal to 1"),
        ("sizes: [0]", "sizes: entry 1: .*greater than or equal to 1"),
        ("pixel_noise: [.nan]", "pixel_noise: entry 1: .*finite"),
        ("pixel_noise: [-1]", "pixel_noise: entry 1: .*greater than or equal to 0"),
        ("label_noise: [-0.5]", "label_noise: entry 1: .*greater than or equal to 0"),
        ("label_noise: [0, 7]", "label_noise: entry 2: .*less than or equal to 1"),
        ("label_noise: [.nan]", "label_noise: entry 1: "),
        ("near_copies: [-4]", "near_copies: entry 1: .*greater than or equal to 0"),
        ("grey_levels: [-2]\ngrey_level: -2", "grey_levels: -2 is no budget .* from 0 to 255"),
        ("grey_levels: [2, 300]", "grey_levels: 300 is no budget"),
        ("pgd_levels: [256]", "pgd_levels: 256 is no budget"),
        ("datasets: []", "datasets: it is empty"),
        ("runs: [{models: [resnet18], n_train: []}]", "block 1 of runs: n_train: it is empty"),
        ("runs: [{models: [], n_train: [64]}]", "block 1 of runs: models: it is empty"),
        ("runs: [{models: [resnet18], n_train: [64], datasets: []}]", "block 1 of runs: datasets: it is empty"),
        ("runs: [{models: [resnet18], n_train: [64, -5]}]", "block 1 of runs: n_train: -5 images"),
        ("runs: [{models: [resnet18], n_train: [64], seeds: [-1]}]", "block 1 of runs: seeds: -1 starts no random"),
        (
            "runs: [{models: [resnet18], n_train: [64]}, {models: [x], n_train: [64]}]",
            "block 2 of runs: models: 'x' is not",
        ),
        ("runs: [{models: [resnet18], n_train: [64, a]}]", "block 1 of runs: n_train: entry 2: .*integer"),
        ("runs: [{models: [resnet18]}]", "block 1 of runs: n_train is missing"),
        ("runs: [5]", "block 1 of runs: a block holds `key: value` lines"),
        ("k: 500", "k = 500 neighbors are not among 500 images, per_class = 250 of each of two classes"),
        (
            "k: 64\nruns: [{models: [resnet18], n_train: [128, 64]}]",
            "k = 64 .* n_train = 64 training images of block 1",
        ),
        (
            "size: 31\nruns: [{models: [resnet18], n_train: [64]}, {models: [vgg16], n_train: [64]}]",
            "size = 31, and vgg16 in block 2 of runs reads images of 32 pixels",
        ),
    ],
)
def test_a_wrong_parameter_file_gets_one_sentence(tmp_path, text, says):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(campaign.CampaignError, match=says) as caught:
        campaign.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "k: 63\nruns: [{models: [resnet18], n_train: [64], seeds: [0]}]",
        "size: 32\nruns: [{models: [vgg16], n_train: [64]}]",
        "size: 8\nruns: [{models: [resnet50], n_train: [64]}]",
        "per_class: 11",
        "runs: []",
        "workers: 1",
        "grey_levels: [0, 255]\ngrey_level: 255",
        "epochs: 1000000000\nmin_steps: 1000000000",
        "pixel_noise: [0]\nlabel_noise: [0, 1]\nnear_copies: [0]\nclouds: [1]\nsizes: [1]",
    ],
)
def test_what_is_just_possible_is_no_wrong_parameter_file(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    assert campaign.read(path)


@pytest.mark.parametrize("path", campaign._parameter_files(), ids=lambda path: path.stem)
def test_the_parameter_files_of_the_book_are_valid_and_none_of_their_tasks_can_only_fail(path):
    p = campaign.read(path)
    assert campaign._never(p, p.runs) == ""


def test_the_default_blocks_are_checked_when_they_are_planned(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("name: small\nsize: 16\ndatasets: [digits_0_1]")
    p = campaign.read(path)  # which a forecast or a page reads for its size alone
    with pytest.raises(campaign.CampaignError, match="small: size = 16, and vgg13 in block 1 of the default runs"):
        campaign.plan(p)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Makes folders of images by name, 30 of each of two classes, in the working directory."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)

    def make(*names, seed=0):
        campaign.measurement._held.clear()
        for k, name in enumerate(names):
            rng = np.random.default_rng([seed, k])
            for label in "ab":
                (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
                for i in range(30):
                    pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / name / label / f"{i}.png")

    yield make
    campaign.measurement._held.clear()


def of(*datasets, **keys):
    """Parameters of a campaign of properties alone."""
    few = {"size": 16, "per_class": 20, "draws": 2, "k": 5, "runs": [], "workers": 1}
    return campaign.params(datasets=list(datasets), **{**few, **keys})


@pytest.mark.parametrize("pair", [("A/scans", "B/scans"), ("A/scans", "./A/scans"), ("digits", "C/digits")])
def test_two_sources_of_one_name_in_records_are_refused_wherever_they_would_be_mixed(folders, tmp_path, pair):
    from intrinsic.campaigns import progress

    folders("A/scans", "B/scans", "C/digits")
    block = campaign.RunBlock(models=["resnet18"], n_train=[32], datasets=[pair[1]])
    for p in (of(*pair), of(pair[0], runs=[block])):
        for read in (campaign.plan, campaign.properties_frame, campaign.runs_frame, campaign.missing, progress.status):
            with pytest.raises(campaign.CampaignError, match=f"the image sets {pair[0]} and {pair[1]} are both"):
                read(p)
    assert len(campaign.plan(of(pair[0], pair[0])).tasks) == 1


def test_a_folder_is_named_in_records_as_it_is_given(folders, tmp_path, monkeypatch):
    folders("in/scans.v1")
    os.symlink("scans.v1", tmp_path / "in" / "link")
    monkeypatch.setenv("HOME", str(tmp_path))
    named = {"in/scans.v1": "scans.v1", "in/scans.v1/": "scans.v1", "~/in/scans.v1": "scans.v1", "in/link": "link"}
    named |= {"in/scans.v1/..": "in", "~": tmp_path.name, "gone/scans.v1": "scans", "x.npz": "x"}
    assert {source: campaign._set_name(source) for source in named} == named
    monkeypatch.chdir(tmp_path / "in" / "scans.v1")
    assert [campaign._set_name(source) for source in (".", "..", "../../in/.")] == ["scans.v1", "in", "in"]
    assert [task.params["dataset"] for task in campaign.plan(of(".")).tasks] == ["scans.v1"]


def test_a_store_that_is_a_file_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("precious")
    monkeypatch.setenv("INTRINSIC_STORE", str(tmp_path / "file"))
    for command in (["run", str(TINY)], ["run", str(TINY), "--dry-run"], ["status", str(TINY)]):
        assert cli.main(command) == 1
        said = capsys.readouterr().err
        assert "file is a file, so it holds no records: name a folder in INTRINSIC_STORE" in said
        assert said.count("\n") == 1
    assert (tmp_path / "file").read_text() == "precious"


def test_a_missing_parameter_file_names_those_that_exist(tmp_path):
    with pytest.raises(campaign.CampaignError, match=r"params/quick.yaml"):
        campaign.read(tmp_path / "none.yaml")


# ------------------------------------------------------------------------------------------- plan


def test_the_plan_holds_every_cell_once_properties_first(tiny):
    made = campaign.plan(tiny)
    labels = [task.label for task in made.tasks]
    assert labels == [
        "properties digits_0_1",
        "properties torus_waves",
        *(f"resnet18 {d} N={n} seed=0" for d in ("digits_0_1", "torus_waves") for n in (32, 64)),
    ]
    keys = [key for task in made.tasks for key in task.keys]
    assert len(set(keys)) == len(keys) == 2 + 4 * 3


def test_a_size_that_a_set_cannot_reach_is_listed_with_the_reason(tiny):
    block = campaign.RunBlock(models=["resnet18"], n_train=[32, 100_000], seeds=[0])
    made = campaign.plan(tiny.model_copy(update={"runs": [block]}))
    assert [label for label, _ in made.unreachable] == [
        "resnet18 digits_0_1 N=100000 seed=0",
        "resnet18 torus_waves N=100000 seed=0",
    ]
    assert all(reason for _, reason in made.unreachable)
    assert sum(task.kind == "training" for task in made.tasks) == 2


def test_what_decides_a_number_is_in_the_identity_and_nothing_else_is(tiny):
    base = campaign.plan(tiny)

    def ids(**changed):
        return [t.keys for t in campaign.plan(tiny.model_copy(update=changed)).tasks]

    same = [t.keys for t in base.tasks]
    assert ids(workers=1, name="other", compute=True, grey_level=4, fitted_only=True) == same
    assert all(a[0] != b[0] for a, b in zip(ids(epochs=3)[2:], same[2:], strict=True))
    assert ids(epochs=3)[:2] == same[:2]
    attacked = ids(grey_levels=[2])
    assert [k[0] for k in attacked] == [k[0] for k in same]
    assert all(a[1] != b[1] and a[2] == b[2] for a, b in zip(attacked[2:], same[2:], strict=True))
    text = str([t.params for t in base.tasks]) + str([t.settings for t in base.tasks])
    assert str(images.REPOSITORY) not in text
    assert "cpu" not in text


# -------------------------------------------------------------------------------------------- run


def test_a_second_run_computes_nothing_and_changes_nothing(tiny, finished):
    outcome, store = finished
    assert (outcome.computed, outcome.stored, outcome.failed) == (6, 0, ())
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.root.rglob("*.json")}
    assert len(before) == 14
    again = campaign.run(tiny, store=store, progress=False)
    assert (again.computed, again.stored) == (0, 6)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in store.root.rglob("*.json")}


def strip(record):
    return record.kind, record.id, record.metrics, record.series, record.reasons


@pytest.mark.long
def test_a_campaign_killed_half_way_continues_and_computes_nothing_twice(tiny, finished, tmp_path):
    _, undisturbed = finished
    root = tmp_path / "killed"
    command = [sys.executable, "-m", "intrinsic.cli", "run", str(TINY), "--no-progress"]
    environment = {**os.environ, "INTRINSIC_STORE": str(root)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(root.glob("training/[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # workers leave with their parent
    store = Store(root)
    kept = {p: p.stat().st_mtime_ns for p in root.rglob("[!.]*.json")}
    complete = [t for t in campaign.plan(tiny).tasks if t.done(store)]
    assert 0 < len(complete) < 6
    outcome = campaign.run(tiny, store=store, progress=False)
    assert outcome.computed == 6 - len(complete)
    done = {store.path(*key) for task in complete for key in task.keys}
    assert all(p.stat().st_mtime_ns == kept[p] for p in done)
    for kind in ("properties", "training", "attack", "representation"):
        assert [strip(r) for r in store.records(kind)] == [strip(r) for r in undisturbed.records(kind)]


def test_workers_do_not_outlive_a_killed_campaign(tmp_path):
    root = tmp_path / "orphans"
    command = [sys.executable, "-m", "intrinsic.cli", "run", str(TINY), "--no-progress"]
    environment = {**os.environ, "INTRINSIC_STORE": str(root), "INTRINSIC_MARK": str(root)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def marked():
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"INTRINSIC_MARK={root}".encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
        return found

    deadline = time.monotonic() + 60
    while not list(root.glob("properties/[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marked()) >= 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while marked() and time.monotonic() < deadline + 30:
        time.sleep(0.1)
    assert marked() == []


def test_a_task_that_raises_is_reported_and_the_others_go_on(tiny, tmp_path):
    folder = tmp_path / "scans"
    rng = np.random.default_rng(0)
    from PIL import Image

    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(50):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    p = tiny.model_copy(
        update={
            "datasets": [str(folder)],
            "runs": [campaign.RunBlock(models=["resnet18"], n_train=[16, 32], seeds=[0], datasets=[str(folder)])],
            "per_class": 20,
            "workers": 1,
        }
    )
    store = Store(tmp_path / "store")
    made = campaign.plan(p)
    assert len(made.tasks) == 3
    shutil.rmtree(folder / "b")
    outcome = campaign.run(p.model_copy(update={"datasets": ["digits_0_1"], "runs": []}), store=store, progress=False)
    assert outcome.computed == 1
    done = campaign._run_tasks(list(made.tasks), store, engine.Settings(retries=0), False)
    assert [label for label, _ in done.failed] == [task.label for task in made.tasks]
    assert all("class" in reason for _, reason in done.failed)
    assert all("Traceback" in note["traceback"] for note in store.failures().values())


def test_a_damaged_record_is_named(tiny, finished, tmp_path):
    _, store = finished
    copy = shutil.copytree(store.root, tmp_path / "copy")
    path = next(copy.glob("training/*.json"))
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=path.name):
        campaign.runs_frame(tiny, store=Store(copy))


@pytest.mark.usefixtures("without_published")
def test_a_run_computes_anew_what_cannot_be_read(tiny, finished, tmp_path):
    _, finished = finished
    store = Store(shutil.copytree(finished.root, tmp_path / "copy"))
    task = campaign.plan(tiny).tasks[0]
    path = store.path(*task.keys[0])
    path.write_text("")
    with pytest.warns(UserWarning, match=rf"count as missing: 1, the first: .*{path.name}"):
        assert campaign.plan(tiny).todo(store) == [task]
    with pytest.warns(UserWarning, match=rf"count as missing: 1, the first: .*{path.name}"):
        outcome = campaign.run(tiny, store=store, progress=False)
    assert (outcome.computed, outcome.stored, outcome.failed) == (1, 5, ())
    assert strip(store.read(*task.keys[0])) == strip(finished.read(*task.keys[0]))
    assert campaign.run(tiny, store=store, progress=False).computed == 0


@pytest.mark.usefixtures("without_published")
def test_a_record_of_another_version_is_not_computed_anew(tiny, finished, tmp_path):
    store = Store(shutil.copytree(finished[1].root, tmp_path / "copy"))
    path = next(store.root.glob("properties/*.json"))
    text = path.read_text().replace('"schema": 1', '"schema": 99')
    path.write_text(text)
    with pytest.raises(records.OtherSchema, match=rf"{path.name} has schema 99"):
        campaign.run(tiny, store=store, progress=False)
    assert path.read_text() == text


# ----------------------------------------------------------------------------------------- frames


@pytest.mark.usefixtures("without_published")
def test_images_that_have_changed_have_no_row(folders, tmp_path):
    """Neither that of the folder as it was, nor that of another folder of its name; and one that is away keeps it."""
    p, store = of("A/scans"), Store(tmp_path / "store")
    folders("A/scans")
    found = {}
    for seed in (0, 1):
        folders("A/scans", seed=seed)
        assert campaign.properties_frame(p, store=store).empty
        assert campaign.stored_properties(p, store=store).empty
        campaign.complete(campaign.plan(p).tasks[0], store)
        found[seed] = campaign.properties_frame(p, store=store)["k_f"].item()
    assert found[0] != found[1]
    for seed in (0, 1):
        folders("A/scans", seed=seed)
        assert campaign.properties_frame(p, store=store)["k_f"].item() == found[seed]
        assert campaign.stored_properties(p, store=store)["k_f"].item() == found[seed]
    folders("A/scans", seed=2)
    assert campaign.properties_frame(p, store=store).empty
    shutil.rmtree(tmp_path / "A")
    campaign.measurement._held.clear()
    assert campaign.properties_frame(p, store=store)["k_f"].item() in found.values()


@pytest.mark.usefixtures("without_published")
def test_a_run_on_images_that_have_changed_is_missing(folders, tmp_path):
    p, store = of("A/scans", runs=[{"models": ["resnet18"], "n_train": [16]}]), Store(tmp_path / "store")
    folders("A/scans")
    task = next(task for task in campaign.plan(p).tasks if task.kind == "training")
    store.write(records.Record("training", task.params, {"fitted": 1.0}))
    assert len(campaign.runs_frame(p, store=store)) == 1
    assert campaign.missing(p, store=store) == []
    folders("A/scans", seed=1)
    assert campaign.missing(p, store=store) == [task.label]
    with pytest.raises(campaign.CampaignError, match="no run of the campaign"):
        campaign.runs_frame(p, store=store)


@pytest.mark.filterwarnings("ignore:.*lack of params")
def test_a_record_that_lacks_params_of_its_kind_is_left_out_with_a_warning(tiny, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "_published_files", list)
    store = Store(shutil.copytree(finished[1].root, tmp_path / "copy"))
    before = campaign.runs_frame(tiny, store=store)
    foreign = [records.Record(kind, {"a": a}, {}) for kind in records.KINDS for a in (1, 2)]
    for record in foreign:
        store.write(record)
    lack = "left out for lack of params: 2, the first: "
    with pytest.warns(UserWarning, match=f"{lack}properties .* has no channels"):
        assert set(campaign.compare("digits_4_9", store=store).rows["dataset"]) >= {"digits_0_1", "torus_waves"}
    with pytest.warns(UserWarning, match=f"{lack}training .* has no batch_size"):
        assert len(campaign.estimate_seconds([_task(tiny, 64)], store)) == 1
    with pytest.warns(UserWarning, match=f"{lack}attack .* has no parent"):
        assert campaign.runs_frame(tiny, store=store).equals(before)
    publish((r for kind in records.KINDS for r in store.records(kind) if "method_version" in r.params), tmp_path / "p")
    (tmp_path / "p").write_text((tmp_path / "p").read_text() + foreign[0].to_json() + "\n")
    monkeypatch.setattr(campaign, "_published_files", lambda: [tmp_path / "p"])
    with pytest.warns(UserWarning, match="p: left out for lack of params: 1"):
        assert len(campaign.published_keys()) == 14


@pytest.mark.usefixtures("without_published")
def test_a_record_of_no_plan_that_cannot_be_read_does_not_stop_an_estimate(tiny, tmp_path):
    records.write_text(tmp_path / "training" / "0123456789abcdef.json", "")
    with pytest.warns(UserWarning, match="training records left out of the estimate: 1, the first: .*0123456789abcdef"):
        assert len(campaign.estimate_seconds([_task(tiny, 64)], Store(tmp_path))) == 1


def test_every_published_record_is_read_and_found():
    files = sorted((images.REPOSITORY / "book" / "records").glob("*.jsonl"))
    made = [record for path in files for record in records.read_published(path)]
    assert {(record.kind, record.id) for record in made} == campaign.published_keys()


def test_the_frame_has_one_row_a_run_with_all_its_numbers(tiny, finished):
    _, store = finished
    frame = campaign.runs_frame(tiny, store=store)
    assert len(frame) == 4
    columns = [
        "dataset",
        "domain",
        "model",
        "n_train",
        "seed",
        "fitted",
        "test_loss_nats",
        "test_accuracy",
        "test_brier",
        "train_accuracy",
        "n_groups",
        "d_data",
        "d_data_low",
        "d_data_high",
        "d_data_twonn",
        "k_f",
        "k_f_low",
        "k_f_high",
        "k_f_all",
        "loss_penalty_nats_eps2",
        "accuracy_penalty_eps8",
        "d_repr",
        "d_data_same_images",
        "d_repr_untrained",
        "d_repr_random_map",
    ]
    assert set(columns) <= set(frame.columns)
    assert frame.d_data.between(frame.d_data_low, frame.d_data_high).all()
    assert (frame.test_accuracy.between(0, 1)).all()
    assert set(frame.domain) == {"natural", "synthetic"}
    assert (frame.k_f_all >= frame.k_f).all()


def test_published_records_give_the_same_frame_without_the_images(tiny, finished, tmp_path, monkeypatch):
    _, store = finished
    working = campaign.runs_frame(tiny, store=store)
    path = tmp_path / "tiny.jsonl"
    publish(
        (r for kind in ("properties", "training", "attack", "representation") for r in store.records(kind)),
        path,
    )
    monkeypatch.setattr(campaign, "_published_files", lambda: [path])
    monkeypatch.setattr(images, "load", lambda *a, **k: pytest.fail("images were read"))
    published = campaign.runs_frame(tiny, store=Store(tmp_path / "empty"))
    assert working.equals(published)


def test_an_empty_store_says_which_command_makes_the_records(tiny, tmp_path):
    with pytest.raises(campaign.CampaignError, match=r"intrinsic run params/tiny.yaml"):
        campaign.runs_frame(tiny, store=Store(tmp_path))
    assert len(campaign.missing(tiny, store=Store(tmp_path))) == 4


def published_copy(store, path, monkeypatch, kinds=campaign.records.KINDS):
    publish((r for kind in kinds for r in store.records(kind)), path)
    monkeypatch.setattr(campaign, "_published_files", lambda: [path])


def test_published_records_count_as_done_and_a_campaign_that_shows_its_own_computes_them(
    tiny, finished, tmp_path, monkeypatch
):
    _, store = finished
    published_copy(store, tmp_path / "tiny.jsonl", monkeypatch)
    monkeypatch.setattr(campaign, "_run_tasks", lambda todo, *_: pytest.fail(f"{len(todo)} tasks were started"))
    empty = Store(tmp_path / "empty")
    outcome = campaign.run(tiny, store=empty, progress=False)
    assert (outcome.computed, outcome.stored) == (0, 6)
    with pytest.raises(pytest.fail.Exception, match="6 tasks"):
        campaign.run(tiny, store=empty, progress=False, published=False)


def test_with_the_training_published_only_what_hangs_on_it_is_computed(tiny, finished, tmp_path, monkeypatch):
    _, store = finished
    published_copy(store, tmp_path / "part.jsonl", monkeypatch, kinds=("properties", "training", "representation"))
    empty = Store(tmp_path / "empty")
    todo = campaign.plan(tiny).todo(empty)
    assert [t.kind for t in todo] == ["training"] * 4
    with pytest.warns(UserWarning, match="trained again for: attack"):
        made = list(campaign.compute(todo[0], store=empty))
    assert [strip(r) for r in made] == [strip(store.read("attack", made[0].id))]


def test_with_a_raised_method_version_only_what_depends_on_it_is_to_do(tiny, finished, monkeypatch):
    _, store = finished
    monkeypatch.setattr(campaign, "_published_files", list)
    versions = campaign.records.METHOD_VERSIONS
    monkeypatch.setitem(versions, "attack", versions["attack"] + 1)
    left = [task.missing(store) for task in campaign.plan(tiny).todo(store)]
    assert [[kind for kind, _ in keys] for keys in left] == [["attack"]] * 4


@pytest.mark.parametrize("native", ["float32", "bfloat16"])
def test_with_precision_auto_runs_of_other_hardware_are_done(tiny, finished, monkeypatch, native):
    from intrinsic.networks import training

    _, store = finished
    monkeypatch.setattr(campaign, "_published_files", list)
    monkeypatch.setattr(training, "native_precision", lambda: native)
    assert campaign.plan(tiny.model_copy(update={"precision": "auto"})).todo(store) == []
    assert len(campaign.plan(tiny.model_copy(update={"precision": "bfloat16"})).todo(store)) == 4


def test_a_published_file_is_read_again_when_it_has_changed(tiny, finished, tmp_path, monkeypatch):
    _, store = finished
    path = tmp_path / "tiny.jsonl"
    published_copy(store, path, monkeypatch, kinds=("properties",))
    assert len(campaign.published_keys()) == 2
    published_copy(store, path, monkeypatch)
    assert len(campaign.published_keys()) == 14


def test_a_run_is_bit_for_bit_the_same_in_another_process(tiny, finished):
    _, store = finished
    task = next(t for t in campaign.plan(tiny).tasks if t.kind == "training")
    for record in campaign.compute(task):
        assert strip(record) == strip(store.read(record.kind, record.id))


def test_precision_auto_is_the_hardwares_and_reads_records_of_other_hardware(tiny, finished, monkeypatch):
    from intrinsic.networks import training

    _, store = finished
    auto = tiny.model_copy(update={"precision": "auto"})
    for native in ("float32", "bfloat16"):
        monkeypatch.setattr(training, "native_precision", lambda native=native: native)
        trained = [t for t in campaign.plan(auto).tasks if t.kind == "training"]
        assert {t.params["precision"] for t in trained} == {native}
        assert len(campaign.runs_frame(auto, store=store)) == 4
        assert campaign.missing(auto, store=store) == []
    explicit = tiny.model_copy(update={"precision": "bfloat16"})
    assert len(campaign.missing(explicit, store=store)) == 4


# ------------------------------------------------------------------------------------- comparison


@pytest.fixture
def unpublished(monkeypatch):
    monkeypatch.setattr(campaign, "_published_files", list)


@pytest.mark.usefixtures("unpublished")
def test_a_set_is_compared_at_the_setting_of_the_records_and_others_are_left_out(tiny, finished, tmp_path):
    store = Store(tmp_path / "store")
    for record in finished[1].records("properties"):
        store.write(record)
    other = tiny.model_copy(update={"size": 12, "datasets": ["slab_waves"], "runs": []})
    campaign.run(other, store=store, progress=False)
    assert campaign.stored_setting(store) == {key: getattr(tiny, key) for key in campaign.SETTING}
    found = campaign.compare("digits_4_9", store=store)
    rows = found.rows.set_index("dataset")
    assert set(rows.index) == {"digits_0_1", "torus_waves", "digits_4_9"}
    assert rows["own"].to_dict() == {"digits_0_1": False, "torus_waves": False, "digits_4_9": True}
    assert set(rows["size"]) == {tiny.size}
    ((name, why),) = found.left_out
    assert name == "slab_waves"
    assert why == "stored at size 12, and compared is size 16"
    data = campaign.measurement.matched("digits_4_9", tiny.size, 1)
    metrics, _, _ = campaign.measurement.properties(data, per_class=tiny.per_class, draws=tiny.draws, k=tiny.k)
    assert rows.loc["digits_4_9", "k_f"] == metrics["k_f"]
    below = sum(rows.loc[other, "k_f"] < metrics["k_f"] for other in ("digits_0_1", "torus_waves"))
    assert found.rank("k_f") == (below, 2)
    everything = campaign.compare("digits_4_9", unmatched=True, store=store)
    assert set(everything.rows["dataset"]) == {"digits_0_1", "torus_waves", "digits_4_9", "slab_waves"}


@pytest.mark.usefixtures("unpublished")
def test_a_set_too_small_for_the_comparison_is_refused_unless_told_otherwise(finished, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (80, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "few.npz", images=pixels, labels=np.arange(80) % 2)
    with pytest.raises(images.Unmatched, match="has 40 images, and the comparison is at M = 60"):
        campaign.compare(str(tmp_path / "few.npz"), store=finished[1])
    found = campaign.compare(str(tmp_path / "few.npz"), unmatched=True, store=finished[1])
    assert found.rows.loc[found.rows["own"], "per_class"].tolist() == [40]


def test_the_published_records_are_read_and_place_a_set_among_them(tmp_path):
    found = campaign.compare("digits_4_9", store=Store(tmp_path))
    assert {"knee_xray_oa", "cats_dogs"} <= set(found.rows["dataset"])
    assert found.rows.loc[found.rows["own"], "dataset"].tolist() == ["digits_4_9"]
    assert found.rows["per_class"].nunique() == found.rows["size"].nunique() == 1
    assert set(found.rows["dataset"]) <= {*images.catalogue()}


@pytest.mark.usefixtures("unpublished")
def test_without_records_nothing_can_be_compared(tmp_path):
    with pytest.raises(campaign.CampaignError, match=r"intrinsic run params/quick\.yaml"):
        campaign.compare("digits_4_9", store=Store(tmp_path))


# ------------------------------------------------------------------- what hangs on a training run


@pytest.fixture(scope="module")
def small(tiny):
    """One run of the tiny campaign, with everything that can hang on it."""
    block = campaign.RunBlock(models=["resnet18"], n_train=[32], seeds=[0], datasets=["digits_0_1"])
    more = {"pgd_levels": [2], "pgd_steps": 2, "radius_images": 4, "sanity_images": 4, "slope_pairs": 5}
    return tiny.model_copy(update={"datasets": ["digits_0_1"], "runs": [block], "attack_images": 10, **more})


def run_of(p):
    return next(task for task in campaign.plan(p).tasks if task.kind == "training")


def computed(task, store):
    made = {(r.kind, r.id): r for r in campaign.compute(task, store=store)}
    for record in made.values():
        store.write(record)
    return made


def test_a_run_leaves_attacks_radii_slope_and_representations(small, tmp_path):
    store = Store(tmp_path)
    made = computed(run_of(small), store)
    assert [kind for kind, _ in made] == ["training", "attack", "slope", "representation"]
    by_kind = {kind: record.metrics for (kind, _), record in made.items()}
    assert {"loss_penalty_nats_eps2", "loss_penalty_nats_pgd_eps2", "radius_l2_median", "sanity_accuracy_rise"} <= set(
        by_kind["attack"]
    )
    assert by_kind["attack"]["loss_penalty_nats_pgd_eps2"] >= by_kind["attack"]["loss_penalty_nats_eps2"] - 1e-6
    assert (
        by_kind["slope"]["slope_ratio"]
        >= by_kind["slope"]["slope_lower_bound"] / by_kind["slope"]["slope_label_sharpness"] - 1e-6
    )
    assert by_kind["representation"]["d_repr_low"] < by_kind["representation"]["d_repr"]


@pytest.mark.parametrize("weights", [pytest.param("none", marks=pytest.mark.long), "kept"])
def test_a_changed_attack_is_computed_from_kept_weights_or_by_training_again(small, tmp_path, weights):
    p = small.model_copy(update={"weights": weights, "slope_pairs": 0, "sanity_images": 0})
    store = Store(tmp_path)
    first = computed(run_of(p), store)
    task = run_of(p.model_copy(update={"radius_images": 3}))
    if weights == "none":
        with pytest.warns(UserWarning, match="its weights are gone, so it is trained again for: attack"):
            again = computed(task, store)
    else:
        again = computed(task, store)
    ((kind, _),) = again
    assert kind == "attack"
    (record,) = again.values()
    assert record.provenance.get("retrained", False) == (weights == "none")
    before = next(r for (k, _), r in first.items() if k == "attack")
    shared = set(before.metrics) & set(record.metrics) - {m for m in before.metrics if "radius" in m}
    assert {m: record.metrics[m] for m in shared} == {m: before.metrics[m] for m in shared}
    assert task.done(store)


def test_damaged_weights_are_told_and_trained_again(small, tmp_path):
    p = small.model_copy(update={"weights": "kept", "slope_pairs": 0, "sanity_images": 0})
    store = Store(tmp_path)
    computed(run_of(p), store)
    file = store.weights(run_of(p).keys[0][1])
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged.*; it is trained again"):
        computed(run_of(p.model_copy(update={"grey_levels": [2]})), store)


def test_the_papers_protocol_is_one_line(tiny):
    block = campaign.RunBlock(models=["resnet18", "vgg13"], n_train=[32], seeds=[0], datasets=["digits_0_1"])
    more = {"protocol": "paper", "precision": "auto", "size": 32}
    p = tiny.model_copy(update={"datasets": ["digits_0_1"], "runs": [block], **more})
    resnet, vgg = (task.params for task in campaign.plan(p).tasks if task.kind == "training")
    assert [one["batch_size"] for one in (resnet, vgg)] == [40, 6]
    assert [one["learning_rate"] for one in (resnet, vgg)] == [1e-3, 1e-4]
    for one in (resnet, vgg):
        assert (one["until"], one["epochs"], one["precision"], one["min_steps"]) == ("epochs", 100, "float32", None)


def test_a_block_can_ask_for_radii_and_the_first_that_names_a_run_counts(tiny):
    def block(n, **more):
        return campaign.RunBlock(models=["resnet18"], n_train=n, seeds=[0], datasets=["digits_0_1"], **more)

    p = tiny.model_copy(update={"datasets": ["digits_0_1"], "runs": [block([32], radius_images=5), block([32, 64])]})
    tasks = [task for task in campaign.plan(p).tasks if task.kind == "training"]
    assert [task.settings["attack"][0]["radius_images"] for task in tasks] == [5, 0]


def test_every_block_of_a_network_has_a_representation_record(small, tmp_path):
    p = small.model_copy(update={"layers": "blocks", "slope_pairs": 0, "radius_images": 0, "sanity_images": 0})
    made = computed(run_of(p), Store(tmp_path))
    layers = [record.params["layer"] for (kind, _), record in made.items() if kind == "representation"]
    assert layers == ["layer4", "layer1", "layer2", "layer3", "avgpool"]


def test_weights_to_start_from_are_known_by_their_content(small, tmp_path):
    from intrinsic.networks import checkpoints, models

    file = tmp_path / "start.safetensors"
    checkpoints.save_weights(models.create("resnet18", channels=1, seed=5), file)
    ids = [run_of(small).keys[0]]
    for name in ("start.safetensors", "renamed.safetensors"):
        (tmp_path / name).write_bytes(file.read_bytes())
        ids.append(run_of(small.model_copy(update={"pretrained": str(tmp_path / name)})).keys[0])
    assert ids[0] != ids[1] == ids[2]
    with pytest.raises(campaign.CampaignError, match=r"pretrained: .*cannot be read"):
        campaign.plan(small.model_copy(update={"pretrained": str(tmp_path / "none")}))


def test_workers_elsewhere_learn_where_image_sets_are(tmp_path, monkeypatch):
    mine = tmp_path / "mine.yaml"
    entry = "title: t\n  domain: unknown\n  adapter: npz\n  about: a\n  beware: b\n  source: s\n  licence: l\n"
    mine.write_text(f"scans:\n  location: ${{MY_SCANS}}/x.npz\n  {entry}")
    monkeypatch.setenv("INTRINSIC_CATALOGUE", os.path.relpath(mine))
    monkeypatch.setenv("MY_SCANS", str(tmp_path))
    monkeypatch.setenv("MY_OTHERS", "no concern")
    monkeypatch.delenv("INTRINSIC_DATA", raising=False)
    found = campaign._environment(["scans", "digits", "some/folder"])
    assert sorted(found) == ["INTRINSIC_CATALOGUE", "MY_SCANS"]
    assert found["MY_SCANS"] == str(tmp_path)
    assert os.path.isabs(found["INTRINSIC_CATALOGUE"])
    assert mine.samefile(found["INTRINSIC_CATALOGUE"])
    monkeypatch.setenv("INTRINSIC_CATALOGUE", str(mine))
    monkeypatch.chdir(tmp_path)
    assert campaign._absolute("some/folder") == str(tmp_path / "some" / "folder")
    assert campaign._absolute("scans") == "scans"
