"""The parameter file: one schema, flat keys, unknown keys refused with a suggestion."""

import ast
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from intrinsic import images
from intrinsic.images.sets import suggest
from intrinsic.networks import models

MOST = 10**9  # steps, epochs or images that a parameter file may ask for
NO_CAMPAIGN = ("datasets.yaml", "claims.yaml", "further.yaml", "growth.yaml", "titles.yaml")  # which are no campaigns
PUBLISHED = "params/published.yaml"
OWN = "params/forecast.yaml"  # the runs of a page on image sets that the published campaign lacks: minutes, not hours
PLAIN = (str, int, float, bool, list, dict, type(None))

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]


class CampaignError(ValueError):
    """A parameter file, a grid or a store that cannot be used."""

    def _render_traceback_(self):
        return [f"CampaignError: {self}"]  # a notebook shows the sentence alone


class RunBlock(BaseModel):
    """One block of the grid: every model x image set x size x seed in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    models: list[str] = Field(min_length=1, description=f"networks: {', '.join(models.MODELS)}, or others by name")
    n_train: list[Annotated[int, Field(ge=2, le=MOST)]] = Field(
        min_length=1, description="training images in total, balanced over the classes"
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(
        default=[0], min_length=1, description="seeds: split, first weights and order of images"
    )
    datasets: list[str] | None = Field(default=None, min_length=1, description="image sets; null: all of the campaign")
    radius_images: CountOrNone | None = Field(default=None, description="as the campaign's, for this block; null: its")

    @field_validator("models")
    @classmethod
    def _known(cls, names):
        return [models.known(name) for name in names]


class Params(BaseModel):
    """Every key of a parameter file; the defaults are those of params/quick.yaml, but for image sets and runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(default="quick", pattern=r"^[A-Za-z0-9_-]+$", description="the campaign's name")
    datasets: list[str] = Field(default=["digits"], min_length=1, description="catalogue names, or paths")
    dataset: str = Field(default="digits", description="the one image set of a dataset report")
    runs: list[RunBlock] = Field(default=[], description="blocks of the grid")

    size: int = Field(default=32, ge=8, le=1024, description="pixels a side, for all sets")
    channels: Literal[1, 3] = Field(default=1, description="channels, for all sets")
    pixel_range: Literal["stored", "image"] = Field(
        default="stored", description="grey levels as in the files, or each image's maximum at 255; for all sets"
    )
    per_class: int = Field(default=250, ge=2, le=MOST, description="M, images a class for d_data and K_F")
    draws: Count = Field(default=25, description="balanced draws of M a class that are averaged")
    k: int = Field(default=20, ge=2, le=MOST, description="neighbors of the maximum-likelihood dimension")

    protocol: Literal["fit", "paper"] = Field(
        default="fit", description="of training: this book's, or the paper's (100 epochs, its batches, float32)"
    )
    until: Literal["fit", "epochs"] = Field(default="fit", description="train until fit, or `epochs` epochs")
    epochs: Count = Field(default=100, description="epochs where until = epochs; the cap where until = fit")
    min_steps: Count = Field(default=1500, description="optimizer steps before 'did not fit'")
    warmup_steps: CountOrNone | None = Field(
        default=None, description="steps over which the learning rate rises; null: the network's, 0 or 2000"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the products in training; auto: bfloat16 where the hardware has it"
    )
    checkpoint_minutes: float = Field(default=2, ge=0, description="between two checkpoints of a run in training")
    weights: Literal["none", "kept"] = Field(default="none", description="whether trained networks stay in the store")

    grey_levels: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        default=[1, 2, 4, 8], min_length=1, description="attack budgets, L-infinity, of 255"
    )
    grey_level: int = Field(default=2, description="the budget of the primary test, one of grey_levels")
    attack_images: int = Field(default=200, ge=2, le=MOST, description="test images attacked")
    pgd_levels: list[Annotated[int, Field(ge=0, le=255)]] = Field(
        default=[], description="budgets of PGD, L-infinity, of 255"
    )
    pgd_steps: Count = Field(default=20, description="gradients of PGD for each image and budget")
    radius_images: CountOrNone = Field(default=0, description="test images whose minimal radius is found")
    sanity_images: CountOrNone = Field(default=4, description="test images of the attacks' sanity checks")
    slope_pairs: CountOrNone = Field(
        default=0, description="segments between labels on which the network's slope is measured"
    )
    layers: Literal["paper", "blocks"] = Field(default="paper", description="of d_repr: the paper's, or every block")

    fitted_only: bool = Field(default=True, description="claims use fitted runs only")
    compute: bool = Field(default=False, description="a notebook trains what is missing")
    workers: Count | None = Field(default=None, description="processes of one thread; null: one a GPU or core")

    plan: dict[str, Any] = Field(default={}, description="what is stated before the runs; it changes none of them")

    @model_validator(mode="after")
    def _can_be_computed(self):
        if self.grey_level not in self.grey_levels:
            raise ValueError(f"grey_level {self.grey_level} is not one of grey_levels {self.grey_levels}")
        if why := impossible(self):
            raise ValueError(why)
        return self


def impossible(p: Params) -> str:
    """Say why some runs fail on every image set, or why a key changes nothing; else ""."""
    if p.protocol == "paper" and p.warmup_steps:
        return f"warmup_steps is {p.warmup_steps}, but the paper's protocol has no warm-up: leave one of them out"
    if p.k >= 2 * p.per_class:
        return (
            f"k = {p.k} neighbors are not among 2 x per_class = {2 * p.per_class} images: give a smaller k or a "
            "larger per_class"
        )
    for i, block in enumerate(p.runs, 1):
        if p.k >= min(block.n_train):
            return (
                f"k = {p.k} neighbors are not among the n_train = {min(block.n_train)} images of block {i} of runs: "
                "give a smaller k or a larger n_train"
            )
        for model in block.models:
            if p.size < (least := models.smallest_size(model)):
                return (
                    f"size = {p.size} is too small for {model} in block {i} of runs, which reads {least} pixels a "
                    "side or more: give a larger size or another network"
                )
    return ""


def _place(loc: tuple) -> str:
    """Name a place in a parameter file: ("runs", 1, "seeds", 0) is `block 2 of runs: seeds: entry 1`."""
    parts = list(loc)
    if len(parts) > 1 and parts[0] == "runs" and isinstance(parts[1], int):
        parts[:2] = [f"block {parts[1] + 1} of runs"]
    return ": ".join(f"entry {part + 1}" if isinstance(part, int) else str(part) for part in parts)


def _unknown(key, known, where: str) -> str:
    return f"{where}: {key!r} is not a parameter, so it would change nothing{suggest(key, known)}"


def _sentence(error: ValidationError, where: str) -> str:
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    loc, found = first["loc"], first["input"]
    if not loc:
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    if first["type"] == "extra_forbidden":
        *outside, key = loc
        known = (RunBlock if outside else Params).model_fields
        return _unknown(key, known, f"{where}: {_place(outside)}" if outside else where)
    said = {
        "missing": "it is missing, so it is not known what to run; give it",
        "model_type": "a block holds `key: value` lines, as in params/quick.yaml",
        "too_short": "it is empty, so nothing would be computed for it; give at least one",
    }.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"{where}: {_place(loc)}: {said}" + ("" if first["type"] == "missing" else f" (found {found!r})")


def files() -> list[Path]:
    """List the parameter files of this repository."""
    return sorted(p for p in (images.REPOSITORY / "params").glob("*.yaml") if p.name not in NO_CAMPAIGN)


def _body(path: Path) -> dict:
    """The keys and values of a YAML file."""
    try:
        body = images.plain_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(str(p.relative_to(images.REPOSITORY)) for p in files())
        raise CampaignError(f"there is no parameter file {path}; this book has {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise CampaignError(f"{path} cannot be read as a parameter file: {error}") from None
    except yaml.YAMLError as error:
        raise CampaignError(f"{path} is not valid YAML ({images.yaml_reason(error)}); correct it") from None
    if not isinstance(body, dict):
        raise CampaignError(f"{path} must hold `key: value` lines, as params/quick.yaml does")
    if wrong := [key for key in body if not isinstance(key, str)]:
        raise CampaignError(_unknown(wrong[0], Params.model_fields, str(path)))
    return body


def _checked(body: dict, where: str) -> Params:
    try:
        return Params(**body)
    except ValidationError as error:
        raise CampaignError(_sentence(error, where)) from None


def _found(path: Path | str) -> Path:
    """A path as it is given, or in the repository where it does not exist here."""
    path = Path(path).expanduser()
    there = images.REPOSITORY / path
    return there if not path.exists() and there.exists() else path


def shown(path: Path | str) -> str:
    """A parameter file as a reader knows it: from the repository's root where it lies there."""
    path = _found(path)
    return (path.relative_to(images.REPOSITORY) if path.is_relative_to(images.REPOSITORY) else path).as_posix()


def changed(p: Params, path: Path | str, keys) -> dict:
    """Those of the keys whose values are others than in the parameter file."""
    ours = p.model_dump(mode="json")
    theirs = (read(path) if _found(path).exists() else Params()).model_dump(mode="json")
    return {key: ours[key] for key in keys if key != "compute" and ours[key] != theirs[key]}


def read(path: Path | str, overrides: dict | None = None) -> Params:
    """Read the parameters of a YAML file, which is looked for here, then in the repository.

    overrides: values in place of the file's. `datasets` replaces the image sets of all runs; empty keeps them. Where
    `name` and `runs` are among them they are a whole parameter file, and only their keys count. Raises CampaignError.

    >>> read("params/published.yaml", {"datasets": ["digits"]}).datasets
    ['digits']
    """
    path = _found(path)
    if not overrides:
        return _checked(_body(path), str(path))
    overrides = dict(overrides)
    if not overrides.get("datasets", True):
        del overrides["datasets"]
    if whole(overrides):
        return _checked(overrides, "parameters")
    p = _checked({**_body(path), **overrides}, str(path))
    return instead(p, p.datasets) if "datasets" in overrides else p


def whole(keys) -> bool:
    """Whether keys are those of a whole parameter file, as `papermill -f` gives them to a page."""
    return {"name", "runs"} <= set(keys)


def params(**keys) -> Params:
    """Make parameters of keywords; unknown keys are refused."""
    return _checked(keys, "parameters")


def instead(p: Params, datasets: list[str]) -> Params:
    """The campaign on other image sets: the blocks that all of its sets share, or every block where none is shared."""
    shared = [block for block in p.runs if block.datasets is None] or p.runs
    blocks = [block.model_copy(update={"datasets": None}) for block in shared]
    return p.model_copy(update={"datasets": list(dict.fromkeys(datasets)), "runs": blocks})


def of_page(namespace: dict) -> tuple[str, dict]:
    """Take the parameters of a page from its namespace: the campaign's file, and the keys that the schema knows.

    On image sets that the published campaign lacks, the file is OWN. Raises CampaignError for what papermill injected
    and neither the schema nor the page knows.
    """
    cells = [str(cell) for cell in namespace.get("In", ())]
    for i, cell in enumerate(cells):
        if cell.startswith("# Parameters\n"):
            own, given = set().union(*map(_assigned, cells[:i])), _assigned(cell)
            declared = own | {"campaign", *Params.model_fields}
            if not whole(given):  # `dataset` changes pages of one image set alone
                declared -= {"dataset"} - own
            for key in given - declared:
                raise CampaignError(_unknown(key, declared, "papermill's parameters"))
    found = {key: namespace[key] for key in Params.model_fields if isinstance(namespace.get(key, ...), PLAIN)}
    if isinstance(found.get("datasets"), str):
        found["datasets"] = _listed(found["datasets"])
    file, own = str(namespace.get("campaign") or PUBLISHED), found.get("datasets")
    if file == PUBLISHED and own and not whole(found) and any(one not in read(file).datasets for one in own):
        file = OWN
    return file, found


def _listed(text: str) -> list:
    """A text as papermill's -p gives it: a list in brackets, or one name."""
    try:
        return images.plain_yaml(text) if text.lstrip().startswith("[") else [text]
    except yaml.YAMLError as error:
        raise CampaignError(f"datasets: {text} is no list ({images.yaml_reason(error)})") from None


def _assigned(source: str) -> set[str]:
    """Names that a cell assigns in lines of its own."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # of a cell with IPython's own commands
        return set()
    return {
        one.id for line in body if isinstance(line, ast.Assign) for one in line.targets if isinstance(one, ast.Name)
    }
