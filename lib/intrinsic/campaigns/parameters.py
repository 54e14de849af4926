"""The parameter file: one schema, flat keys, unknown keys refused with a suggestion."""

import ast
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from intrinsic import images
from intrinsic.images.entries import sentence
from intrinsic.images.sets import suggest
from intrinsic.networks import models

MOST = 10**9  # steps, epochs or images that a parameter file may ask for
NO_CAMPAIGN = ("datasets.yaml", "claims.yaml", "further.yaml", "growth.yaml", "titles.yaml")  # which are no campaigns
PUBLISHED = "params/published.yaml"
OWN = "params/forecast.yaml"  # the runs of a page on image sets that the published campaign lacks: minutes, not hours
PLAIN = (str, int, float, bool, list, dict, type(None))
WHOLE = {"name", "runs"}  # keys that a whole parameter file has

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]
Several = Annotated[int, Field(ge=2, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Grey = Annotated[int, Field(ge=0, le=255)]


class CampaignError(ValueError):
    """A parameter file, a grid or a store that cannot be used."""

    def _render_traceback_(self):
        return [f"CampaignError: {self}"]  # a notebook shows the sentence alone


class RunBlock(BaseModel):
    """One block of the grid: every model x image set x size x seed in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    models: list[str] = Field(min_length=1, description=f"networks: {', '.join(models.MODELS)}, or others by name")
    n_train: list[Several] = Field(min_length=1, description="training images in total, balanced over the classes")
    seeds: list[Seed] = Field([0], min_length=1, description="seeds: split, first weights and order of images")
    datasets: list[str] | None = Field(None, min_length=1, description="image sets; null: all of the campaign")
    radius_images: CountOrNone | None = Field(None, description="as the campaign's, for this block; null: its")

    @field_validator("models")
    @classmethod
    def _known(cls, names):
        return [models.known(name) for name in names]


class Params(BaseModel):
    """Every key of a parameter file; the defaults are those of params/quick.yaml, but for image sets and runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field("quick", pattern=r"^[A-Za-z0-9_-]+$", description="the campaign's name")
    datasets: list[str] = Field(["digits"], min_length=1, description="catalogue names, or paths")
    dataset: str = Field("digits", description="the one image set of a dataset report")
    runs: list[RunBlock] = Field([], description="blocks of the grid")

    size: int = Field(32, ge=8, le=1024, description="pixels a side, for all sets")
    channels: Literal[1, 3] = Field(1, description="channels, for all sets")
    pixel_range: Literal["stored", "image"] = Field(
        "stored", description="grey levels as in the files, or each image's maximum at 255; for all sets"
    )
    per_class: int = Field(250, ge=2, le=MOST, description="M, images a class for d_data and K_F")
    draws: Count = Field(25, description="balanced draws of M a class that are averaged")
    k: int = Field(20, ge=2, le=MOST, description="neighbors of the maximum-likelihood dimension")

    protocol: Literal["fit", "paper"] = Field(
        "fit", description="of training: this book's, or the paper's (100 epochs, its batches, float32)"
    )
    until: Literal["fit", "epochs"] = Field("fit", description="train until fit, or `epochs` epochs")
    epochs: Count = Field(100, description="epochs where until = epochs; the cap where until = fit")
    min_steps: Count = Field(1500, description="optimizer steps before 'did not fit'")
    warmup_steps: CountOrNone | None = Field(
        None, description="steps over which the learning rate rises; null: the network's, 0 or 2000"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the products in training; auto: bfloat16 where the hardware has it"
    )
    checkpoint_minutes: float = Field(2, ge=0, description="between two checkpoints of a run in training")
    weights: Literal["none", "kept"] = Field("none", description="whether trained networks stay in the store")

    grey_levels: list[Grey] = Field([1, 2, 4, 8], min_length=1, description="attack budgets, L-infinity, of 255")
    grey_level: int = Field(2, description="the budget of the primary test, one of grey_levels")
    attack_images: int = Field(200, ge=2, le=MOST, description="test images attacked")
    pgd_levels: list[Grey] = Field([], description="budgets of PGD, L-infinity, of 255")
    pgd_steps: Count = Field(20, description="gradients of PGD for each image and budget")
    radius_images: CountOrNone = Field(0, description="test images whose minimal radius is found")
    sanity_images: CountOrNone = Field(4, description="test images of the attacks' sanity checks")
    slope_pairs: CountOrNone = Field(0, description="segments between labels on which the network's slope is measured")
    layers: Literal["paper", "blocks"] = Field("paper", description="of d_repr: the paper's, or every block")

    fitted_only: bool = Field(True, description="claims use fitted runs only")
    compute: bool = Field(False, description="a notebook trains what is missing")
    workers: Count | None = Field(None, description="processes of one thread; null: one a GPU or core")

    plan: dict[str, Any] = Field({}, description="what is stated before the runs; it changes none of them")

    @model_validator(mode="after")
    def _can_be_computed(self):
        """Some runs fail on every image set, or a key changes nothing."""
        if self.grey_level not in self.grey_levels:
            raise ValueError(f"grey_level {self.grey_level} is not one of grey_levels {self.grey_levels}")
        if self.protocol == "paper" and self.warmup_steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}, but protocol = paper has no warm-up: leave one out")
        sizes = [(n, "n_train") for block in self.runs for n in block.n_train]
        least, what = min([(2 * self.per_class, "2 x per_class"), *sizes])
        if self.k >= least:
            raise ValueError(f"k = {self.k} neighbors are not among {what} = {least} images: give a smaller k")
        for model in (model for block in self.runs for model in block.models):
            if self.size < (least := models.smallest_size(model)):
                why = f"{model} reads {least} pixels a side or more: give a larger size or another network"
                raise ValueError(f"size = {self.size} is too small; {why}")
        return self


def files() -> list[Path]:
    """List the parameter files of this repository."""
    return sorted(p for p in (images.REPOSITORY / "params").glob("*.yaml") if p.name not in NO_CAMPAIGN)


def _body(path: Path) -> dict:
    """The keys and values of a YAML file."""
    try:
        body = images.plain_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(map(shown, files()))
        raise CampaignError(f"there is no parameter file {path}; this book has {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CampaignError(f"{path} cannot be read as YAML ({images.yaml_reason(error)}); correct it") from None
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise CampaignError(f"{path} must hold `key: value` lines, as params/quick.yaml does; it holds {body!r:.80}")
    return body


def _checked(body: dict, where: str) -> Params:
    try:
        return Params(**body)
    except ValidationError as error:
        raise CampaignError(f"{where}: {sentence(error, [*Params.model_fields, *RunBlock.model_fields])}") from None


def _found(path: Path | str) -> Path:
    """A path as it is given, or in the repository where it does not exist here."""
    path = Path(path).expanduser()
    there = images.REPOSITORY / path
    return there if not path.exists() and there.exists() else path


def shown(path: Path | str) -> str:
    """A parameter file as a reader knows it: from the repository's root where it lies there."""
    path = _found(path)
    return (path.relative_to(images.REPOSITORY) if path.is_relative_to(images.REPOSITORY) else path).as_posix()


def read(path: Path | str, overrides: dict | None = None) -> Params:
    """Read the parameters of a YAML file, which is looked for here, then in the repository.

    overrides: values in place of the file's. `datasets` that is not empty replaces the image sets of all runs, in the
    blocks that all sets share, or in every block where none is shared. With `name` and `runs` the values are a whole
    parameter file, as `papermill -f` gives it, and only their keys count. Raises CampaignError.

    >>> read("params/published.yaml", {"datasets": ["digits"]}).datasets
    ['digits']
    """
    path, overrides = _found(path), dict(overrides or {})
    if not overrides.get("datasets", True):
        del overrides["datasets"]
    if overrides.keys() >= WHOLE:
        return _checked(overrides, "parameters")
    p = _checked({**_body(path), **overrides}, str(path))
    if "datasets" not in overrides:
        return p
    shared = [block for block in p.runs if block.datasets is None] or p.runs
    blocks = [block.model_copy(update={"datasets": None}) for block in shared]
    return p.model_copy(update={"datasets": list(dict.fromkeys(p.datasets)), "runs": blocks})


def check(namespace: dict, also=()) -> None:
    """Check what papermill injected into a page, by its `globals()`, against the page's own cell of parameters.

    also: names that may be injected though the page does not assign them. Raises CampaignError for a name that is no
    parameter and for a value of another type.
    """
    cells = [str(cell) for cell in namespace.get("In", ())]
    for i, cell in enumerate(cells):
        if cell.startswith("# Parameters\n"):
            given, own = _assigned(cell), _assigned("\n".join(cells[i - 1 : i]))
            known = {*own, *also} - (set() if given.keys() >= WHOLE or "dataset" in own else {"dataset"})
            for key in given.keys() - known:
                raise CampaignError(f"papermill's {key!r} is no parameter of this page{suggest(key, known)}")
            for key in given.keys() & own.keys():
                value, default = given[key], own[key]
                fits = (isinstance(value, int) and isinstance(default, float)) or isinstance(value, type(default))
                if not (fits or None in (value, default) or (key == "datasets" and isinstance(value, str))):
                    kind = type(default).__name__
                    raise CampaignError(f"{key} = {value!r} is no {kind}: give one, such as {default!r}")


def _assigned(cell: str) -> dict:
    """{name: value} of the plain values that a cell assigns."""
    found = {}
    for one in ast.parse(cell).body:
        if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name):
            with suppress(ValueError):  # no plain value
                found[one.targets[0].id] = ast.literal_eval(one.value)
    return found


def of_page(namespace: dict) -> tuple[Params, str, dict]:
    """Take the parameters of a page from its namespace; its campaign's file, and values that are not as in the file.

    On image sets that the published campaign lacks, the file is OWN. Raises CampaignError for what papermill injected
    and neither the schema nor the page knows.
    """
    check(namespace, {*Params.model_fields, "campaign"})
    given = {key: namespace[key] for key in Params.model_fields if isinstance(namespace.get(key, ...), PLAIN)}
    if isinstance(given.get("datasets"), str):
        given["datasets"] = _listed(given["datasets"])
    file, whole = str(namespace.get("campaign") or PUBLISHED), given.keys() >= WHOLE
    own = [] if whole or not isinstance(given.get("datasets"), list) else given["datasets"]
    if file == PUBLISHED and any(one not in read(file).datasets for one in own):
        file = OWN
    p = read(file, given)
    if whole and Path(file).stem != p.name:
        file = f"params/{p.name}.yaml"
    ours, theirs = (one.model_dump(mode="json") for one in (p, read(file) if _found(file).exists() else Params()))
    changed = {key: ours[key] for key in given if key != "compute" and ours[key] != theirs[key]}
    return p, shown(file), changed | ({"datasets": p.datasets} if own else {})


def _listed(text: str) -> list:
    """A text as papermill's -p gives it: a list in brackets, or one name."""
    try:
        return images.plain_yaml(text) if text.lstrip().startswith("[") else [text]
    except yaml.YAMLError as error:
        raise CampaignError(f"datasets: {text} is no list ({images.yaml_reason(error)})") from None
