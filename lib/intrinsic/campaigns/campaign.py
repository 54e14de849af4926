"""A parameter file -> a grid of runs -> records -> tidy frames.

A campaign measures the properties of every image set, then trains the networks of its grid; each
training run also yields an attack record and a representation record. What is stored is never
computed again: a campaign can be stopped at any moment, killed included, and started again.
Runs are shared among processes of one thread each, so that numbers do not depend on how many work.
"""

import hashlib
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from intrinsic import images
from intrinsic.campaigns import engine, records
from intrinsic.campaigns.records import Record, RecordError, Store
from intrinsic.networks import attacks, checkpoints, models, representations, slope, training
from intrinsic.properties import measurement

QUICK_RUNS = [
    {"models": ["vgg13"], "n_train": [64], "seeds": [0], "datasets": ["digits", "digits_4_9"]},
    {"models": ["resnet18"], "n_train": [64, 128, 256], "seeds": [0, 1]},
]
QUICK_SETS = [
    "digits",
    "digits_4_9",
    "photo_patches",
    "brain_mri_patches",
    "torus_waves",
    "slab_waves",
]


MOST = 10**9  # steps, epochs or images that a parameter file may ask for
SLOPE_POINTS = 16  # parts of a segment on which a network's slope is searched


class CampaignError(ValueError):
    """A parameter file, a grid or a store that cannot be used."""


NETWORKS = f"networks: {', '.join(models.MODELS)}, and others of torchvision by name"


class RunBlock(BaseModel):
    """One block of the grid: every model x image set x size x seed in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    models: list[str] = Field(min_length=1, description=NETWORKS)
    n_train: list[int] = Field(min_length=1, description="training images in total, balanced over the classes")
    seeds: list[int] = Field(default=[0], min_length=1, description="seeds: split, first weights and order of images")
    datasets: list[str] | None = Field(default=None, min_length=1, description="image sets; null: all of the campaign")
    radius_images: int | None = Field(
        default=None, ge=0, le=MOST, description="as the campaign's, for this block; null: its"
    )

    @field_validator("models")
    @classmethod
    def _known(cls, names):
        for name in names:
            models.known(name)
        return names

    @field_validator("n_train", "seeds")
    @classmethod
    def _enough(cls, values, info):
        least, most, why = {
            "n_train": (2, MOST, "images are not one for each of two classes, so give 2 or more"),
            "seeds": (0, 2**63 - 1, "starts no random order, so give whole numbers from 0"),
        }[info.field_name]
        if min(values) < least:
            raise ValueError(f"{min(values)} {why}")
        if max(values) > most:
            raise ValueError(f"{max(values)} is more than can be computed with, so give {most} or less")
        return values


class Params(BaseModel):
    """Every key of a parameter file; the defaults are those of params/quick.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(default="quick", pattern=r"^[A-Za-z0-9_-]+$", description="the campaign's name")
    datasets: list[str] = Field(
        default=QUICK_SETS,
        min_length=1,
        description="catalogue names, or paths, relative to where the command is started",
    )
    dataset: str = Field(default="digits", description="the one image set of a dataset report")
    runs: list[RunBlock] = Field(default=QUICK_RUNS, validate_default=True, description="blocks of the grid")
    size: int = Field(default=32, ge=8, le=1024, description="pixels a side, for all sets")
    channels: Literal[1, 3] = Field(default=1, description="channels, for all sets")
    pixel_range: Literal["stored", "image"] = Field(
        default="stored", description="grey levels as in the files, or each image's maximum at 255; for all sets"
    )
    per_class: int = Field(default=250, ge=2, le=MOST, description="M, images a class for d_data and K_F")
    draws: int = Field(default=25, ge=1, le=MOST, description="balanced draws of M a class that are averaged")
    k: int = Field(default=20, ge=2, le=MOST, description="neighbors of the maximum-likelihood dimension")
    torus_dimension: int = Field(default=5, ge=1, le=20, description="true dimension of the clouds on methods pages")
    n_points: int = Field(default=1000, ge=200, le=20_000, description="images or points of an experiment")
    simulations: int = Field(default=10, ge=2, le=1000, description="clouds of each kind averaged on methods pages")
    protocol: Literal["fit", "paper"] = Field(
        default="fit", description="of training: this book's, or the paper's (100 epochs, its batches, float32)"
    )
    until: Literal["fit", "epochs"] = Field(default="fit", description="train until fit, or `epochs` epochs")
    epochs: int = Field(
        default=100, ge=1, le=MOST, description="epochs where until = epochs; the cap where until = fit"
    )
    min_steps: int = Field(default=1500, ge=1, le=MOST, description="optimizer steps before 'did not fit'")
    warmup_steps: int | None = Field(
        default=None,
        ge=0,
        le=MOST,
        description="steps over which the learning rate rises; null: the network's, 0 or 2000",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the products in training; auto: bfloat16 where the hardware has it"
    )
    augment: Literal["none", "flip", "shift", "shift-flip"] = Field(
        default="none", description="random changes of the images of each training step"
    )
    class_weights: Literal["none", "balanced"] = Field(default="none", description="of the training loss")
    pretrained: str | None = Field(default=None, description="a file of weights to start from; null: random ones")
    checkpoint_minutes: float = Field(default=2, ge=0, description="between two checkpoints of a run in training")
    weights: Literal["none", "kept"] = Field(default="none", description="whether trained networks stay on disk")
    grey_levels: list[int] = Field(default=[1, 2, 4, 8], min_length=1, description="attack budgets, L-infinity, of 255")
    grey_level: int = Field(default=2, description="the budget of the primary test, one of grey_levels")
    attack_images: int = Field(default=200, ge=2, le=MOST, description="test images attacked")
    pgd_levels: list[int] = Field(default=[], description="budgets of PGD, L-infinity, of 255")
    pgd_steps: int = Field(default=20, ge=1, le=MOST, description="gradients of PGD for each image and budget")
    radius_images: int = Field(
        default=0, ge=0, le=MOST, description="test images whose minimal adversarial radius is found"
    )
    sanity_images: int = Field(default=4, ge=0, le=MOST, description="test images of the attacks' sanity checks")
    slope_pairs: int = Field(
        default=0, ge=0, le=MOST, description="segments between labels on which the slope is measured"
    )
    layers: Literal["paper", "blocks"] = Field(default="paper", description="of d_repr: the paper's, or every block")
    fitted_only: bool = Field(default=True, description="claims use fitted runs only")
    compute: bool = Field(default=False, description="a notebook trains what is missing")
    workers: int | None = Field(
        default=None, ge=1, description="processes of one thread; null: one a GPU, else one a core"
    )
    clouds: list[Annotated[int, Field(ge=1)]] = Field(
        default=[2, 4, 8], min_length=1, description="dimensions of constructed clouds"
    )
    gap: float = Field(default=0.3, gt=0, le=10, description="distance between constructed classes, sides are 1")
    sizes: list[Annotated[int, Field(ge=1)]] = Field(
        default=[8, 12, 16, 24], min_length=1, description="pixels a side to compare"
    )
    pixel_noise: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default=[0, 4, 8, 16, 32], min_length=1, description="noise, grey levels"
    )
    label_noise: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default=[0, 0.01, 0.05, 0.2], min_length=1, description="shares of wrong labels"
    )
    near_copies: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 5, 25], min_length=1, description="near-copies across classes, a class"
    )

    plan: dict[str, Any] = Field(default={}, description="what is stated before the runs; it changes none of them")

    @field_validator("grey_levels", "pgd_levels")
    @classmethod
    def _of_255(cls, levels):
        wrong = [level for level in levels if not 0 <= level <= 255]
        if wrong:
            raise ValueError(f"{wrong[0]} is no budget of images of 255 grey levels, so give numbers from 0 to 255")
        return levels

    @field_validator("grey_level")
    @classmethod
    def _budget(cls, level, info):
        if level not in info.data.get("grey_levels", [level]):
            raise ValueError(f"grey_level {level} is not one of grey_levels {info.data['grey_levels']}")
        return level

    @model_validator(mode="after")
    def _can_be_computed(self):
        """The default blocks are checked when they are planned: a page may take other parameters alone."""
        if why := _never(self, self.runs if "runs" in self.model_fields_set else []):
            raise ValueError(why)
        return self


def _never(p: Params, blocks: list[RunBlock]) -> str:
    """Why some tasks of these blocks fail whatever two classes the images are of, or a key changes nothing; or ""."""
    if p.protocol == "paper" and p.warmup_steps:
        return (
            f"warmup_steps = {p.warmup_steps}, and the protocol 'paper' trains at its whole rate from the first step: "
            "give protocol: fit or leave warmup_steps out"
        )
    if p.k >= 2 * p.per_class:
        return (
            f"k = {p.k} neighbors are not among {2 * p.per_class} images, per_class = {p.per_class} of each of two "
            "classes, so no dimension could be measured: give a smaller k or a larger per_class"
        )
    runs = "runs" if "runs" in p.model_fields_set else "the default runs"
    for i, block in enumerate(blocks, 1):
        if p.k >= min(block.n_train):
            return (
                f"k = {p.k} neighbors are not among the n_train = {min(block.n_train)} training images of block {i} of "
                f"{runs}, so no dimension could be measured on them: give a smaller k or a larger n_train"
            )
        for model in block.models:
            if p.size < (least := models.smallest_size(model)):
                return (
                    f"size = {p.size}, and {model} in block {i} of {runs} reads images of {least} pixels a side at "
                    "least, so its runs would all fail: give a larger size or another network"
                )
    return ""


def _place(loc: tuple) -> str:
    """Where in a parameter file: ("runs", 1, "seeds", 0) is `block 2 of runs: seeds: entry 1`."""
    parts = list(loc)
    if len(parts) > 1 and parts[0] == "runs" and isinstance(parts[1], int):
        parts[:2] = [f"block {parts[1] + 1} of runs"]
    return ": ".join(f"entry {part + 1}" if isinstance(part, int) else str(part) for part in parts)


def _sentence(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    loc, found = first["loc"], first["input"]
    if first["type"] in ("extra_forbidden", "missing"):
        *outside, key = loc
        inside = f"{where}: {_place(outside)}" if outside else where
        if first["type"] == "missing":
            return f"{inside}: {key} is missing, so it is not known what to run; give it"
        return (
            f"{inside}: '{key}' is not a parameter, so it would change nothing; "
            f"the parameters are {', '.join((RunBlock if outside else Params).model_fields)}"
        )
    said = first["msg"].removeprefix("Value error, ")
    if not loc:
        return f"{where}: {said}"
    if first["type"] == "model_type":
        said = "a block holds `key: value` lines, as in params/quick.yaml"
    elif first["type"] == "too_short":
        said = "it is empty, so nothing would be computed for it; give at least one"
    return f"{where}: {_place(loc)}: {said} (found {found!r})"


def read(path: Path | str) -> Params:
    """The parameters of a YAML file. Raises CampaignError, one sentence, for unknown, repeated and wrong ones."""
    path = Path(path)
    try:
        body = images.plain_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(str(p.relative_to(images.REPOSITORY)) for p in _parameter_files())
        raise CampaignError(f"there is no parameter file {path}; this book has {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{path} cannot be read as a parameter file: {error}") from None
    except yaml.YAMLError as error:
        raise CampaignError(
            f"{path} is not valid YAML ({images.yaml_reason(error)}), so it is not clear what is asked for; correct it"
        ) from None
    if not isinstance(body, dict):
        raise CampaignError(f"{path} must hold `key: value` lines, as params/quick.yaml does")
    if wrong := [key for key in body if not isinstance(key, str)]:
        raise CampaignError(
            f"{path}: {wrong[0]!r} is not a parameter, so it would change nothing; "
            f"the parameters are {', '.join(Params.model_fields)}"
        )
    try:
        return Params(**body)
    except ValidationError as error:
        raise CampaignError(_sentence(error, str(path))) from None


def _parameter_files() -> list[Path]:
    folder = images.REPOSITORY / "params"
    return sorted(p for p in folder.glob("*.yaml") if p.name not in ("datasets.yaml", "claims.yaml", "further.yaml"))


def params(**keys) -> Params:
    """Parameters from keywords, as the notebooks call it; unknown keys are refused."""
    try:
        return Params(**keys)
    except ValidationError as error:
        raise CampaignError(_sentence(error, "parameters")) from None


def default_store() -> Store:
    """The working store: `_build/records` of the repository, or the folder in INTRINSIC_STORE.

    Raises RecordError where that is no folder.
    """
    store = Store(os.environ.get("INTRINSIC_STORE") or images.REPOSITORY / "_build" / "records")
    if store.root.exists() and not store.root.is_dir():
        raise RecordError(f"{store.root} is a file, so it holds no records: name a folder in INTRINSIC_STORE")
    return store


# --------------------------------------------------------------------------- image sets of a campaign


def _set_name(source) -> str:
    if isinstance(source, images.Entry):
        return source.name if source.about else source.title  # as ImageSet.name
    if source in images.catalogue():
        return source
    return images.name_of(Path(source).expanduser())


def _check_names(sources) -> None:
    """Raises CampaignError where two sources have one name in records, which does not tell them apart."""
    first: dict[str, str] = {}
    for source in sources:
        name = _set_name(source)
        if first.setdefault(name, source) != source:
            raise CampaignError(
                f"the image sets {first[name]} and {source} are both {name!r} in records, so numbers of one would be "
                "taken for the other's: leave one out if they are the same, else rename it, or name it in a catalogue"
            )


def _family(source) -> str:
    """Sets made of the same pictures are one family, which statistics count once."""
    entry = source if isinstance(source, images.Entry) else images.catalogue().get(source)
    return (entry.family if entry else "") or _set_name(source)


# --------------------------------------------------------------------------------------- the grid


@dataclass(frozen=True)
class Task:
    """One unit of work; `keys` are the records it leaves, the first one being what it is named after."""

    kind: str
    source: str
    params: dict
    keys: tuple[tuple[str, str], ...]
    settings: dict = field(default_factory=dict)  # kind: params of each record that hangs on the training run
    run: dict = field(default_factory=dict)  # how it is computed, which changes no number
    others: tuple[tuple[tuple[str, str], ...], ...] = ()  # keys of the same run at the precision of other hardware

    @property
    def label(self) -> str:
        p = self.params
        if self.kind == "properties":
            return f"properties {p['dataset']}"
        return run_label(p["model"], p["dataset"], p["n_train"], p["seed"])

    def done(self, store: Store, published: Collection = frozenset(), damaged: Collection = frozenset()) -> bool:
        """Whether all its records are stored, or among the published keys; at any precision where it is automatic.

        damaged   keys of stored records that cannot be read
        """

        def there(key):
            return key in published or (key not in damaged and key in store)

        return any(all(map(there, keys)) for keys in (self.keys, *self.others))

    @property
    def ways(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Keys that are to be stored, at each precision that serves; without those that are published."""
        published = self.run.get("published", ())
        own = tuple(key for key in self.keys if key not in published)
        return (own or self.keys, *self.others)

    def missing(self, store: Store | None) -> list[tuple[str, str]]:
        """Its keys that are neither stored nor, when it was planned to run, published."""
        published = self.run.get("published", ())
        return [key for key in self.keys if key not in published and (store is None or key not in store)]


@dataclass(frozen=True)
class Plan:
    tasks: tuple[Task, ...]
    unreachable: tuple[tuple[str, str], ...]  # (label, reason)
    incomparable: tuple[tuple[str, str], ...] = ()  # (image set, reason) of those with too few images for M a class

    def todo(self, store: Store, *, published: bool = True) -> list[Task]:
        """What is left to compute, in order; each task names those of its records that are published.

        published   whether records in book/records count as stored
        Stored records that cannot be read count as missing.
        """
        return self.left(store, published=published, unread=damaged(self.tasks, store))

    def left(self, store: Store, *, published: bool = True, unread: Collection = frozenset()) -> list[Task]:
        """As todo, where it is known already which stored records cannot be read."""
        known = published_keys() if published else frozenset()
        left = [task for task in self.tasks if not task.done(store, known, unread)]
        named = ((task, tuple(key for key in task.keys if key in known)) for task in left)
        return [replace(task, run={**task.run, "published": keys}) if keys else task for task, keys in named]


def damaged(tasks, store: Store) -> frozenset[tuple[str, str]]:
    """Keys of tasks whose stored records cannot be read, which count as missing; with one warning that counts them.

    Raises records.OtherSchema: what another version of this package wrote is no damage.
    """
    found = {}
    for key in dict.fromkeys(key for task in tasks for keys in (task.keys, *task.others) for key in keys):
        try:
            store.read(*key)
        except FileNotFoundError:
            continue
        except records.OtherSchema:
            raise
        except RecordError:
            found[key] = store.path(*key)
    if found:
        first = next(iter(found.values()))
        warnings.warn(
            f"stored records that cannot be read and count as missing: {len(found)}, the first: {first}; "
            "`intrinsic run` computes them anew",
            stacklevel=2,
        )
    return frozenset(found)


def _properties_wanted(p: Params, source: str) -> dict:
    return {
        "dataset": _set_name(source),
        "size": p.size,
        "channels": p.channels,
        "pixel_range": p.pixel_range,
        "per_class": p.per_class,
        "draws": p.draws,
        "k": p.k,
        "seed": 0,
        "method_version": records.METHOD_VERSIONS["properties"],
    }


def _warmup(p: Params, model: str) -> int:
    """Steps over which the rate rises; the paper's protocol has none."""
    if p.protocol == "paper":
        return 0
    return models.default_warmup_steps(model) if p.warmup_steps is None else p.warmup_steps


def _training_wanted(p: Params, source, model: str, n_train: int, seed: int) -> dict:
    wanted = {
        "dataset": _set_name(source),
        "size": p.size,
        "channels": p.channels,
        "pixel_range": p.pixel_range,
        "model": model,
        "n_train": n_train,
        "seed": seed,
        "protocol": p.protocol,
        "until": p.until,
        "epochs": p.epochs,
        "min_steps": p.min_steps if p.until == "fit" else None,
        "batch_size": models.default_batch_size(model),
        "learning_rate": models.default_learning_rate(model),
        "weight_decay": models.PAPER_WEIGHT_DECAY,
        "precision": training.native_precision() if p.precision == "auto" else p.precision,
        "augment": p.augment,
        "class_weights": p.class_weights,
        "pretrained": None if p.pretrained is None else _file_hash(p.pretrained),
        "method_version": records.METHOD_VERSIONS["training"],
    }
    if warmup := _warmup(p, model):
        wanted["warmup_steps"] = warmup  # where there is none, no key: records from before it are of the same setting
    if p.protocol == "paper":
        theirs = training.protocol("paper", model, _parent(source))
        wanted |= {key: theirs[key] for key in ("until", "epochs", "batch_size", "learning_rate", "weight_decay")}
        wanted |= {"min_steps": None, "precision": "float32" if p.precision == "auto" else p.precision}
    return wanted


@lru_cache
def _hash_of(path: str, stamp: tuple) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _file_hash(path: str) -> str:
    """What identifies a file of weights, whatever its name."""
    try:
        stat = Path(path).stat()
        return _hash_of(path, (stat.st_mtime_ns, stat.st_size))
    except OSError as error:
        raise CampaignError(
            f"pretrained: {path} cannot be read ({error.strerror}), so no network could start from it; give a file "
            "of weights, or null"
        ) from None


def _parent(source) -> str:
    """The entry that a pair of classes was made from, or the set itself."""
    entry = source if isinstance(source, images.Entry) else images.catalogue().get(source)
    return (entry.parent if entry else "") or _set_name(source)


def _attack_wanted(p: Params, radius_images: int | None = None) -> dict:
    return {
        "attack": "fgsm",
        "grey_levels": list(p.grey_levels),
        "n_images": p.attack_images,
        "pgd_levels": list(p.pgd_levels),
        "pgd_steps": p.pgd_steps if p.pgd_levels else None,
        "radius_images": p.radius_images if radius_images is None else radius_images,
        "sanity_images": p.sanity_images,
        "method_version": records.METHOD_VERSIONS["attack"],
    }


#: what of an attack record a page of FGSM needs; the rest adds numbers and changes none of these
FGSM_KEYS = ("attack", "grey_levels", "n_images", "method_version")


def _representation_wanted(p: Params, model: str, layer: str | None = None) -> dict:
    return {
        "layer": models.representation_layer(model) if layer is None else layer,
        "k": p.k,
        "method_version": records.METHOD_VERSIONS["representation"],
    }


def _slope_wanted(p: Params) -> dict:
    return {"pairs": p.slope_pairs, "points": SLOPE_POINTS, "method_version": records.METHOD_VERSIONS["slope"]}


@lru_cache
def _layers(model: str, which: str) -> tuple[str, ...]:
    """Names of the layers whose dimension is measured: the paper's first."""
    paper = models.representation_layer(model)
    if which == "paper":
        return (paper,)
    network = models.create(model, channels=3)
    return (paper, *(name for name in representations.blocks(network) if name != paper))


def cells(p: Params) -> dict[tuple, int | None]:
    """{(source, model, n_train, seed): radius_images of its block}, in the order of the file; the first one counts.

    Raises CampaignError where two image sets of the campaign have one name.
    """
    found: dict[tuple, int | None] = {}
    for block in p.runs:
        for source in block.datasets if block.datasets is not None else p.datasets:
            for model in block.models:
                for seed in block.seeds:
                    for n_train in block.n_train:
                        found.setdefault((source, model, n_train, seed), block.radius_images)
    _check_names(dict.fromkeys([*p.datasets, *(source for source, *_ in found)]))
    return found


def run_label(model: str, dataset: str, n_train: int, seed: int) -> str:
    """What a run is called in messages and in files."""
    return f"{model} {dataset} N={n_train} seed={seed}"


def run_labels(p: Params) -> list[str]:
    """The run_label of every cell, in the order of the file."""
    return [run_label(model, _set_name(source), n_train, seed) for source, model, n_train, seed in cells(p)]


def _sources(p: Params) -> list[str]:
    return list(dict.fromkeys([*p.datasets, *(source for source, *_ in cells(p))]))


def absent(p: Params) -> dict[str, str]:
    """{image set: where it is} of the campaign's sets that cannot be read on this machine now."""
    entries = {source: images.catalogue().get(source) for source in _sources(p) if isinstance(source, str)}
    return {source: entry.whereabouts() for source, entry in entries.items() if entry and not entry.present()}


def without(p: Params, sources) -> Params:
    """The campaign without some of its image sets."""

    def left(names):
        return [name for name in names if name not in sources]

    blocks = [block.model_copy(update={"datasets": left(block.datasets or p.datasets)}) for block in p.runs]
    return p.model_copy(update={"datasets": left(p.datasets), "runs": [block for block in blocks if block.datasets]})


def gpu_hours(p: Params, teraflops: float) -> float:
    """Hours of one GPU that trains at `teraflops` 10^12 operations a second: an estimate from the networks alone.

        sum over runs of  3 operations(model) n_train epochs / rate

    A backward pass takes twice the operations of a forward pass. Attacks and dimensions come on top; a run until fit
    counts with the epochs of its cap, so this is the most that it takes: p.epochs or, where these are more, as many
    as p.min_steps or the warm-up's steps make, steps / ceil(n_train / batch) rounded up. Raises CampaignError for a
    rate that is not above 0.
    """
    if not teraflops > 0:
        raise CampaignError(f"a GPU that trains at {teraflops:g} TFLOP/s never finishes, so give a rate above 0")
    each = lru_cache(lambda model: models.operations(model, size=p.size, channels=p.channels))

    def epochs(model, n):
        if p.protocol == "paper":
            return models.PAPER_EPOCHS
        steps = math.ceil(n / models.default_batch_size(model))
        least = max(p.min_steps, _warmup(p, model))
        return max(p.epochs, math.ceil(least / steps)) if p.until == "fit" else p.epochs

    return sum(3 * each(model) * n * epochs(model, n) for _, model, n, _ in cells(p)) / (3600e12 * teraflops)


def _precisions(p: Params, wanted: dict) -> list[str]:
    """Precisions whose records serve: the one that is wanted and, where it is automatic, that of other hardware."""
    found = [wanted["precision"]]
    if p.precision == "auto":
        found += [other for other in ("float32", "bfloat16") if other not in found]
    return found


def _announced(keys: dict, hanging: dict) -> tuple[dict, tuple[tuple[str, str], ...]]:
    """(params by kind of the records that hang on a training run of these keys, all ids with its own first)."""
    parent = records.record_id("training", keys)
    settings = {kind: [{**one, "parent": parent} for one in all_] for kind, all_ in hanging.items()}
    ids = [(kind, records.record_id(kind, one)) for kind, all_ in settings.items() for one in all_]
    return settings, (("training", parent), *ids)


def plan(p: Params) -> Plan:
    """All tasks of a campaign with the ids of their records, the runs and the M that a set cannot reach.

    Raises CampaignError where tasks can only fail: k is not below their number of images, or a network
    cannot read images of this size; and where two image sets have one name.
    """
    if why := _never(p, p.runs):
        raise CampaignError(f"{p.name}: {why}")
    tasks, unreachable, incomparable = [], [], []
    grid = cells(p)
    for source in _sources(p):
        data = measurement.matched(source, p.size, p.channels, p.pixel_range)
        if why := _too_few(data, p.per_class):
            incomparable.append((_set_name(source), why))
        keys = {**_properties_wanted(p, source), "image_hash": data.hash}
        id = records.record_id("properties", keys)
        tasks.append(Task("properties", source, keys, (("properties", id),)))
        split_hashes = {}
        for _, model, n_train, seed in (cell for cell in grid if cell[0] == source):
            wanted = _training_wanted(p, source, model, n_train, seed)
            if (n_train, seed) not in split_hashes:
                try:
                    split = images.split(data.images, n_train, seed, groups=data.groups)
                    split_hashes[n_train, seed] = split.hash
                except images.TooFewImages as error:
                    split_hashes[n_train, seed] = error
            split_hash = split_hashes[n_train, seed]
            if isinstance(split_hash, Exception):
                unreachable.append((Task("training", source, wanted, ()).label, str(split_hash)))
                continue
            keys = {**wanted, "image_hash": data.hash, "split_hash": split_hash}
            hanging = {"attack": [_attack_wanted(p, grid[source, model, n_train, seed])]}
            hanging["representation"] = [_representation_wanted(p, model, layer) for layer in _layers(model, p.layers)]
            if p.slope_pairs and data.images.n_classes == 2:
                hanging["slope"] = [_slope_wanted(p)]
            (settings, ids), *others = (
                _announced({**keys, "precision": precision}, hanging) for precision in _precisions(p, wanted)
            )
            run = {key: getattr(p, key) for key in ("checkpoint_minutes", "weights", "pretrained")}
            tasks.append(Task("training", source, keys, ids, settings, run, tuple(ids for _, ids in others)))
    order = {cell: i for i, cell in enumerate(grid)}
    tasks.sort(
        key=lambda t: (
            (0, 0)
            if t.kind == "properties"
            else (1, order[t.source, t.params["model"], t.params["n_train"], t.params["seed"]])
        )
    )
    return Plan(tuple(tasks), tuple(unreachable), tuple(incomparable))


def _too_few(data: measurement.Matched, per_class: int) -> str:
    """Why an image set has no K_F at M images a class, and what to do; "" where it has one."""
    name, least = images.smallest_class(measurement.without_conflicts(data))
    if least >= per_class:
        return ""
    more = f"set per_class: {least} or less in the parameter file" if least > 1 else "give that class more images"
    return (
        f"class {name!r} has {least} images, fewer than per_class {per_class}: without K_F at M = {per_class} a class "
        f"the set is neither compared nor forecast; {more}"
    )


# ------------------------------------------------------------------------------------- the numbers


def _properties(task: Task, progress=None) -> list[Record]:
    p = task.params
    data = measurement.matched(task.source, p["size"], p["channels"], p["pixel_range"])
    started = time.perf_counter()
    metrics, reasons, series = measurement.properties(
        data, per_class=p["per_class"], draws=p["draws"], k=p["k"], seed=p["seed"]
    )
    facts = records.provenance(seconds=time.perf_counter() - started, domain=data.images.domain)
    return [Record("properties", p, *records.finite(metrics, reasons), series, facts)]


def representation_dimensions(found, prefixes) -> tuple[dict, dict]:
    """(metrics, reasons) of LayerDimensions under their prefixes; null with a reason where copies forbid a value."""
    metrics, reasons = {}, {}
    for prefix, one in zip(prefixes, found, strict=True):
        metrics |= {prefix: one.mle, f"{prefix}_twonn": one.twonn}
        if one.mle is not None:
            metrics |= {f"{prefix}_low": one.mle.low, f"{prefix}_high": one.mle.high}
        reasons |= {f"{prefix}{'' if name == 'mle' else '_twonn'}": why for name, why in one.reasons.items()}
    return metrics, reasons


REPRESENTATIONS = ("d_repr", "d_data_same_images", "d_repr_untrained", "d_repr_random_map")


def _representations(network, task: Task, layers: list[str], x, train_set) -> Iterator[tuple[str, dict, dict]]:
    """(layer, metrics, reasons) of each layer: d_repr, d_data of the same images, and the two null maps, one k.

    The nulls are an untrained network of the same architecture and a random linear map of the same width.
    """
    p = task.params
    k = task.settings["representation"][0]["k"]
    points, group = train_set.images.reshape(len(train_set), -1), train_set.group
    data = representations.points_dimension("pixels", points, k, group)
    untrained = _network(task, len(train_set.classes))
    each = (representations.dimensions(one, x, layers, k, group=group) for one in (network, untrained))
    for trained, before in zip(*each, strict=True):
        mapped = representations.random_linear_map(points, trained.width, p["seed"])
        null = representations.points_dimension("random map", mapped, k, group)
        metrics, reasons = representation_dimensions((trained, data, before, null), REPRESENTATIONS)
        yield trained.layer, {"width": trained.width, "n_images": len(x), **metrics}, reasons


def _network(task: Task, n_classes: int):
    """The network of a task before training."""
    p = task.params
    network = models.create(p["model"], channels=p["channels"], n_classes=n_classes, seed=p["seed"])
    if p["pretrained"] is not None:
        checkpoints.load_weights(network, task.run["pretrained"], ours=False)
    return network


def _trained(task: Task, x, y, n_classes: int, store: Store | None, progress):
    """(trained network, TrainingResult or None, provenance).

    Kept weights serve where the training record is stored; else the network is trained, from its last checkpoint
    where there is one. A network that is trained again because its weights are gone says so.
    """
    p = task.params
    parent = task.keys[0][1]
    network = _network(task, n_classes)
    left = task.missing(store)
    stored = store is not None and task.keys[0] not in left
    if stored and (file := store.weights(parent)).exists():
        try:
            checkpoints.load_weights(network, file)
            network.eval()
            return network, None, {"weights": "kept"}
        except (checkpoints.DamagedFile, checkpoints.BadWeights) as error:
            warnings.warn(f"{task.label}: {error}; it is trained again", stacklevel=2)
            checkpoints.discard(file)
    if stored:
        missing = ", ".join(sorted({kind for kind, _ in left}))
        warnings.warn(f"{task.label}: its weights are gone, so it is trained again for: {missing}", stacklevel=2)
    result = training.train(
        network,
        x,
        y,
        until=p["until"],
        epochs=p["epochs"],
        min_steps=p["min_steps"] or 0,
        batch_size=p["batch_size"],
        learning_rate=p["learning_rate"],
        warmup_steps=p.get("warmup_steps", 0),
        weight_decay=p["weight_decay"],
        seed=p["seed"],
        precision=p["precision"],
        checkpoint=None if store is None else store.checkpoint(parent),
        checkpoint_minutes=task.run.get("checkpoint_minutes", 2),
        progress=progress,
    )
    return network, result, {"retrained": True} if stored else {}


def _training(task: Task, progress: Callable | None = None, store: Store | None = None) -> Iterator[Record]:
    """The records of a training run that are not stored, as they come: its own, attacks, representations, slope."""
    p = task.params
    data = measurement.matched(task.source, p["size"], p["channels"], p["pixel_range"])
    split = images.split(data.images, p["n_train"], p["seed"], groups=data.groups)
    train_set, test_set = data.images[split.train], data.images[split.test]
    x, y = images.as_unit(train_set), train_set.labels
    x_test, y_test = images.as_unit(test_set), test_set.labels
    todo = task.missing(store)
    started = time.perf_counter()
    network, result, how = _trained(task, x, y, len(data.images.classes), store, progress)
    if task.keys[0] in todo:
        yield _training_record(task, data, split, result, network, (x_test, y_test), time.perf_counter() - started)
    if store is not None and task.run.get("weights") == "kept" and how.get("weights") != "kept":
        checkpoints.save_weights(network, store.weights(task.keys[0][1]), {"parent": task.keys[0][1]})

    for wanted in task.settings["attack"]:
        if ("attack", records.record_id("attack", wanted)) not in todo:
            continue
        started = time.perf_counter()
        n = wanted["n_images"]  # the test set alternates between the classes, so its beginning is balanced
        found = attacks.record_metrics(
            network,
            x_test[:n],
            y_test[:n],
            grey_levels=wanted["grey_levels"],
            pgd_levels=wanted["pgd_levels"],
            pgd_steps=wanted["pgd_steps"] or 1,
            radius_images=wanted["radius_images"],
            sanity_images=wanted["sanity_images"],
            seed=p["seed"],
        )
        found[0]["n_attacked"] = len(y_test[:n])
        yield Record("attack", wanted, *records.finite(*found), {}, _facts(started, how))

    for wanted in task.settings.get("slope", []):
        if ("slope", records.record_id("slope", wanted)) in todo:
            started = time.perf_counter()
            found = _slope(network, x, y, wanted)
            yield Record("slope", wanted, *records.finite(*found), {}, _facts(started, how))

    wanted = {one["layer"]: one for one in task.settings["representation"]}
    layers = [la for la, one in wanted.items() if ("representation", records.record_id("representation", one)) in todo]
    started = time.perf_counter()
    for layer, metrics, reasons in _representations(network, task, layers, x, train_set) if layers else ():
        found = records.finite(metrics, reasons)
        yield Record("representation", wanted[layer], *found, {}, _facts(started, how))
        started = time.perf_counter()


def _slope(network, x, y, wanted: dict) -> tuple[dict, dict]:
    try:
        return slope.measure(network, x, y, points=wanted["points"], pairs=wanted["pairs"]), {}
    except slope.BadSlope as error:  # equal images with different labels have no segment between them
        return {"slope_max": None}, {"slope_max": str(error)}


def _facts(started: float, how: dict) -> dict:
    return records.provenance(seconds=time.perf_counter() - started, **how)


def _training_record(task: Task, data, split, result, network, test, seconds: float) -> Record:
    scores, reasons = training.held_out_scores(network, *test)
    metrics = {
        "fitted": float(result.fitted),
        "epochs": result.epochs,
        "steps": result.steps,
        "train_accuracy": result.train_accuracy,
        "running_accuracy": result.running_accuracy,
        "train_loss_nats": result.train_loss_nats,
        **scores,
        "n_groups": split.n_groups_train,
        "n_groups_test": split.n_groups_test,
    }
    series = {
        key: [float(v) for v in values][: records.MAX_SERIES]
        for key, values in result.history.items()
        if all(isinstance(v, int | float) and np.isfinite(v) for v in values)
    }
    facts = records.provenance(
        seconds=seconds,
        training_seconds=result.seconds,
        domain=data.images.domain,
        stopped=result.reason,
    )
    return Record("training", task.params, *records.finite(metrics, reasons), series, facts)


def compute(task: Task, progress: Callable | None = None, store: Store | None = None) -> Iterator[Record]:
    """The records of one task, as they come; those that the store has already are left out.

    store   also keeps the checkpoint of a run in training, and its weights where the parameters say so
    """
    made = _properties(task, progress) if task.kind == "properties" else _training(task, progress, store)
    for record in made:
        assert (record.kind, record.id) in task.keys, "a task must leave the records it announced"
        yield record


# ------------------------------------------------------------------------------------- running it


def complete(task: Task, store: Store) -> None:
    """Compute a task and store each record as it comes; its checkpoint goes when all are stored."""
    for record in compute(task, store=store):
        store.write(record)
    if task.kind == "training":
        checkpoints.discard(store.checkpoint(task.keys[0][1]))


@dataclass(frozen=True)
class Outcome:
    computed: int
    stored: int
    unreachable: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]
    minutes: float
    left: tuple[str, ...] = ()  # what no run was started for within the limit of time


def gpus() -> tuple[str, ...]:
    """The CUDA devices of this machine, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return tuple(named[:count] if named else map(str, range(count)))


def n_workers(p: Params) -> int:
    """Worker processes on this machine: those asked for, else one a GPU, else one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return p.workers or len(gpus()) or cores


def run(
    p: Params,
    *,
    store: Store | None = None,
    progress: bool = True,
    only: set | None = None,
    published: bool = True,
    settings: engine.Settings | None = None,
    made: Plan | None = None,
) -> Outcome:
    """Complete a campaign: skip what is stored or published, compute the rest, store each record as it comes.

    Stored records that cannot be read are set aside, with a warning, and computed anew.

    only        keys (kind, id) to restrict the work to
    published   whether records in book/records count as stored
    settings    where and how it is computed; None: on this machine with n_workers(p) processes of one thread
    made        its plan, where it was made already
    """
    store = store or default_store()
    made = made or plan(p)
    wanted = replace(made, tasks=tuple(task for task in made.tasks if only is None or task.keys[0] in only))
    for key in damaged(wanted.tasks, store):
        store.set_aside(*key)
    todo = wanted.left(store, published=published)
    settings = settings or engine.Settings(workers=n_workers(p), gpus=gpus())
    started = time.perf_counter()
    done = _run_tasks(todo, store, settings, progress) if todo else engine.complete([], store, complete)
    return Outcome(
        computed=done.computed,
        stored=len(made.tasks) - len(todo) + done.stored,
        unreachable=made.unreachable,
        failed=done.failed,
        minutes=(time.perf_counter() - started) / 60,
        left=done.left,
    )


def _run_tasks(todo: list[Task], store: Store, settings: engine.Settings, progress: bool) -> engine.Done:
    costs, workers = estimate_seconds(todo, store), min(settings.workers, len(todo))
    environment = _environment([task.source for task in todo]) | settings.environment
    settings = replace(settings, workers=workers, gpu_kinds=("training",), environment=environment)
    todo = [replace(task, source=_absolute(task.source)) for task in todo]
    return engine.complete(todo, store, complete, settings, costs=costs, progress=progress)


def _environment(sources) -> dict[str, str]:
    """Variables that say where image sets are: a worker on another machine needs them unless it has its own."""
    entries = images.catalogue()
    found = [source if isinstance(source, images.Entry) else entries.get(source) for source in sources]
    names = {"INTRINSIC_DATA", *(name for entry in found if entry for name in entry.variables())}
    files = os.pathsep.join(str(file.absolute()) for file in images.catalogue_files()[1:])
    return {name: os.environ[name] for name in sorted(names) if os.environ.get(name)} | (
        {"INTRINSIC_CATALOGUE": files} if files else {}
    )


def _absolute(source):
    """A path from the root, so that it is the same file for a worker that runs in another folder; a name as it is."""
    if isinstance(source, images.Entry) or source in images.catalogue():
        return source
    return str(Path(source).expanduser().absolute())


#: optimizer steps until fit, divided by sqrt(n_train), that an estimate assumes where no record says otherwise:
#: ResNet-18 took 7 to 9 on the embedded sets at N = 64 to 256, 4 to 10 on three published ones at 250, 9 on mnist
TYPICAL_STEPS = 7.0
#: the same with a warm-up of 2,000 steps: VGG-13 took 22 and 24 on two embedded sets at N = 64, the three VGGs took
#: 41 to 132 on two published ones at 500
WARMED_UP_STEPS = 30.0
#: a gradient of the image alone, and a forward pass, in units of a training step of as many images: ResNet-18 on a
#: CPU at 64 pixels .62 and .23, ResNet-50 .55 and .22, VGG-13 in batches of 16 .40 and .18
GRADIENT, FORWARD = 0.6, 0.22


@lru_cache
def _seconds_per_image(model: str, size: int, channels: int, batch: int, precision: str) -> float:
    """Measured on this machine, on one thread: what each step adds to a training, without its start and its end.

    Half of the mean over a short training at least, lest noise of the clock makes it nothing.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = models.create(model, channels=channels, n_classes=2, seed=0)
        x = torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(0))
        y = torch.arange(batch) % 2

        def seconds(steps):
            started = time.perf_counter()
            how = {"until": "epochs", "epochs": steps, "batch_size": batch, "warmup_steps": 0, "precision": precision}
            training.train(network, x, y, seed=0, **how)
            return time.perf_counter() - started

        seconds(1)  # warms up
        short, long = min(seconds(1), seconds(1)), min(seconds(3), seconds(3))
        return max((long - short) / 2, long / 6) / batch
    finally:
        torch.set_num_threads(threads)


@lru_cache
def _guessed_seconds_per_image(model: str, size: int, channels: int) -> float:
    """A training step at 60 GFLOP/s, from the network's operations alone; one that is not installed counts as 1."""
    try:
        return 3 * models.operations(model, size=size, channels=channels) / 60e9
    except (ValueError, RuntimeError, ImportError):  # not with images of this size, or not here: the run will say so
        return 1.0


def _passes(task: Task) -> float:
    """What hangs on a training run, in training steps of one image: attacks, minimal radii, slopes, dimensions."""
    gradients, forwards = 0.0, 1000.0  # the test set, and the training set at three networks
    for one in task.settings.get("attack", []):
        n, few, levels = one["n_images"], one["sanity_images"], len(one["grey_levels"])
        gradients += n * (1 + len(one["pgd_levels"]) * (one["pgd_steps"] or 1)) + 200 * one["radius_images"]
        gradients += few * 10 * levels
        forwards += n * levels + 100 * few
    for one in task.settings.get("slope", []):
        gradients += one["pairs"] * one["points"]
    return GRADIENT * gradients + FORWARD * forwards


def _step_keys(q: dict) -> tuple[tuple, tuple]:
    """Under which a training run's steps are kept, the closer kind first."""
    warmup = q.get("warmup_steps", 0)
    return (q["model"], warmup), (q["batch_size"], warmup)


def _readable(kind: str, store: Store) -> list[Record]:
    """The stored records of a kind that can be read; one warning counts the others."""
    found, errors = [], []
    for id in store.ids(kind):
        try:
            found.append(store.read(kind, id))
        except RecordError as error:
            errors.append(error)
    if errors:
        warnings.warn(f"{kind} records left out of the estimate: {len(errors)}, the first: {errors[0]}", stacklevel=2)
    return found


def estimate_seconds(tasks, store: Store, calibrate: bool = False) -> list[float]:
    """Seconds that each task will take on one worker.

        (steps x batch size + passes of what hangs on the run) x seconds per image

    steps      until fit: sqrt(n_train) times the median of steps / sqrt(n_train) over stored runs of the model and
               warm-up (where there is none, of models with its batch size and warm-up, and TYPICAL_STEPS or
               WARMED_UP_STEPS where none is stored), within the caps; else known
    seconds    per image: training steps measured here (calibrate=True); or, for the weights of a progress bar,
               the median over stored runs of the model, or from its number of operations
    """
    steps: dict[tuple, list[float]] = {}
    rates: dict[tuple, list[float]] = {}
    for record in _all_records("training", store, _readable("training", store)):
        q, how, found = record.params, record.provenance, record.metrics
        if q["until"] == "fit" and found.get("steps"):
            for name in _step_keys(q):
                steps.setdefault(name, []).append(found["steps"] / math.sqrt(q["n_train"]))
        if how.get("training_seconds") and found.get("epochs"):
            key = q["model"], q["size"], q["channels"]
            rates.setdefault(key, []).append(how["training_seconds"] / (found["epochs"] * q["n_train"]))
    out = []
    for task in tasks:
        q = task.params
        if task.kind == "properties":
            out.append(10.0)
            continue
        n, batch, key = q["n_train"], q["batch_size"], (q["model"], q["size"], q["channels"])
        seen = q["epochs"] * n
        if q["until"] == "fit":
            warmup = q.get("warmup_steps", 0)
            typical = [WARMED_UP_STEPS if warmup else TYPICAL_STEPS]
            known = next((steps[name] for name in _step_keys(q) if name in steps), typical)
            cap = max(seen, max(q["min_steps"] or 0, warmup) * batch)
            seen = min(cap, float(np.median(known)) * math.sqrt(n) * min(batch, n))
        if calibrate:
            each = _seconds_per_image(*key, batch, q["precision"])
        else:
            each = float(np.median(rates[key])) if key in rates else _guessed_seconds_per_image(*key)
        out.append((seen + _passes(task)) * each + 2.0)
    return out


def store_state(p: Params | None = None, store: Store | None = None) -> str:
    """A hash of the records that a page could be built from, working and published."""
    store = store or default_store()
    files = [file for path in _published_files() for file in (path, records.unreachable_file(path)) if file.exists()]
    published = [f"{path.name}:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256(" ".join([store.state(), *published]).encode()).hexdigest()[:16]


# -------------------------------------------------------------------------------------- the frames


def published_file(p: Params) -> Path:
    """Where `intrinsic publish` writes the records of a campaign."""
    return images.REPOSITORY / "book" / "records" / f"{p.name}.jsonl"


def _published_files() -> list[Path]:
    return sorted((images.REPOSITORY / "book" / "records").glob("*.jsonl"))


#: params without which a record of a kind is none of a campaign's
REQUIRED = {
    "properties": {"dataset", "image_hash", "size", "channels", "pixel_range", "per_class", "method_version"},
    "training": {
        *("dataset", "image_hash", "size", "channels", "pixel_range", "model", "n_train", "seed", "protocol"),
        *("until", "batch_size", "method_version"),
    },
    "attack": {"parent"},
    "representation": {"parent", "layer"},
    "slope": {"parent"},
}


def _usable(found: Iterable[Record], where) -> Iterator[Record]:
    """Records with the params that their kind requires; one warning counts the others."""
    count, first = 0, ""
    for record in found:
        if lacking := REQUIRED.get(record.kind, set()) - record.params.keys():
            count, first = count + 1, first or f"{record.kind} {record.id} has no {min(lacking)}"
        else:
            yield record
    if count:
        warnings.warn(f"{where}: left out for lack of params: {count}, the first: {first}; delete it", stacklevel=2)


@lru_cache(maxsize=32)
def _published_at(path: Path, stamp: tuple) -> dict[str, dict[str, Record]]:
    table: dict[str, dict[str, Record]] = {}
    for record in _usable(records.read_published(path), path):
        table.setdefault(record.kind, {})[record.id] = record
    return table


def _published(path: Path) -> dict[str, dict[str, Record]]:
    """{kind: {id: record}} of a published file, which is parsed again only when it has changed."""
    stat = path.stat()
    return _published_at(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))


def published_keys() -> frozenset[tuple[str, str]]:
    """(kind, id) of every record in book/records."""
    tables = (_published(path) for path in _published_files())
    return frozenset((kind, id) for table in tables for kind, ids in table.items() for id in ids)


def _all_records(kind: str, store: Store, stored: Iterable[Record] | None = None) -> list[Record]:
    """Working records first, then published ones, each id once.

    stored   the working ones, where they are read already
    """
    working = store.records(kind) if stored is None else stored
    found = {record.id: record for record in _usable(working, store.root / kind)}
    for path in _published_files():
        for id, record in _published(path).get(kind, {}).items():
            found.setdefault(id, record)
    return list(found.values())


HASHES = ("image_hash", "split_hash")


def _key(keys: dict) -> str:
    return records.record_id("training", {k: v for k, v in keys.items() if k not in HASHES})


def _current(found: list[Record], source, pixels: tuple) -> Record | None:
    """Of records of one name the one that belongs to the images as they are now, None where none does.

    pixels   size, channels and pixel_range
    Where the images cannot be read the first serves; of a catalogue set also one that stands alone, unread, and else
    the first published one.
    """
    named = _in_catalogue(source)
    if named and len(found) == 1:
        return found[0]
    try:
        now = measurement.matched(source, *pixels).hash
    except (OSError, ValueError):
        return found[0]
    own = next((record for record in found if record.params["image_hash"] == now), None)
    if own is None and named:
        known = published_keys()
        own = next((record for record in found if (record.kind, record.id) in known), None)
    return own


def _pixels(keys) -> tuple:
    """Size, channels and pixel_range of Params."""
    return tuple(getattr(keys, key) for key in PIXELS)


def _stored(table: dict, p: Params, source: str, model: str, n_train: int, seed: int) -> list[Record]:
    """The training records of one cell; with precision auto those of other hardware serve where none is ours."""
    wanted = _training_wanted(p, source, model, n_train, seed)
    found = (table.get(_key({**wanted, "precision": precision})) for precision in _precisions(p, wanted))
    return next((records for records in found if records), [])


def _lookup(kind: str, store: Store) -> dict[str, list[Record]]:
    table: dict[str, list[Record]] = {}
    for record in _all_records(kind, store):
        table.setdefault(_key(record.params), []).append(record)
    return table


PROPERTY_COLUMNS = {
    "d_data": "d_mle",
    "d_data_low": "d_mle_low",
    "d_data_high": "d_mle_high",
    "d_data_twonn": "d_twonn",
    "d_data_twonn_low": "d_twonn_low",
    "d_data_twonn_high": "d_twonn_high",
    "k_f": "k_f",
    "k_f_low": "k_f_low",
    "k_f_high": "k_f_high",
    "k_f_all": "k_f_all",
    "d_data_all": "d_mle_all",
    "d_data_other_groups": "d_mle_other_groups",
    "k_f_q05": "k_f_q05",
    "k_f_ratio": "k_f_ratio",
    "k_f_ratio_low": "k_f_ratio_low",
    "k_f_ratio_high": "k_f_ratio_high",
    "growth_exponent": "growth_exponent",
    "growth_exponent_low": "growth_exponent_low",
    "growth_exponent_high": "growth_exponent_high",
    "k_f_limit": "k_f_limit",
    "least_bound": "least_bound",
}


def properties_frame(p: Params, *, store: Store | None = None) -> pd.DataFrame:
    """One row an image set: d_data and K_F at M a class (with intervals), and from all images.

    A folder or file whose images are others than those in the records has no row.
    Columns: dataset, domain, size, channels, pixel_range, per_class, n, n_classes, n_groups, n_copies,
    n_conflicting, d_data, d_data_low, d_data_high, d_data_twonn, k_f, k_f_low, k_f_high, k_f_all,
    k_f_q05, k_f_ratio, growth_exponent (with intervals), k_f_limit, least_bound.
    """
    store = store or default_store()
    table, rows = _lookup("properties", store), []
    for source in _sources(p):
        found = table.get(_key(_properties_wanted(p, source)))
        if found and (record := _current(found, source, _pixels(p))):
            rows.append(_properties_row(record, source))
    return _numeric(pd.DataFrame(rows))


@dataclass(frozen=True)
class Comparison:
    """One image set among those in the records, each once.

    rows      as of properties_frame, with k and draws, `own` (True for the one set) and `matched` (at its setting)
    name      of the one set
    setting   size, channels, pixel_range, per_class, draws, k of the one set
    left_out  (image set, reason) of stored sets that are not comparable
    """

    rows: pd.DataFrame
    name: str
    setting: dict
    left_out: tuple[tuple[str, str], ...]

    def rank(self, column: str) -> tuple[int, int] | None:
        """(sets below the one set, other sets) in a column, of sets at its setting; None where there is none."""
        others = self.rows.loc[~self.rows["own"] & self.rows["matched"], column].dropna()
        own = self.rows.loc[self.rows["own"], column].iloc[0]
        return None if others.empty or pd.isna(own) else (int((others < own).sum()), len(others))


SETTING = ("size", "channels", "pixel_range", "per_class", "draws", "k")


def stored_setting(store: Store | None = None) -> dict:
    """The setting at which most image sets are in the records, of equal ones the largest size; a family counts once.

    Raises CampaignError where there are none.
    """
    counts: dict[tuple, set] = {}
    for record in _all_records("properties", store or default_store()):
        if _comparable(record):
            key = tuple(record.params[name] for name in SETTING)
            counts.setdefault(key, set()).add(_family(record.params["dataset"]))
    if not counts:
        raise CampaignError(
            "no image set is in the records yet, so there is nothing to compare with; measure some with: "
            "intrinsic run params/quick.yaml"
        )
    return dict(zip(SETTING, max(counts, key=lambda key: (len(counts[key]), key)), strict=True))


def _comparable(record: Record) -> bool:
    """Whether a properties record is of the present method and gives both coordinates."""
    return (
        record.params["method_version"] == records.METHOD_VERSIONS["properties"]
        and all(name in record.params for name in SETTING)
        and record.metrics.get("d_mle") is not None
        and record.metrics.get("k_f") is not None
    )


def compare(source: str, setting: dict | None = None, *, unmatched: bool = False, store: Store | None = None):
    """An image set, matched, among the image sets in the records: a Comparison.

    setting    size, channels, pixel_range, per_class, draws, k; None: stored_setting
    unmatched  also show sets at other settings, each once, at the stored one nearest to this one (the fewest
               differences, of these the largest size and M), and compare where a class has fewer than M images
    Sets of one name whose images differ are different sets; records of the same images are the set's own.
    What a record holds already is not measured again. Raises CampaignError where nothing is stored, and
    images.Unmatched where the set has fewer than M images of a class.
    """
    store = store or default_store()
    setting = dict(setting or stored_setting(store))
    name = _set_name(source)
    data = measurement.matched(source, *(setting[key] for key in PIXELS))
    least = min(n for n in measurement.without_conflicts(data).counts().values() if n)
    at = setting
    if least < setting["per_class"]:
        if not unmatched:
            images.check_matched([measurement.without_conflicts(data)], setting["per_class"])
        at = {**setting, "per_class": least}
    others, left_out, first = {}, [], _first_published()
    for record in _all_records("properties", store):
        other = record.params["dataset"]
        if not _comparable(record) or _is_of(record, source, at, data.hash):
            continue
        differs = [key for key in SETTING if record.params[key] != at[key]]
        if differs and not unmatched:
            found = ", ".join(f"{key} {record.params[key]}" for key in differs)
            left_out.append((other, f"stored at {found}, and compared is {_setting_text(setting, differs)}"))
        else:
            nearness = (len(differs), -record.params["size"], -record.params["per_class"])
            others.setdefault(other, []).append((nearness, record))
    shown = {}
    for found in others.values():
        _, nearest = min(found, key=lambda pair: (*pair[0], _setting_text(pair[1].params, SETTING)))
        same = [record for _, record in found if _same(record, {key: nearest.params[key] for key in SETTING})]
        shown |= {_identity(record, first): record for record in reversed(same)}
    keys = {"dataset": name, **at, "seed": 0, "method_version": records.METHOD_VERSIONS["properties"]}
    task = Task("properties", source, {**keys, "image_hash": data.hash}, ())
    id = records.record_id("properties", task.params)
    own = store.read("properties", id) if ("properties", id) in store else _properties(task)[0]
    names = _told_apart([*shown, (name, data.hash)])
    rows = [
        {
            **_properties_row(record, record.params["dataset"]),
            **{key: record.params[key] for key in ("k", "draws")},
            "dataset": names[key],
            "own": False,
            "matched": _same(record, at),
        }
        for key, record in shown.items()
    ]
    mine = {"dataset": name, "k": at["k"], "draws": at["draws"], "own": True, "matched": True}
    rows.append({**_properties_row(own, source), **mine})
    kept = tuple(sorted((other, why) for other, why in set(left_out) if other not in others))
    return Comparison(_numeric(pd.DataFrame(rows)), name, at, kept)


def _identity(record: Record, first: dict) -> tuple[str, str]:
    """(name, hash of the images): an image set at one setting; its name alone may be that of another folder too.

    first   of `_first_published`
    """
    q = record.params
    return q["dataset"], first.get((q["dataset"], q["image_hash"]), q["image_hash"])


def _first_published() -> dict[tuple[str, str], str]:
    """{(name, hash of the images): the first hash of its name and setting} of book/records.

    A name in published records is one set; one that is drawn by a program may differ in a pixel between machines.
    """
    first, out = {}, {}
    for path in _published_files():
        for kind in ("properties", "training"):
            for record in _published(path).get(kind, {}).values():
                q = record.params
                hash = first.setdefault((q["dataset"], *(q[key] for key in PIXELS)), q["image_hash"])
                out[q["dataset"], q["image_hash"]] = hash
    return out


def _told_apart(identities) -> dict[tuple[str, str], str]:
    """{(name, hash): name, with the beginning of the hash where several image sets have the name}."""
    identities = set(identities)
    counts = Counter(name for name, _ in identities)
    return {(name, hash): name if counts[name] == 1 else f"{name} ({hash[:8]})" for name, hash in identities}


def _is_of(record: Record, source, setting: dict, image_hash: str) -> bool:
    """Whether a record is of the images of a source, which have `image_hash` at the size and range of `setting`.

    Of a catalogue set all records of its name are. One of a path's name at another size is where the images match.
    """
    q = record.params
    if _same(record, {key: setting[key] for key in PIXELS}) and q["image_hash"] == image_hash:
        return True
    if q["dataset"] != _set_name(source) or _in_catalogue(source):
        return q["dataset"] == _set_name(source)
    return measurement.matched(source, *(q[key] for key in PIXELS)).hash == q["image_hash"]


def _in_catalogue(source) -> bool:
    """Whether a source is a set of the catalogue, whose name is its own, and no path."""
    return bool(source.about) if isinstance(source, images.Entry) else source in images.catalogue()


def setting_of(p: Params) -> dict:
    """Size, channels, range, M, draws and k of a campaign, as `compare` takes them."""
    return {key: getattr(p, key) for key in SETTING}


#: parameters of a training run that have to agree for two runs to be of one kind
HOW = (
    *("method_version", "protocol", "until", "epochs", "min_steps", "batch_size", "learning_rate", "warmup_steps"),
    *("weight_decay", "augment", "class_weights", "pretrained"),
)


PIXELS = ("size", "channels", "pixel_range")


def runs_at(model: str, setting: dict | None = None, *, store: Store | None = None) -> pd.DataFrame:
    """Fitted runs of a network on all image sets in the records, trained alike at one setting.

    One row a run: dataset, domain, family, n_train, seed, test_loss_nats, test_accuracy, n_test, d_data, k_f,
    n_classes. Trained alike: as most of them. setting as of `compare`. Raises CampaignError where there is no run, and
    models.UnknownModel.
    """
    store = store or default_store()
    setting = dict(setting or stored_setting(store))
    runs, first = _fitted_runs(models.known(model), setting, store), _first_published()
    sets = _sets_at(setting, store, first)
    of = {record.id: _identity(record, first) for record in runs}
    runs = [record for record in runs if of[record.id] in sets]
    if not runs:
        raise CampaignError(f"no fitted run of {model} is stored at {_setting_text(setting, PIXELS)}")
    names = _told_apart(of[record.id] for record in runs)
    rows = {record.id: {**sets[of[record.id]], "dataset": names[of[record.id]]} for record in runs}
    return _trained_alike(runs, runs, rows)


def runs_beside(source: str, model: str, setting: dict | None = None, *, store: Store | None = None) -> pd.DataFrame:
    """Fitted runs of a network on an image set, and on all others in the records that were trained alike.

    As of `runs_at`, but trained as most runs of the set; attrs["dataset"] is the set's name. Its runs are those of the
    same images, whatever their name. Where images of a catalogue set are not on this machine, or are drawn by a program
    and not those of any run, they are the runs of its name, published ones first.
    Raises images.UnknownImageSet and models.UnknownModel for what does not exist, and CampaignError where the set has
    no run, or no K_F at M images a class.
    """
    store = store or default_store()
    setting, name = dict(setting or stored_setting(store)), _set_name(source)
    runs, first = _fitted_runs(models.known(model), setting, store), _first_published()
    named = [record for record in runs if record.params["dataset"] == name]
    entry = source if isinstance(source, images.Entry) else images.catalogue().get(source)
    here, now = entry is None or entry.present(), ""
    if here:
        now = measurement.matched(source, *(setting[key] for key in PIXELS)).hash
    by_name = entry is not None and (not here or entry.location is None)
    if by_name and now not in (record.params["image_hash"] for record in named):
        known = published_keys()
        best = [record for record in named if (record.kind, record.id) in known] or named
        now = best[0].params["image_hash"] if best else now
    own = [record for record in named if record.params["image_hash"] == now]
    if not own:  # the same images may have been trained under another name
        same = [record for record in runs if record.params["image_hash"] == now]
        own = [record for record in same if record.params["dataset"] == same[0].params["dataset"]]
    if not own:
        others = "; those stored under this name are of other images" if named else ""
        raise CampaignError(
            f"no fitted run of {model} on {source} is stored at {_setting_text(setting, PIXELS)}{others}, so its curve "
            "is not known; train it at two sizes N at least, with `--add` where a parameter file does not name it: "
            f"`intrinsic run PARAMS.yaml --add {source}`"
        )
    sets, mine = _sets_at(setting, store, first), (name, now)
    of = {record.id: _identity(record, first) for record in runs}
    own_key = of[own[0].id]
    of_own = sets.get(own_key) or _own_properties(source, here, setting, store)
    also = {one for one in sets if one[0] == name} if _in_catalogue(source) else set()
    beside = [
        record
        for record in runs
        if record.params["image_hash"] != now and of[record.id] in sets.keys() - also - {own_key}
    ]
    names = _told_apart([mine, *(of[record.id] for record in beside)])
    rows = {record.id: {**sets[of[record.id]], "dataset": names[of[record.id]]} for record in beside}
    rows |= {record.id: {**of_own, "dataset": name} for record in own}
    frame = _trained_alike([*own, *beside], own, rows)
    frame.attrs["dataset"] = name
    return frame


def _own_properties(source, here: bool, setting: dict, store: Store) -> dict:
    """Those of the set that is forecast, measured where they are not in the records."""
    if not here:
        raise CampaignError(
            f"d_data and K_F of {source} are not in the records at {_setting_text(setting, SETTING)}, and its images "
            f"are not on this machine, so nothing can be forecast; `intrinsic datasets {source}` says how to get them"
        )
    if why := _too_few(measurement.matched(source, *(setting[key] for key in PIXELS)), setting["per_class"]):
        raise CampaignError(f"{_set_name(source)}: {why}, run it again and name it by --params")
    rows = compare(source, setting, store=store).rows
    return rows[rows.own].iloc[0].to_dict()


def _sets_at(setting: dict, store: Store, first: dict) -> dict[tuple[str, str], dict]:
    """{identity of an image set: properties} of the records at one setting."""
    sets = {}
    for record in _all_records("properties", store):
        if _comparable(record) and _same(record, {key: setting[key] for key in SETTING}):
            sets.setdefault(_identity(record, first), _properties_row(record, record.params["dataset"]))
    return sets


def _fitted_runs(model: str, setting: dict, store: Store) -> list[Record]:
    """Those with the network's own warm-up where there are any, so that runs of params/warmup.yaml stay apart."""
    found = [
        record
        for record in _all_records("training", store)
        if record.params["model"] == model and record.metrics["fitted"] and record.metrics.get("test_loss_nats")
        if all(record.params[key] == setting[key] for key in PIXELS)
    ]
    own = models.default_warmup_steps(model)
    usual = [r for r in found if r.params["protocol"] == "paper" or r.params.get("warmup_steps", 0) == own]
    return usual or found


def _trained_alike(runs: list[Record], model_of: list[Record], rows: dict[str, dict]) -> pd.DataFrame:
    """The runs that were trained as most of `model_of`, each with the properties of its set, rows[id of the run]."""
    most = Counter(tuple(record.params.get(key) for key in HOW) for record in model_of).most_common(1)[0][0]
    of_set = ("dataset", "domain", "family", "d_data", "k_f", "n_classes")
    of_run = ("test_loss_nats", "test_accuracy", "n_test")
    return pd.DataFrame(
        {key: rows[record.id][key] for key in of_set}
        | {key: record.params[key] for key in ("n_train", "seed")}
        | {key: record.metrics[key] for key in of_run}
        for record in runs
        if tuple(record.params.get(key) for key in HOW) == most
    )


def _setting_text(setting: dict, keys) -> str:
    return ", ".join(f"{key} {setting[key]}" for key in keys)


def _properties_row(record: Record, source: str) -> dict:
    row = {"dataset": record.params["dataset"], "family": _family(source)}
    row["domain"] = record.provenance.get("domain", "unknown")
    row |= {key: record.params[key] for key in ("size", "channels", "pixel_range", "per_class")}
    row |= {key: record.metrics[key] for key in ("n", "n_classes", "n_groups", "n_copies", "n_conflicting")}
    row |= {column: record.metrics.get(key) for column, key in PROPERTY_COLUMNS.items()}
    row["growth_per_class"] = record.series["growth_per_class"]
    row["growth_k_f"] = record.series["growth_k_f"]
    return row


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """None -> NaN in columns that hold numbers."""
    for column in frame.columns:
        if frame[column].dtype == object and not frame[column].map(lambda v: isinstance(v, str | list)).any():
            frame[column] = pd.to_numeric(frame[column])
    return frame


def coverage(p: Params, frame: pd.DataFrame) -> pd.DataFrame:
    """One row an image set: how many planned runs are stored, and how many of them fitted."""
    planned = pd.Series([_set_name(source) for source, *_ in cells(p)]).value_counts(sort=False)
    grouped = frame.groupby("dataset")
    table = pd.DataFrame(
        {"planned runs": planned, "stored": grouped.size(), "fitted": grouped["fitted"].sum()},
    ).reindex(planned.index)
    return table.fillna(0).astype(int).rename_axis("dataset").reset_index()


def missing(p: Params, *, store: Store | None = None) -> list[str]:
    """Labels of the planned runs that have no record."""
    store = store or default_store()
    table = _lookup("training", store)
    out = []
    for source, model, n_train, seed in cells(p):
        found = _stored(table, p, source, model, n_train, seed)
        if not found or _current(found, source, _pixels(p)) is None:
            wanted = _training_wanted(p, source, model, n_train, seed)
            out.append(Task("training", source, wanted, ()).label)
    return out


def _stored_runs(p: Params, store: Store) -> Iterator[tuple[Record, dict]]:
    """(training record, what names it in a frame) of each run of the grid that is stored, in the grid's order."""
    table = _lookup("training", store)
    for source, model, n_train, seed in cells(p):
        found = _stored(table, p, source, model, n_train, seed)
        if found and (record := _current(found, source, _pixels(p))):
            row = {"dataset": record.params["dataset"], "family": _family(source)}
            row["domain"] = record.provenance.get("domain", "unknown")
            row |= {"model": model, "n_train": n_train, "seed": seed, "fitted": bool(record.metrics["fitted"])}
            yield record, row


def runs_frame(p: Params, *, store: Store | None = None) -> pd.DataFrame:
    """One row a training run, with its attack, its representation and its image set's properties.

    Working records first, then published ones. With p.compute what is missing is trained, after the
    estimated minutes are shown; otherwise it is left out, and `missing` names it.
    """
    store = store or default_store()
    if p.compute:
        todo = plan(p).todo(store)
        if todo:
            minutes = sum(estimate_seconds(todo, store, calibrate=True)) / 60 / n_workers(p)
            print(f"{len(todo)} tasks are missing: about {minutes:.1f} minutes on this machine")
            outcome = run(p, store=store)
            if outcome.failed:
                label, reason = outcome.failed[0]
                raise CampaignError(f"{len(outcome.failed)} runs failed, the first: {label}: {reason}")
    attacked: dict[str, Record] = {}
    wanted = {key: _attack_wanted(p)[key] for key in FGSM_KEYS}
    for record in _all_records("attack", store):
        best = attacked.get(record.params["parent"])
        if _same(record, wanted) and (best is None or len(record.metrics) > len(best.metrics)):
            attacked[record.params["parent"]] = record
    slopes = {r.params["parent"]: r for r in _all_records("slope", store) if _same(r, _slope_wanted(p))}
    represented = {}
    for record in _all_records("representation", store):
        represented.setdefault(record.params["parent"], []).append(record)
    properties = properties_frame(p, store=store)
    rows = []
    for record, named in _stored_runs(p, store):
        row = {**named, "parent": record.id, **record.metrics, "fitted": named["fitted"]}  # there a number
        if record.id in attacked:
            row |= {
                k: v
                for k, v in attacked[record.id].metrics.items()
                if any(part in k for part in ("penalty", "radius", "sanity"))
                or k in ("clean_accuracy", "gradient_zero_fraction")
            }
        if record.id in slopes:
            row |= slopes[record.id].metrics
        for other in represented.get(record.id, []):
            if _same(other, _representation_wanted(p, named["model"])):
                row |= {k: v for k, v in other.metrics.items() if k.startswith("d_")}
        rows.append(row)
    frame = pd.DataFrame(rows)
    if frame.empty:
        raise CampaignError(
            f"no run of the campaign '{p.name}' is stored yet, so there is nothing to show; make the records "
            f"with: intrinsic run params/{p.name}.yaml, or set compute = True"
        )
    if not properties.empty:
        columns = ["dataset", "per_class", *PROPERTY_COLUMNS]
        frame = frame.merge(properties[columns], on="dataset", how="left")
    return _numeric(frame)


def courses_frame(p: Params, *, store: Store | None = None) -> pd.DataFrame:
    """One row an epoch of each stored training run; empty where no run is.

    Columns: dataset, family, domain, model, n_train, seed, warmup_steps, epoch, epoch_steps (optimizer steps of an
    epoch), step (at the epoch's end), running_loss_nats, chance_nats (of the best constant output, ln of the number of
    classes, as training sets are balanced; missing where no properties of the set are stored); and of the whole run
    fitted, reason, test_loss_nats, test_accuracy.
    """
    store, rows = store or default_store(), []
    properties = properties_frame(p, store=store)
    classes = {} if properties.empty else dict(zip(properties["dataset"], properties["n_classes"], strict=True))
    for record, named in _stored_runs(p, store):
        losses = record.series.get("running_loss_nats", ())
        each = round(record.metrics["steps"] / record.metrics["epochs"])
        run = {**named, "warmup_steps": record.params.get("warmup_steps", 0), "epoch_steps": each}
        run |= {
            "reason": record.provenance.get("stopped", ""),
            "chance_nats": math.log(classes.get(named["dataset"], math.nan)),
        }
        run |= {key: record.metrics.get(key) for key in ("test_loss_nats", "test_accuracy")}
        rows += [{**run, "epoch": i, "step": i * each, "running_loss_nats": loss} for i, loss in enumerate(losses, 1)]
    return _numeric(pd.DataFrame(rows))


def layers_frame(p: Params, *, store: Store | None = None) -> pd.DataFrame:
    """One row a training run and layer whose dimension is stored; empty where no run is.

    Columns: dataset, family, domain, model, n_train, seed, fitted, layer, depth (1 for the first block), is_last (the
    paper's layer), d_repr, d_repr_low, d_repr_high, d_data_same_images and the null maps.
    Only runs with more layers than the paper's one enter; `layers: blocks` in a parameter file makes them.
    """
    store = store or default_store()
    represented, rows = {}, []
    for record in _all_records("representation", store):
        represented.setdefault(record.params["parent"], []).append(record)
    for run, row in _stored_runs(p, store):
        model, found = row["model"], represented.get(run.id, [])
        layers = [r for r in found if _same(r, _representation_wanted(p, model, r.params["layer"]))]
        if len(layers) < 2:
            continue
        order = representations.blocks(models.create(model, channels=3))
        for one in sorted(layers, key=lambda r: order.index(r.params["layer"])):
            layer = one.params["layer"]
            place = {"layer": layer, "depth": order.index(layer) + 1}
            place["is_last"] = layer == models.representation_layer(model)
            rows.append(row | place | {k: v for k, v in one.metrics.items() if k.startswith("d_")})
    return _numeric(pd.DataFrame(rows))


def stored_properties(p: Params, *, store: Store | None = None) -> pd.DataFrame:
    """As properties_frame, at every size and number of channels that is stored: one row a set and setting."""
    store = store or default_store()
    same = ("pixel_range", "per_class", "draws", "k", "seed", "method_version")
    rows = []
    by_set: dict[str, list[Record]] = {}
    for record in _all_records("properties", store):
        by_set.setdefault(record.params["dataset"], []).append(record)
    for source in _sources(p):
        wanted = _properties_wanted(p, source)
        by_pixels: dict[tuple, list[Record]] = {}
        for record in by_set.get(wanted["dataset"], []):
            if _same(record, {key: wanted[key] for key in same}):
                by_pixels.setdefault(tuple(record.params[key] for key in PIXELS), []).append(record)
        current = (_current(found, source, pixels) for pixels, found in by_pixels.items())
        rows += [_properties_row(record, source) for record in current if record]
    return _numeric(pd.DataFrame(rows))


def _same(record: Record, wanted: dict) -> bool:
    return all(record.params.get(key) == value for key, value in wanted.items())
