"""A parameter file -> the grid of its runs -> tasks with the ids of the records that they leave."""

import itertools
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import torch

from intrinsic import images
from intrinsic.campaigns import records
from intrinsic.campaigns.parameters import CampaignError, Params
from intrinsic.campaigns.records import METHOD_VERSIONS, Store
from intrinsic.networks import models, representations, training
from intrinsic.properties import measurement

SLOPE_POINTS = 16  # parts of a segment on which a network's slope is searched
PIXELS = ("size", "channels", "pixel_range")
SETTING = (*PIXELS, "per_class", "draws", "k")

#: params of an attack record that a page of FGSM needs; the others add numbers and change none of these
FGSM_KEYS = ("attack", "grey_levels", "n_images", "method_version")

Key = tuple[str, str]  # kind and id of a record


def entry(source: str) -> images.Entry | None:
    """The catalogue's entry of an image set; None for a path."""
    return images.catalogue().get(source)


def set_name(source: str) -> str:
    """The name of an image set in records."""
    return source if entry(source) else images.name_of(Path(source).expanduser())


def family(source: str) -> str:
    """Sets made of the same pictures are one family, which statistics count once."""
    found = entry(source)
    return (found.family if found else "") or set_name(source)


def sources(p: Params) -> list[str]:
    """Every image set of a campaign, those of single blocks included. Raises CampaignError for two of one name."""
    first: dict[str, str] = {}
    found = list(dict.fromkeys([*p.datasets, *(source for source, *_ in cells(p))]))
    for source in found:
        if first.setdefault(name := set_name(source), source) != source:
            raise CampaignError(f"{first[name]} and {source} are both {name!r} in records: rename one or leave it out")
    return found


def present(p: Params) -> tuple[Params, dict[str, str]]:
    """The campaign without the image sets that cannot be read on this machine now, and {these: where they are}."""
    absent = {source: one.whereabouts() for source in sources(p) if (one := entry(source)) and not one.present()}

    def left(names):
        return [name for name in names if name not in absent]

    blocks = [block.model_copy(update={"datasets": left(block.datasets or p.datasets)}) for block in p.runs]
    blocks = [block for block in blocks if block.datasets]
    return p.model_copy(update={"datasets": left(p.datasets), "runs": blocks}), absent


def cells(p: Params) -> dict[tuple, int | None]:
    """{(source, model, n_train, seed): radius_images of its block}, in the order of the file; the first one counts."""
    found: dict[tuple, int | None] = {}
    for block in p.runs:
        for cell in itertools.product(block.datasets or p.datasets, block.models, block.seeds, block.n_train):
            source, model, seed, n_train = cell
            found.setdefault((source, model, n_train, seed), block.radius_images)
    return found


def run_label(model: str, dataset: str, n_train: int, seed: int) -> str:
    """What a run is called in messages and in files."""
    return f"{model} {dataset} N={n_train} seed={seed}"


def properties_params(p: Params, source) -> dict:
    """Params of the record of an image set's properties, without the hash of its images."""
    setting = {key: getattr(p, key) for key in SETTING}
    return {"dataset": set_name(source), **setting, "seed": 0, "method_version": METHOD_VERSIONS["properties"]}


def training_params(p: Params, source, model: str, n_train: int, seed: int) -> dict:
    """Params of the record of a training run, without the hashes of its images and split."""
    found, fit = entry(source), p.protocol == "fit"
    how = training.protocol(p.protocol, model, (found.parent if found else "") or set_name(source))
    how |= {"until": p.until, "epochs": p.epochs} if fit else {}
    warmup = how["warmup_steps"] if p.warmup_steps is None else p.warmup_steps
    automatic = training.native_precision() if fit else "float32"
    return {
        "dataset": set_name(source),
        **{key: getattr(p, key) for key in PIXELS},
        "model": model,
        "n_train": n_train,
        "seed": seed,
        "protocol": p.protocol,
        **{key: how[key] for key in ("until", "epochs", "batch_size", "learning_rate", "weight_decay")},
        "min_steps": p.min_steps if fit and p.until == "fit" else None,
        "precision": automatic if p.precision == "auto" else p.precision,
        "augment": "none",  # these three are constant, so that ids of earlier records stay
        "class_weights": "none",
        "pretrained": None,
        "method_version": METHOD_VERSIONS["training"],
        **({"warmup_steps": warmup} if warmup else {}),  # without it there is no key, as in records from before it
    }


def precisions(p: Params, wanted: dict) -> list[str]:
    """Precisions whose records serve: the one that is wanted and, where it is automatic, that of other hardware."""
    others = ("float32", "bfloat16") if p.precision == "auto" else ()
    return list(dict.fromkeys([wanted["precision"], *others]))


def hanging_params(p: Params, layers: Iterable[str], radius_images: int | None = None) -> dict[str, list[dict]]:
    """{kind: params} of the records that hang on a training run, without its id as their parent."""
    attack = {
        "attack": "fgsm",
        "grey_levels": list(p.grey_levels),
        "n_images": p.attack_images,
        "pgd_levels": list(p.pgd_levels),
        "pgd_steps": p.pgd_steps if p.pgd_levels else None,
        "radius_images": p.radius_images if radius_images is None else radius_images,
        "sanity_images": p.sanity_images,
    }
    mapped = [{"layer": layer, "k": p.k} for layer in layers]
    slope = [{"pairs": p.slope_pairs, "points": SLOPE_POINTS}] if p.slope_pairs else []
    found = {"attack": [attack], "representation": mapped, "slope": slope}
    return {kind: [one | {"method_version": METHOD_VERSIONS[kind]} for one in all_] for kind, all_ in found.items()}


@lru_cache
def layers(model: str, which: str) -> tuple[str, ...]:
    """Layers whose dimension is measured: "paper", the paper's one; "blocks", every block from first to last."""
    paper = models.representation_layer(model)
    if which == "paper":
        return (paper,)
    with torch.device("meta"):
        found = representations.blocks(models.create(model, channels=3))
    return tuple(found) if paper in found else (paper, *found)


@dataclass(frozen=True)
class Task:
    """One unit of work.

    params    of its first record;  keys   of all records that it leaves, its own first
    hanging   {kind: params of each record} of what hangs on a training run
    others    keys of the same run at the precision of other hardware, which serve as well
    have      keys that are published, and not computed again
    """

    kind: str
    source: str
    params: dict
    keys: tuple[Key, ...]
    hanging: dict = field(default_factory=dict)
    others: tuple[tuple[Key, ...], ...] = ()
    have: frozenset[Key] = frozenset()
    checkpoint_minutes: float = 2
    keep_weights: bool = False

    @property
    def label(self) -> str:
        p = self.params
        if self.kind == "properties":
            return f"properties {p['dataset']}"
        return run_label(p["model"], p["dataset"], p["n_train"], p["seed"])

    def done(self, there: Collection[Key] | Store) -> bool:
        """Whether all its records are there, at one of the precisions that serve."""
        return any(all(key in there or key in self.have for key in keys) for keys in (self.keys, *self.others))


@dataclass(frozen=True)
class Plan:
    """Tasks in their order; (label, reason) of runs that a set cannot reach, and of sets too small for M a class."""

    tasks: tuple[Task, ...]
    unreachable: tuple[tuple[str, str], ...]
    incomparable: tuple[tuple[str, str], ...]

    @property
    def keys(self) -> set[Key]:
        """Kind and id of every record that serves a task."""
        return {key for task in self.tasks for keys in (task.keys, *task.others) for key in keys}

    def todo(self, store: Store) -> list[Task]:
        """Tasks of which a record is neither stored, readably, nor published."""
        published = records.published().keys()
        there = {key for key in self.keys if key in store}
        left = [task for task in self.tasks if not task.done(there | published)]
        return [replace(task, have=frozenset(task.keys) & published) for task in left]


def plan(p: Params) -> Plan:
    """Make all tasks of a campaign: the properties of every image set, then the training runs as in the file.

    Raises CampaignError where two image sets have one name.
    """
    grid, measured, trained, unreachable, incomparable = cells(p), [], {}, [], []
    for source in sources(p):
        data = measurement.matched(source, p.size, p.channels, p.pixel_range)
        if why := too_few(data, p.per_class):
            incomparable.append((set_name(source), why))
        keys = {**properties_params(p, source), "image_hash": data.hash}
        place = source if entry(source) else str(Path(source).expanduser().absolute())  # for workers elsewhere
        measured.append(Task("properties", place, keys, (("properties", records.record_id("properties", keys)),)))
        splits: dict[tuple, str] = {}
        for cell in (cell for cell in grid if cell[0] == source):
            _, model, n_train, seed = cell
            try:
                if (n_train, seed) not in splits:
                    splits[n_train, seed] = images.split(data.images, n_train, seed, groups=data.groups).hash
            except images.TooFewImages as error:
                unreachable.append((run_label(model, set_name(source), n_train, seed), str(error)))
                continue
            hashes = {"image_hash": data.hash, "split_hash": splits[n_train, seed]}
            made = _training_task(p, cell, grid[cell], hashes, data.images.n_classes)
            trained[cell] = replace(made, source=place)
    tasks = (*measured, *(trained[cell] for cell in grid if cell in trained))
    return Plan(tasks, tuple(unreachable), tuple(incomparable))


def _training_task(p: Params, cell: tuple, radius_images: int | None, hashes: dict, n_classes: int) -> Task:
    source, model, n_train, seed = cell
    wanted = training_params(p, source, model, n_train, seed)
    hanging = hanging_params(p, layers(model, p.layers), radius_images)
    hanging["slope"] = hanging["slope"] if n_classes == 2 else []
    ways = []
    for precision in precisions(p, wanted):
        parent = records.record_id("training", wanted | hashes | {"precision": precision})
        hung = {kind: [{**one, "parent": parent} for one in all_] for kind, all_ in hanging.items()}
        ids = [(kind, records.record_id(kind, one)) for kind, all_ in hung.items() for one in all_]
        ways.append((hung, (("training", parent), *ids)))
    (own, keys), *others = ways
    others, how = tuple(ids for _, ids in others), (p.checkpoint_minutes, p.weights == "kept")
    return Task("training", source, wanted | hashes, keys, own, others, frozenset(), *how)


def too_few(data: measurement.Matched, per_class: int) -> str:
    """Why an image set has no K_F at M images a class, and what to do; "" where it has one."""
    counts = measurement.without_conflicts(data).counts()
    name, least = min(((c, n) for c, n in counts.items() if n), key=lambda pair: pair[1])
    if least >= per_class:
        return ""
    more = f"set per_class: {least} or less" if least > 1 else "give that class more images"
    return f"class {name!r} has {least} images, fewer than per_class {per_class}, so the set has no K_F at M: {more}"


def environment(tasks: Collection[Task]) -> dict[str, str]:
    """Variables that say where image sets are: a worker on another machine needs them unless it has its own."""
    found = [entry(source) for source in {task.source for task in tasks}]
    names = {"INTRINSIC_DATA", *(name for one in found if one for name in one.variables())}
    catalogues = os.pathsep.join(str(file.absolute()) for file in images.catalogue_files()[1:])
    known = {name: os.environ[name] for name in sorted(names) if os.environ.get(name)}
    return known | ({"INTRINSIC_CATALOGUE": catalogues} if catalogues else {})
