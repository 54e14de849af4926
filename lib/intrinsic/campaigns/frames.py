"""Records -> tidy frames: one row a record, a run, an image set; and `open`, which a page calls."""

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from intrinsic import images
from intrinsic.campaigns import parameters, plan, records
from intrinsic.campaigns.parameters import CampaignError, Params
from intrinsic.campaigns.records import Record, Store
from intrinsic.networks import models
from intrinsic.properties import measurement

CONFIRMATION = "params/confirmation.yaml"  # new families, whose runs stand with the published ones
GROWTH = ("growth_per_class", "growth_k_f")  # the series of a set's K_F at fewer images
WITHOUT = re.compile(r"_(all|control|q\d\d)_(low|high)$")  # intervals that no frame has, so that no chart draws them


def records_frame(kind: str, store: Store | None = None) -> pd.DataFrame:
    """One row a record: id, and columns such as params.size, metrics.k_f, series.growth_k_f, provenance.seconds.

    kind: properties, training, attack, representation or slope. Lists are in one cell. None: published records alone.
    """
    parts = ("id", "params", "metrics", "series", "provenance")
    found = records.collected(kind, store)
    return _numeric(pd.json_normalize([{part: getattr(one, part) for part in parts} for one in found], max_level=1))


def _numeric(frame: pd.DataFrame) -> pd.DataFrame:
    """None -> NaN in columns that hold numbers."""
    for column in frame.columns:
        if frame[column].dtype == object and not frame[column].map(lambda v: isinstance(v, str | list)).any():
            frame[column] = pd.to_numeric(frame[column])
    return frame


def _current(found: list[Record], source, store: Store | None) -> Record | None:
    """Of records of one name the one that is of the images as they are now; None where none is.

    Published records are taken as they are. So is a stored one of a catalogue set that has no other beside it.
    """
    named = plan.entry(source) is not None
    if store is None or (named and len(found) == 1):
        return found[0]
    try:
        now = measurement.matched(source, *(found[0].params[key] for key in plan.PIXELS)).hash
    except (OSError, ValueError):
        return found[0]
    own = next((record for record in found if record.params["image_hash"] == now), None)
    known = (record for record in found if named and (record.kind, record.id) in records.published())
    return own or next(known, None)


def _found(kind: str, store: Store | None, asked: Iterable[tuple]) -> Iterator[tuple[Record, str]]:
    """(record, image set) of each (image set, [params that serve]) that has one; the params lack hashes of images."""
    table: dict[str, list[Record]] = {}
    for record in records.collected(kind, store):
        table.setdefault(records.cell_id(record.params), []).append(record)
    for source, ways in asked:
        alike = next((table[way] for way in map(records.cell_id, ways) if way in table), [])
        if alike and (record := _current(alike, source, store)):
            yield record, source


def _of_set(record: Record, source: str) -> dict:
    domain = record.provenance.get("domain", "unknown")
    return {"dataset": record.params["dataset"], "family": plan.family(source), "domain": domain}


def _same(record: Record, wanted: dict) -> bool:
    return all(record.params.get(key) == value for key, value in wanted.items())


def _hanging(kind: str, store: Store | None, wanted: list[dict]) -> dict[str, dict]:
    """{run: metrics}, of records with params that are wanted the one with most."""
    found: dict[str, dict] = {}
    for record in records.collected(kind, store):
        parent = record.params["parent"]
        if any(_same(record, one) for one in wanted) and len(found.get(parent, ())) < len(record.metrics):
            found[parent] = record.metrics
    return found


def runs_frame(p: Params, store: Store | None = None) -> pd.DataFrame:
    """Make the table of a campaign's runs: one row a training run that has records, none where no run has.

    Columns: dataset, family, domain, model, n_train, seed, fitted, parent (id of the training record); the metrics of
    training, of its attack, of its slope, and of the paper's layer with its null maps; and those of `properties_frame`.
    store: records of this machine, which count beside the published ones.
    """
    asked, rows = [], []
    for source, *cell in plan.cells(p):
        wanted = plan.training_params(p, source, *cell)
        asked.append((source, [wanted | {"precision": one} for one in plan.precisions(p, wanted)]))
    for one, source in _found("training", store, asked):
        named = _of_set(one, source) | {key: one.params[key] for key in ("model", "n_train", "seed")}
        named |= {"fitted": bool(one.metrics["fitted"]), "parent": one.id}
        rows.append(named | one.metrics | named)
    if not rows:
        return pd.DataFrame()
    runs = pd.DataFrame(rows)
    wanted = plan.hanging_params(p, set(map(models.representation_layer, runs["model"].unique())))
    wanted["attack"] = [{key: wanted["attack"][0][key] for key in plan.FGSM_KEYS}]
    for kind, all_ in wanted.items():
        table = pd.DataFrame.from_dict(_hanging(kind, store, all_), "index")
        runs = runs.join(table, on="parent") if len(table) else runs
    properties = properties_frame(p, store)
    if len(properties):
        new = ["dataset", *(column for column in properties if column not in runs)]
        runs = runs.merge(properties[new], on="dataset", how="left")
    return _numeric(runs)


def properties_frame(p: Params, store: Store | None = None) -> pd.DataFrame:
    """Make the table of a campaign's image sets: one row a set that has records at the campaign's setting.

    Columns: dataset, family, domain, size, channels, pixel_range, per_class; metrics of its properties, in which d_mle
    is called d_data and d_twonn is d_data_twonn; growth_per_class and growth_k_f (lists).
    """
    asked = ((source, [plan.properties_params(p, source)]) for source in plan.sources(p))
    return _numeric(pd.DataFrame([_properties(*one) for one in _found("properties", store, asked)]))


def _properties(record: Record, source: str) -> dict:
    row = _of_set(record, source) | {key: record.params[key] for key in (*plan.PIXELS, "per_class")}
    for name, value in record.metrics.items():
        if not WITHOUT.search(name):
            row[name.replace("d_mle", "d_data").replace("d_twonn", "d_data_twonn")] = value
    return row | {key: record.series.get(key) for key in GROWTH}


def sets_at(p: Params, store: Store | None = None, small: str = "") -> pd.DataFrame:
    """Make the table of all image sets in the records at a campaign's setting, whatever campaign they are of.

    The columns of `properties_frame`. Sets without both numbers are left out. Where a name stands for several sets, the
    published one is taken, or the one measured last. Where the set named `small` has fewer than M images a class,
    d_data and K_F of all sets are those at the largest recorded M that it has.
    """
    wanted = {key: value for key, value in plan.properties_params(p, "any").items() if key != "dataset"}
    known, found = records.published(), records.collected("properties", store)
    found.sort(key=lambda one: ((one.kind, one.id) in known, one.provenance.get("written", "")))
    last = {one.params["dataset"]: one for one in found if _same(one, wanted)}
    rows = [_properties(one, name) for name, one in last.items()]
    if small in last and last[small].metrics.get("k_f") is None:
        m = max(last[small].series.get("d_mle_per_class", ()), default=0)
        for row, one in zip(rows, last.values(), strict=True):
            row["per_class"] = m
            for column, keys in {"d_data": ("d_mle_per_class", "d_mle_at"), "k_f": GROWTH}.items():
                row[column] = dict(zip(*(one.series.get(key, ()) for key in keys), strict=True)).get(m)
    frame = _numeric(pd.DataFrame(rows, columns=None if rows else ["dataset", "d_data", "k_f"]))
    return frame.dropna(subset=["d_data", "k_f"], ignore_index=True)


def runs_at(p: Params, model: str, store: Store | None = None, small: str = "") -> pd.DataFrame:
    """Make the table of fitted runs of a network, trained as a campaign trains, on sets with runs at two sizes N.

    Columns: dataset, domain, family, n_train, seed, test_loss_nats, test_accuracy, n_test, per_class, d_data, k_f,
    n_classes. `small` as in `sets_at`. Raises CampaignError where there is no such run.
    """
    wanted = plan.training_params(p, "any", models.known(model), 0, 0)
    wanted = {key: value for key, value in wanted.items() if key not in ("dataset", "n_train", "seed", "precision")}
    found = []
    for one in records.collected("training", store):
        alike = _same(one, wanted) and one.params.get("warmup_steps") == wanted.get("warmup_steps")
        if alike and one.metrics["fitted"] and one.metrics.get("test_loss_nats"):
            found.append(one.metrics | one.params)
    columns = ["dataset", "n_train", "seed", "test_loss_nats", "test_accuracy", "n_test"]
    of_set = ["dataset", "domain", "family", "per_class", "d_data", "k_f", "n_classes"]
    sets = sets_at(p, store, small).reindex(columns=of_set)
    runs = pd.DataFrame(found, columns=columns).merge(sets, on="dataset")
    several = runs.groupby("dataset")["n_train"].transform("nunique") > 1  # one size says nothing of how the loss falls
    runs = runs[several].reset_index(drop=True)
    if runs.empty:
        how = f"train it with `intrinsic run params/{p.name}.yaml`"
        raise CampaignError(f"no fitted run of {model} is stored at the setting of {p.name}: {how}")
    return runs


@dataclass(frozen=True)
class Campaign:
    """The records of a campaign as a page shows them: its parameters with those of the page, and frames of records."""

    params: Params
    file: str
    changed: dict
    store: Store | None

    @cached_property
    def runs(self) -> pd.DataFrame:
        """Its `runs_frame`."""
        return runs_frame(self.params, self.store)

    @cached_property
    def sets(self) -> pd.DataFrame:
        """Its `properties_frame`."""
        return properties_frame(self.params, self.store)

    @cached_property
    def confirmation(self) -> "Campaign | None":
        """The campaign on new families, which stands with the published one; None for any other."""
        other = self.file != parameters.PUBLISHED or "datasets" in self.changed
        return None if other else open({"campaign": CONFIRMATION})

    @cached_property
    def every(self) -> pd.DataFrame:
        """`runs`, and those of the confirmation once all its primary ones are stored."""
        new = self.confirmation
        return self.runs if new is None or new.primary_missing else pd.concat([self.runs, new.runs], ignore_index=True)

    @cached_property
    def every_set(self) -> pd.DataFrame:
        """`sets`, and those of the confirmation."""
        return pd.concat([self.sets, self.confirmation.sets], ignore_index=True) if self.confirmation else self.sets

    @property
    def primary_missing(self) -> list[str]:
        """Of `missing`, the runs of levels: N = 500, seed 0."""
        return [label for label in self.missing if label.endswith(" N=500 seed=0")]

    @cached_property
    def missing(self) -> list[str]:
        """Runs that are planned, can be reached, and are not stored, in the order of the file."""
        rows = self.runs.reindex(columns=["model", "dataset", "n_train", "seed"]).itertuples(index=False)
        there = {*itertools.starmap(plan.run_label, rows)}
        there |= records.read_unreachable(records.published_file(self.params.name)).keys()
        cells = plan.cells(self.params)
        planned = (plan.run_label(model, plan.set_name(source), n, seed) for source, model, n, seed in cells)
        return [label for label in planned if label not in there]

    @property
    def shown(self) -> str:
        """Whose runs these are, in a sentence."""
        where = "the records of this machine" if self.store else "the published records (book/records)"
        of = f"{self.file} on {', '.join(self.params.datasets)}" if "datasets" in self.changed else self.file
        planned, more = len(self.runs) + len(self.missing), len(self.every) - len(self.runs)
        new = f" {more} runs of {CONFIRMATION} stand with them." if more else ""
        return f"{len(self.runs)} of {planned} planned runs of {of} are shown, from {where}.{new}"

    @property
    def command(self) -> str:
        """The shell command that makes what is missing."""
        changes = [f"-p {key} {shlex.quote(json.dumps(value))}" for key, value in self.changed.items()]
        return " ".join(["intrinsic run", shlex.quote(self.file), *changes])


def open(namespace: dict) -> Campaign:
    """Open the campaign that a page shows, by the parameters of the page.

    Parameters
    ----------
    namespace : dict
        `globals()` of the page. Every key of the schema in it counts, and `campaign`, the parameter file (default:
        params/published.yaml). `datasets` that is not empty replaces the campaign's image sets.

    Returns
    -------
    Campaign
        Of published records alone where the campaign has any and the page asks for no other image sets. Otherwise the
        records of this machine count too. With `compute = True` what is missing is trained first.

    Raises
    ------
    CampaignError
        For a misspelled key that papermill injected, a wrong value, and runs that fail.

    Examples
    --------
    >>> from intrinsic import campaigns
    >>> run = campaigns.open({"campaign": "params/published.yaml", "grey_level": 4})
    >>> run.params.grey_level, "k_f" in run.sets
    (4, True)
    """
    p, file, changed = parameters.of_page(namespace)
    own = "datasets" in changed
    try:
        for source in p.datasets if own else ():
            images.find(source)
    except images.UnknownImageSet as error:
        raise CampaignError(str(error)) from None
    if own and file == parameters.OWN:  # M is what the smallest class has, if that is fewer
        sets = (measurement.matched(source, p.size, p.channels, p.pixel_range) for source in p.datasets)
        least = min(n for data in sets for n in measurement.without_conflicts(data).counts().values() if n)
        if least < p.per_class:
            changed = changed | {"per_class": least}
            p = parameters.read(file, changed | {"compute": p.compute})
    local = p.compute or own or not records.published_file(p.name).exists()
    found = Campaign(p, file, changed, records.default_store() if local else None)
    if p.compute:
        from intrinsic.campaigns import execution

        for label, reason in execution.run(p, store=found.store).failed[:1]:
            raise CampaignError(f"a run failed, so the page would lack it: {label}: {reason}")
    elif own and "compute" in namespace and found.runs.empty:
        how = f"set compute = True, or type `{found.command}`"
        raise CampaignError(f"no run of {', '.join(p.datasets)} is stored: {how}")
    return found
