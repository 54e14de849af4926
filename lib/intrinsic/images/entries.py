"""The catalogue: an image set is data, not code. Entries, and the catalogue files that hold them.

The only module of this room that knows YAML and pydantic; it is imported when a catalogue is read.
"""

import dataclasses
import functools
import inspect
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import yaml

from intrinsic.images.adapters import ADAPTERS
from intrinsic.images.embedded import EMBEDDED
from intrinsic.images.packaged import PACKAGED, is_there
from intrinsic.images.pictures import Levels
from intrinsic.images.rules import GroupRule, LabelRule, Text
from intrinsic.images.sets import REPOSITORY, BadCatalogue, BadSource, Domain, reason, suggest
from intrinsic.images.tables import Join

ENVIRONMENT = "INTRINSIC_CATALOGUE"  # further catalogue files, separated as in PATH
SHIPPED = REPOSITORY / "params" / "datasets.yaml"
ALL_ADAPTERS = {**EMBEDDED, **ADAPTERS, **PACKAGED}
_VARIABLE = r"(?<!\$)\$\{(\w+)(?::-([^}]*))?\}"  # of the environment, and its default, in a location


@functools.cache
def options_model(adapter):
    """The options of an adapter, the keyword arguments of its function, as a pydantic model."""
    fields = {
        p.name: (p.annotation, pydantic.Field(... if p.default is p.empty else p.default, alias=p.name.rstrip("_")))
        for p in inspect.signature(ALL_ADAPTERS[adapter]).parameters.values()
        if p.name not in ("path", "progress")
    }
    config = pydantic.ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    return pydantic.create_model(f"{adapter} options", __config__=config, **fields)


class Pairs(pydantic.BaseModel):
    """Pairs of classes, drawn at random without repetition; each becomes an image set of its own.

    The seed puts all pairs into one order: with a greater count, those of a smaller stay. `values` are the classes as
    the label rule finds them; or how many there are, for pairs of places such as ["#3", "#7"].
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    count: int = pydantic.Field(5, ge=1)
    seed: int = pydantic.Field(0, ge=0)
    values: Annotated[
        list[Text],
        pydantic.Field(min_length=2, max_length=10_000),
        pydantic.BeforeValidator(lambda n: [f"#{i}" for i in range(min(n, 10_001))] if isinstance(n, int) else n),
    ]

    @pydantic.model_validator(mode="after")
    def _enough(self):
        n = len(self.values)
        if len(set(self.values)) < n:
            raise ValueError("a class is named twice in `values`")
        if self.count > n * (n - 1) // 2:
            raise ValueError(f"{n} classes make {n * (n - 1) // 2} pairs, and {self.count} are asked for")
        return self

    def drawn(self):
        """The pairs, in the order in which they were drawn; inside a pair, in the order of `values`."""
        first, second = np.triu_indices(len(self.values), 1)
        order = np.random.default_rng(self.seed).permutation(len(first))[: self.count]
        return [(self.values[first[i]], self.values[second[i]]) for i in order]


class Entry(pydantic.BaseModel):
    """One image set of the catalogue; the head of params/datasets.yaml explains its fields.

    In a location ${NAME} is an environment variable, ${NAME:-TEXT} has a default, and $${ is a plain ${. A relative one
    starts at the repository root (params/datasets.yaml) or beside the catalogue file.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    title: str
    domain: Domain
    modality: str = ""
    adapter: str
    location: str | None = None
    options: dict[str, Any] = {}
    labels: LabelRule = LabelRule()
    group: Annotated[  # unknown sets aside groups that the source names
        Annotated[GroupRule | None, pydantic.Tag("<rule>")] | Annotated[Literal["unknown"], pydantic.Tag("<unknown>")],
        pydantic.Discriminator(lambda value: "<unknown>" if isinstance(value, str) else "<rule>"),
    ] = None
    pairs: Pairs | None = None  # the catalogue then also holds NAME-pair1, NAME-pair2, ..., each of two classes
    size: int | None = pydantic.Field(None, ge=1)
    channels: Literal[1, 3] | None = None
    levels: str | None = None  # as in pictures.Levels
    skip_unreadable: bool = False
    at_most: int | None = pydantic.Field(None, ge=1)  # of larger classes the paths of smallest SHA-256 are read
    as_published: dict[str, Any] | None = None
    about: str
    beware: str
    source: str
    licence: str
    citation: str = ""
    family: str = ""
    show_pixels: bool = True
    obtain: list[str] = []
    parent: str = ""  # the entry that this one, a pair of its classes, was made from
    base: Path = REPOSITORY  # where a relative location starts; set by the reader of the file

    @pydantic.model_validator(mode="after")
    def _fits(self):
        Levels.of(self.levels)
        if self.adapter not in ALL_ADAPTERS:
            names = ", ".join(ALL_ADAPTERS)
            raise ValueError(f"adapter {self.adapter!r} is not among {names}{suggest(self.adapter, ALL_ADAPTERS)}")
        try:
            options_model(self.adapter).model_validate(self.options)
        except pydantic.ValidationError as error:
            known = [field.alias for field in options_model(self.adapter).model_fields.values()]
            known += [field.name for field in dataclasses.fields(Join)]
            raise ValueError(f"options of adapter {self.adapter}: {sentence(error, known)}") from None
        if (self.location is None) != (self.adapter in EMBEDDED):
            need = "needs a location" if self.location is None else "is built in and takes no location"
            raise ValueError(f"adapter {self.adapter} {need}")
        self.of_pairs()  # a rule that pairs contradict is refused
        return self

    def __hash__(self):
        return hash(self.model_dump_json())

    def found(self, progress=False):
        """What the set holds, as its adapter lists it: a files.Found. Raises BadSource."""
        place = self.place()
        if place is not None and not place.exists() and self.adapter not in PACKAGED:
            how = f"; `intrinsic datasets {self.name}` says how to get it" if self.obtain else ""
            raise BadSource(f"{place} does not exist: put {self.name} there, or correct its location{how}")
        options = options_model(self.adapter).model_validate(self.options)
        return ALL_ADAPTERS[self.adapter](place, progress, **dict(options))

    def variables(self):
        """Names of the environment's variables in its location."""
        return [name for name, _ in re.findall(_VARIABLE, self.location or "")]

    def place(self):
        """Where the set is on this machine, whether or not it is there. Raises BadSource for an unset variable."""
        if self.location is None:
            return None

        def value(found):
            given = os.environ.get(found[1]) or found[2]
            if given is None:
                raise BadSource(f"the variable {found[1]} is not set, where {self.name} is: export {found[1]}=FOLDER")
            return given

        return self.base / Path(re.sub(_VARIABLE, value, self.location).replace("$${", "${")).expanduser()

    def whereabouts(self):
        """Where the set is, in a word or two: built in, here, downloads (when it is first read), not here."""
        if self.location is None:
            return "built in"
        packaged = self.adapter in PACKAGED
        try:
            place = self.place()
            here = is_there(place, self.adapter, self.options) if packaged else place.exists()
        except BadSource:
            here = False
        return "here" if here else "downloads" if packaged else "not here"

    def present(self):
        """Whether the set can be read on this machine now, without a download."""
        return self.whereabouts() in ("built in", "here")

    def describe(self):
        """Everything that the catalogue says of the set, as YAML, and where it is."""
        try:
            where = self.place() or "built from installed packages"
        except BadSource as error:
            where = error
        return f"{self.written()}# {where} ({self.whereabouts()})"

    def of_pairs(self):
        """An entry for each pair drawn: the same in all but name, title, labels, and family where this has none."""
        made = []
        for i, (a, b) in enumerate(self.pairs.drawn() if self.pairs else [], 1):
            changed = {
                "name": f"{self.name}-pair{i}",
                "title": f"{self.title}: {a} against {b}",
                "labels": LabelRule.model_validate(dict(self.labels) | {"pair": (a, b)}),
                "family": self.family or self.name,
                "parent": self.name,
                "pairs": None,
            }
            made.append(self.model_copy(update=changed))
        return made

    def written(self):
        """The entry as the YAML text of a catalogue file that holds nothing else."""
        fields = self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "base", "parent"})
        return yaml.safe_dump({self.name: fields}, sort_keys=False, allow_unicode=True, width=110)

    def draft(self):
        """An entry to be completed, as YAML text, in which the classes found are named. Raises as load does."""
        found = self.found()
        _, classes, _ = self.labels.apply(found.table, found.label, found.classes)
        told = {
            "title": self.title.upper(),
            "modality": "HOW THE IMAGES WERE MADE",
            "labels": self.labels.model_copy(update={"pair": None, "classes": {name: [name] for name in classes}}),
            "about": "WHAT THE IMAGES ARE AND WHAT THE LABEL SAYS",
            "beware": "WHAT THE SET IS NOT",
            "source": "WHERE IT IS FROM",
            "licence": "ITS LICENCE",
            "show_pixels": False,
        }
        return _DRAFT + self.model_copy(update=told).written()


_DRAFT = """\
# Replace what is in capitals, then name this file with --catalogue or in INTRINSIC_CATALOGUE. Pages show its pictures
# only where show_pixels is true, which a licence or a patient may not allow.
"""


def catalogue(path=None):
    """The catalogue as {name: Entry}: from `path`, or from all catalogue_files(). Raises BadCatalogue."""
    entries = {}
    for file in catalogue_files() if path is None else [Path(path).expanduser()]:
        try:
            further = _entries(file.absolute(), file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            how = f"correct --catalogue, {ENVIRONMENT} or INTRINSIC_HOME, whichever names it"
            raise BadCatalogue(f"the catalogue {file} cannot be read ({reason(error)}): {how}") from None
        if twice := sorted(set(further) & set(entries)):
            raise BadCatalogue(f"{file} holds {twice[0]!r}, as another catalogue does: give it another name")
        entries |= further
    return entries


def catalogue_files():
    """The catalogue files in use: params/datasets.yaml and those in INTRINSIC_CATALOGUE."""
    more = [Path(n).expanduser() for n in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))]
    return [SHIPPED, *(file for file in more if file.resolve() != SHIPPED.resolve())]


@functools.lru_cache(maxsize=8)
def _entries(path, text):
    """The entries of a catalogue file of this text."""
    try:
        content = plain_yaml(text)
    except yaml.YAMLError as error:
        raise BadCatalogue(f"{path} is not plain YAML ({yaml_reason(error)}): correct it there") from None
    if not isinstance(content, dict) or not content:
        what = "is empty" if not content else f"holds a {type(content).__name__}"
        raise BadCatalogue(f"{path} {what}, where image sets by name are needed: see params/datasets.yaml")
    base = REPOSITORY if path.resolve() == SHIPPED.resolve() else path.parent
    entries = {}
    for name, fields in content.items():
        if not isinstance(name, str) or not isinstance(fields, dict):
            raise BadCatalogue(f"{path}: {name!r} is not a name followed by fields such as title and adapter")
        entry = made({**fields, "name": name, "base": base, "parent": ""}, BadCatalogue, f"{path}, image set {name!r}")
        for one in [entry, *entry.of_pairs()]:
            if one.parent and one.name in content:
                raise BadCatalogue(f"{path}: {one.name!r} is a set and a pair drawn for {one.parent!r}: rename it")
            entries[one.name] = one
    return entries


def made(fields, error, where):
    """An Entry of its fields. Raises `error`, which begins with `where`, in one sentence."""
    try:
        return Entry.model_validate(fields)
    except pydantic.ValidationError as found:
        known = [name for model in (Entry, Pairs, LabelRule, GroupRule) for name in model.model_fields]
        raise error(f"{where}: {sentence(found, known)}") from None


def sentence(error, known):
    """What a pydantic error found, in one line, with hints from the known keys."""
    parts = []
    for found in error.errors():
        place = ".".join(str(p) for p in found["loc"] if not str(p).startswith("<"))  # <>: the type of a value
        if found["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            text = f"unknown key {place!r}{suggest(found['loc'][-1], known)}"
        elif found["type"] in ("missing", "missing_argument"):
            text = f"key {place!r} is missing"
        else:
            text = found["msg"].removeprefix("Value error, ")
            text = f"{place}: {text}" if place else text
            if found["type"] != "value_error" and not isinstance(found["input"], dict):
                text += f", not {found['input']!r}"
        parts.append(text)
    return "; ".join(parts)


class _PlainYaml(yaml.SafeLoader):
    """Safe YAML (no tags that build objects) that refuses a key given twice."""

    def compose_mapping_node(self, anchor):
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.composer.ComposerError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return node


def plain_yaml(text):
    """What a YAML text holds: no tags that build objects, no key given twice. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _PlainYaml)
    except (ValueError, LookupError, ArithmeticError, AttributeError) as error:  # a date or number that is none
        raise yaml.YAMLError(reason(error)) from None


def yaml_reason(error):
    """What is wrong with a YAML text and in which line, from the yaml.YAMLError."""
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or reason(error)}{where}"
