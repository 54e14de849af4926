"""The catalogue: an image set is data, not code. Entries, catalogue files, and `load`, which reads any set."""

import functools
import hashlib
import os
import re
import textwrap
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
import pydantic
import yaml

from intrinsic.images import files
from intrinsic.images.adapters import (
    ADAPTERS,
    HEADER,
    TABLES,
    Found,
    Options,
    adapter_of,
    is_tag,
    kind_inside,
    patients,
)
from intrinsic.images.embedded import EMBEDDED
from intrinsic.images.matching import Range, check_match, match
from intrinsic.images.packaged import PACKAGED, PackagedOptions
from intrinsic.images.published import (
    PUBLISHED_SIZE,
    AsPublished,
    published_names,
    published_pixels,
    published_rows,
)
from intrinsic.images.rules import GroupRule, LabelRule, Text
from intrinsic.images.sets import (
    REPOSITORY,
    BadCatalogue,
    BadImages,
    BadSource,
    Domain,
    ImageSet,
    UnknownImageSet,
    plain_yaml,
    reason,
    sentence,
    suggest,
    yaml_reason,
)

ENVIRONMENT = "INTRINSIC_CATALOGUE"  # further catalogue files, separated as in PATH
SHIPPED = REPOSITORY / "params" / "datasets.yaml"

Adapter = tuple[type[Options], Callable[[Path | None, Any, bool], Found]]
_ADAPTERS: dict[str, Adapter] = {**EMBEDDED, **ADAPTERS, **PACKAGED}
WITHOUT_LOCATION = tuple(EMBEDDED)
_VARIABLE = r"(?<!\$)\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}"  # of the environment, in a location
FILES = (".npz", *TABLES)  # files that are an image set, or list one


class Pairs(pydantic.BaseModel):
    """Pairs of classes, drawn at random without repetition; each becomes an image set of its own.

    count    how many
    seed     of numpy's default_rng, which puts all pairs into one order: with a greater count, those of a smaller stay
    values   the classes as the label rule finds them; or how many there are, for pairs of places such as ["#3", "#7"];
             10,000 at most
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    count: int = pydantic.Field(5, ge=1)
    seed: int = pydantic.Field(0, ge=0)
    values: Annotated[
        Annotated[int, pydantic.Field(ge=2, le=10_000), pydantic.Tag("<count>")]
        | Annotated[list[Text], pydantic.Field(min_length=2, max_length=10_000), pydantic.Tag("<list>")],
        pydantic.Discriminator(lambda value: "<list>" if isinstance(value, list) else "<count>"),
    ]

    @pydantic.model_validator(mode="after")
    def _enough(self):
        n = len(self.names())
        if len(set(self.names())) < n:
            raise ValueError("a class is named twice in `values`")
        if self.count > n * (n - 1) // 2:
            raise ValueError(f"{n} classes make {n * (n - 1) // 2} pairs, and {self.count} are asked for")
        return self

    def names(self) -> list[str]:
        return [f"#{i}" for i in range(self.values)] if isinstance(self.values, int) else self.values

    def drawn(self) -> list[tuple[str, str]]:
        """The pairs, in the order in which they were drawn; inside a pair, in the order of `values`."""
        names = self.names()
        first, second = np.triu_indices(len(names), 1)
        order = np.random.default_rng(self.seed).permutation(len(first))[: self.count]
        return [(names[first[i]], names[second[i]]) for i in order]


class Entry(pydantic.BaseModel):
    """One image set of the catalogue: what it is, where it is, how it is read, and what its labels and groups are.

    title, domain, modality, about, beware, source, licence, citation    for the reader
    adapter, options   how it is read
    location           a folder or file; ${NAME} is an environment variable, ${NAME:-TEXT} with a default;
                       $${ is a plain ${.
                       Relative ones start at the repository root (params/datasets.yaml) or beside the catalogue file
    labels, group      LabelRule, GroupRule; group: unknown sets aside groups that the source names
    pairs              Pairs: the catalogue then also holds NAME-pair1, NAME-pair2, ..., each of two classes
    parent             of such a pair, the name of its set; set by the reader of the file
    size, channels     pixels a side and channels of the files, or those of the study; for the reader
    levels             what becomes 0 and 255 where files hold more than 8 bits, as in files.Reading
    skip_unreadable    leave out files that cannot be read, and list them; else they are refused
    at_most            images of each class: of larger classes those whose paths have the smallest SHA-256 are read
    as_published       how the paper's code reads this set, if it does
    family             sets made of the same pictures carry one name, and count once in the statistics
    show_pixels        false: published pages show none of its pixels
    obtain             how to get it, step by step
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
    group: (
        Annotated[
            Annotated[GroupRule, pydantic.Tag("<rule>")] | Annotated[Literal["unknown"], pydantic.Tag("<unknown>")],
            pydantic.Discriminator(lambda value: "<unknown>" if value == "unknown" else "<rule>"),
        ]
        | None
    ) = None
    pairs: Pairs | None = None
    size: int | None = pydantic.Field(None, ge=1)
    channels: Literal[1, 3] | None = None
    levels: str | None = None
    skip_unreadable: bool = False
    at_most: int | None = pydantic.Field(None, ge=1)
    as_published: AsPublished | None = None
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

    @pydantic.field_validator("levels")
    @classmethod
    def _levels_exist(cls, levels):
        if levels is not None:
            files.Levels.of(levels)
        return levels

    @pydantic.field_validator("adapter")
    @classmethod
    def _adapter_exists(cls, adapter):
        if adapter not in _ADAPTERS:
            raise ValueError(f"{adapter!r} is not among {', '.join(_ADAPTERS)}{suggest(adapter, _ADAPTERS)}")
        return adapter

    @pydantic.model_validator(mode="after")
    def _options_fit(self):
        try:
            self.checked_options()
            self.checked_options(as_published=True)
        except pydantic.ValidationError as error:
            known = _keys(_ADAPTERS[self.adapter][0])
            raise ValueError(f"options of adapter {self.adapter}: {sentence(error, known)}") from None
        if (self.location is None) != (self.adapter in WITHOUT_LOCATION):
            need = "needs a location" if self.location is None else "is built in and takes no location"
            raise ValueError(f"adapter {self.adapter} {need}")
        return self

    def checked_options(self, as_published: bool = False) -> Options:
        """The options as the adapter's own model; as_published: with those of the paper's code."""
        theirs = self.as_published.options if as_published and self.as_published else {}
        return _ADAPTERS[self.adapter][0].model_validate(self.options | theirs)

    def variables(self) -> list[str]:
        """Names of the environment's variables in its location."""
        return [found["name"] for found in re.finditer(_VARIABLE, self.location or "")]

    def place(self) -> Path | None:
        """Where the set is on this machine, whether or not it is there. Raises BadSource for an unset variable."""
        if self.location is None:
            return None

        def value(found):
            given = os.environ.get(found["name"]) or found["default"]
            if given is None:
                raise BadSource(
                    f"image set {self.name} is at {self.location}, and the environment variable {found['name']} is not "
                    f"set: export {found['name']}=FOLDER"
                )
            return given

        text = re.sub(_VARIABLE, value, self.location)
        return self.base / Path(text.replace("$${", "${")).expanduser()

    def present(self) -> bool:
        """Whether the set can be read on this machine now, without a download."""
        try:
            place = self.place()
        except BadSource:
            return False
        options = self.checked_options()
        if isinstance(options, PackagedOptions):
            return options.present(place)
        return place is None or place.exists()

    def whereabouts(self) -> str:
        """Where the set is, in a word or two: built in, here, downloads (when it is first read), not here."""
        if self.location is None:
            return "built in"
        if self.present():
            return "here"
        return "downloads" if isinstance(self.checked_options(), PackagedOptions) else "not here"

    def describe(self) -> str:
        """Everything that the catalogue says of the set, for a reader at a terminal."""
        lines = [f"{self.name}: {self.title}"]
        try:
            place = self.place()
            where = "built from installed packages" if place is None else f"{place} ({self.whereabouts()})"
        except BadSource as error:
            where = str(error)
        facts = {
            "domain": self.domain + (f", {self.modality}" if self.modality else ""),
            "about": self.about,
            "beware": self.beware,
            "labels": self.labels.describe(),
            "group": self.group if isinstance(self.group, str) else self.group.describe() if self.group else "",
            "size": f"{self.size} pixels a side" if self.size else "",
            "channels": {1: "1, grey", 3: "3, color"}.get(self.channels, ""),
            "source": self.source,
            "licence": self.licence,
            "citation": self.citation,
            "pixels": "" if self.show_pixels else "not shown on published pages",
            "adapter": f"{self.adapter}{' ' + str(self.options) if self.options else ''}",
            "where": where,
        }
        lines += [_wrapped(f"  {key:9} ", value) for key, value in facts.items() if value]
        if self.obtain:
            lines.append("  how to get it")
            lines += [_wrapped(f"    {i}. ", self._at_its_place(step)) for i, step in enumerate(self.obtain, 1)]
        return "\n".join(lines)

    def _at_its_place(self, step: str) -> str:
        """A step of `obtain` with the folder in use: `data/` where ${INTRINSIC_DATA:-data} is set becomes its value."""
        for found in re.finditer(_VARIABLE, self.location or ""):
            given, default = os.environ.get(found["name"]), found["default"]
            if given and default:
                folder = str(self.base / Path(given).expanduser())
                named = rf"(?<![\w./~-]){re.escape(default)}(?=/)|(?<=the folder ){re.escape(default)}\b"
                step = re.sub(named, lambda _, folder=folder: folder, step)
        return step

    def __hash__(self):
        return hash(self.model_dump_json())

    def of_pairs(self) -> list["Entry"]:
        """An entry for each pair drawn: the same in all but name, title, labels, and family where this has none."""
        fields = self.model_dump(exclude={"pairs", "labels"}, exclude_unset=True)
        labels = self.labels.model_dump(exclude_unset=True)
        made = []
        for i, (a, b) in enumerate(self.pairs.drawn() if self.pairs else [], 1):
            changed = {
                "name": f"{self.name}-pair{i}",
                "title": f"{self.title}: {a} against {b}",
                "labels": {**labels, "pair": (a, b)},
                "family": self.family or self.name,
                "parent": self.name,
            }
            made.append(Entry.model_validate({**fields, **changed}))
        return made


def _keys(model: type[pydantic.BaseModel]) -> dict[str, Iterable[str]]:
    """The keys of a model, under "", and of the models that its fields hold, under the fields' names."""

    def held(annotation):
        found = [part for inside in get_args(annotation) for part in held(inside)]
        return [*found, annotation] if isinstance(annotation, type) and hasattr(annotation, "model_fields") else found

    inside = {name: one.model_fields for name, field in model.model_fields.items() for one in held(field.annotation)}
    return {"": model.model_fields, **inside}


def _wrapped(start: str, text: str) -> str:
    indent = " " * len(start)
    return textwrap.fill(text, 110, initial_indent=start, subsequent_indent=indent, break_long_words=False)


def catalogue(path=None) -> dict[str, Entry]:
    """The catalogue as {name: Entry}: from `path` alone, or params/datasets.yaml and the files in INTRINSIC_CATALOGUE.

    Raises BadCatalogue: a file that cannot be read, an entry that does not fit, a name given in two files.
    """
    if path is not None:
        return dict(_stamped(Path(path).expanduser()))
    entries = dict(_stamped(SHIPPED))
    for name in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)):
        file = Path(name).expanduser()
        if file.resolve() == SHIPPED.resolve():
            continue
        further = _stamped(file)
        twice = sorted(set(further) & set(entries))
        if twice:
            raise BadCatalogue(
                f"{file} holds the image set {twice[0]!r}, which another catalogue holds already, so the name would be "
                "ambiguous: give it another name"
            )
        entries |= further
    return entries


def catalogue_files() -> list[Path]:
    """The catalogue files in use: params/datasets.yaml and those in INTRINSIC_CATALOGUE."""
    return [SHIPPED, *(Path(n).expanduser() for n in filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)))]


def _stamped(path: Path) -> dict[str, Entry]:
    try:
        stamp = path.stat()
    except FileNotFoundError:
        stamp = None
    return _read_catalogue(path.absolute(), stamp and (stamp.st_mtime_ns, stamp.st_size))


@functools.lru_cache(maxsize=8)
def _read_catalogue(path, stamp):
    """The entries of a catalogue file, read once for each state of it (stamp: time and size)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadCatalogue(
            f"the catalogue {path} does not exist, so its image sets are not known: correct --catalogue, "
            f"{ENVIRONMENT} or INTRINSIC_HOME, whichever names it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadCatalogue(
            f"the catalogue {path} cannot be read ({reason(error)}), so image sets are not known by name: "
            "give another file, or set INTRINSIC_HOME to the folder that holds params/datasets.yaml"
        ) from None
    try:
        content = plain_yaml(text)
    except yaml.YAMLError as error:
        raise BadCatalogue(f"{path} is not plain YAML ({yaml_reason(error)}): correct it there") from None
    if not isinstance(content, dict) or not content:
        what = "is empty" if not content else f"holds a {'list' if isinstance(content, list) else 'text'}"
        raise BadCatalogue(f"{path} {what}, where image sets by name are needed: see params/datasets.yaml")
    base = REPOSITORY if path.resolve() == SHIPPED.resolve() else path.parent
    entries = {}
    for name, fields in content.items():
        if not isinstance(name, str) or not isinstance(fields, dict):
            raise BadCatalogue(f"{path}: {name!r} is not a name followed by fields such as title and adapter")
        try:
            entry = Entry.model_validate({**fields, "name": name, "base": base, "parent": ""})
            made = [entry, *entry.of_pairs()]
        except pydantic.ValidationError as error:
            raise BadCatalogue(f"{path}, image set {name!r}: {sentence(error, _keys(Entry))}") from None
        for one in made:
            if one.parent and one.name in content:
                raise BadCatalogue(
                    f"{path}: {one.name!r} is the name of an image set and of a pair drawn for {one.parent!r}, so it "
                    "would be ambiguous: rename the set"
                )
            entries[one.name] = one
    return entries


# ---------------------------------------------------------------------------------------------------- load


def load(
    source,
    *,
    size=None,
    channels=None,
    pixel_range: Range = "stored",
    levels: str | None = None,
    catalogue=None,
    skip_unreadable: bool = False,
    progress: bool = False,
    as_published: bool = False,
) -> ImageSet:
    """An image set: by catalogue name, by path, or by an Entry.

    source     a name in the catalogue; an Entry; a folder with one folder of pictures a class; a table (.csv, .tsv,
               .parquet) with the columns `path`, `label` and optionally `group`; a .npz file with `images` and
               `labels`, and optionally `class_names`, `group` (-1 throughout: unknown), `paths`, `source` and
               `licence`; for DICOM trees and NIfTI volumes see of_path. A text is a path where it holds a slash or
               ends like a file; else it is looked up in the catalogue first, with a warning where there is a folder too
    size, channels, pixel_range   as in match()
    levels     what becomes 0 and 255 where files hold more than 8 bits, as in files.Reading; instead of the entry's
    catalogue  a catalogue file, instead of those in use
    skip_unreadable   leave files out that cannot be read, and list them in ImageSet.unreadable
    progress   a progress bar on long reading
    as_published   the images that the paper's released code would use, with its defects: see images/published.py.
                   Size is 224 unless given; channels, range and levels are theirs
    Raises UnknownImageSet, BadCatalogue, BadSource (BadImageFile, MixedSizes, BadRule) or BadImages.
    """
    check_match(size, channels, pixel_range)
    entry = source if isinstance(source, Entry) else find(source, catalogue)
    if as_published:
        if channels or pixel_range != "stored" or levels or skip_unreadable:
            raise ValueError(
                "as_published fixes channels, range, levels and which files are read, and one of them is given: leave "
                "it out, and use match() on the result"
            )
        return _load_as_published(entry, size or PUBLISHED_SIZE, progress)
    reading = files.Reading(size, channels, pixel_range, levels or entry.levels)
    return _load(entry, reading, skip_unreadable or entry.skip_unreadable, progress)


def find(source, catalogue=None) -> Entry:
    """The entry of a catalogue name, or one made for a path. Raises UnknownImageSet."""
    if isinstance(source, str) and not source.strip():
        raise UnknownImageSet("the name of the image set is empty: give a catalogue name or a path")
    may_be_name = isinstance(source, str) and os.sep not in source and not source.lower().endswith(FILES)
    entries = _catalogue(catalogue) if may_be_name else {}
    if may_be_name and source in entries:
        _tell_of_folder(source, entries[source])
        return entries[source]
    path = Path(source).expanduser()
    if path.exists():
        return of_path(path)
    if may_be_name:
        raise UnknownImageSet(
            f"{source!r} is neither a name in the catalogue nor a path that exists"
            + (
                suggest(source, entries)
                or f"; the names are {', '.join(list(entries)[:8])}, ... (`intrinsic datasets`)"
            )
        )
    raise UnknownImageSet(f"{path} does not exist: give a folder, a file ({', '.join(FILES)}) or a catalogue name")


def _tell_of_folder(name: str, entry: Entry) -> None:
    """Warns, once, where a folder has the name of an image set and is not that set's own."""
    folder = Path(name).absolute()
    try:
        place = entry.place()
    except BadSource:
        place = None
    if folder.is_dir() and not (place and folder.resolve() in (place.resolve(), *place.resolve().parents)):
        _warn_of_folder(folder)


@functools.cache
def _warn_of_folder(folder: Path) -> None:
    warnings.warn(
        f"{folder.name} is the image set of the catalogue, and there is also a folder {folder.name}: ./{folder.name} "
        "names the folder",
        stacklevel=5,
    )


_catalogue = catalogue  # `find` has an argument of that name


def name_of(path: Path) -> str:
    """The name of a set that is a folder or a file; a link to a folder has its own name."""
    if not path.is_dir():
        return path.stem
    return path.resolve().name if path.name in ("", "..") else path.name


def of_path(path: Path | str, **fields) -> Entry:
    """An entry for a folder or file that is not in the catalogue; `fields` as in Entry (labels, group, options)."""
    path = Path(path).expanduser()
    name = name_of(path)
    if path.is_dir() and "adapter" not in fields:
        fields = _with_adapter(path, fields)
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-") or "images"
    made = {
        "name": plain,
        "title": name or "images",
        "domain": "unknown",
        "adapter": fields.get("adapter") or adapter_of(path),
        "location": str(path.absolute()).replace("${", "$${"),
        "about": "",
        "beware": "",
        "source": "",
        "licence": "",
    }
    try:
        return Entry.model_validate({**made, **fields})
    except pydantic.ValidationError as error:
        raise BadSource(f"{path}: {sentence(error, _keys(Entry))}") from None


def _with_adapter(path: Path, fields: dict) -> dict:
    """The fields, with the adapter that they ask for: `nested` class folders, or rules on DICOM headers."""
    options, columns = dict(fields.get("options") or {}), _of_headers(fields)
    if columns and kind_inside(path) == "DICOM":
        options.pop("nested", None)  # all folders are read
        more = [column for column in columns if column not in HEADER and not ("join" in options and not is_tag(column))]
        return {**fields, "adapter": "dicom", "options": ({"tags": more} if more else {}) | options}
    if options.get("nested"):
        if not fields.get("labels"):
            return {**fields, "adapter": "folder"}
        if adapter_of(path) != "folder":  # as there
            del options["nested"]
    return {**fields, "options": options} if "options" in fields else fields


def _of_headers(fields: dict) -> list[str]:
    """Columns that label and group rules name and a folder of pictures does not have: attributes of DICOM headers."""
    rules = [fields.get("labels") or {}, fields.get("group") or {}]
    named = [rule.get("column") for rule in rules if isinstance(rule, dict)]
    join = (fields.get("options") or {}).get("join")
    if join and join["column"] != "PatientID":  # which class folders have as well
        named.append(join["column"])
    return [column for column in named if column not in (None, "path", "folder", "frame", "volume")]


_DRAFT = """\
# An image set of your own. Replace what is in capitals, then name this file with --catalogue or in
# INTRINSIC_CATALOGUE. `intrinsic datasets NAME` shows what is understood. Pages show none of its pictures unless
# show_pixels is true, which a licence or a patient may not allow.
"""


def draft(source) -> str:
    """A catalogue entry, as YAML text to be completed, for a folder, a file or an Entry. Raises as find and load do."""
    entry = source if isinstance(source, Entry) else of_path(_existing(Path(source).expanduser()))
    found = _ADAPTERS[entry.adapter][1](entry.place(), entry.checked_options(), False)
    _, classes, _ = entry.labels.apply(found.table, found.label, found.classes)
    labels = entry.labels.model_dump(exclude_defaults=True) | {"classes": {name: [name] for name in classes}}
    fields = {
        "title": entry.title.upper(),
        "domain": "unknown",
        "modality": "HOW THE IMAGES WERE MADE",
        "adapter": entry.adapter,
        "location": entry.location,
        **({"options": entry.options} if entry.options else {}),
        "labels": labels,
        **({"group": entry.group.model_dump(exclude_defaults=True)} if isinstance(entry.group, GroupRule) else {}),
        **({"levels": entry.levels} if entry.levels else {}),
        **({"skip_unreadable": True} if entry.skip_unreadable else {}),
        "about": "WHAT THE IMAGES ARE AND WHAT THE LABEL SAYS",
        "beware": "WHAT THE SET IS NOT",
        "source": "WHERE IT IS FROM",
        "licence": "ITS LICENCE",
        "show_pixels": False,
    }
    return _DRAFT + yaml.safe_dump({entry.name: fields}, sort_keys=False, allow_unicode=True, width=110)


def written(entry: Entry) -> str:
    """An entry as the YAML text of a catalogue file that holds nothing else."""
    fields = entry.model_dump(mode="json", exclude_defaults=True, exclude={"name", "base", "parent"})
    return yaml.safe_dump({entry.name: fields}, sort_keys=False, allow_unicode=True, width=110)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UnknownImageSet(f"{path} does not exist: give a folder or a file")
    return path


def _load(entry: Entry, reading: files.Reading, skip: bool, progress: bool) -> ImageSet:
    found = _find(entry, entry.checked_options(), progress)
    try:
        images = _assemble(entry, found, reading, skip, progress)
    except BadImages as error:
        raise BadImages(f"{entry.place() or entry.name}: {error}") from None
    _check_classes(images)
    return match(images, size=reading.size, channels=reading.channels, pixel_range=reading.pixel_range)


def _find(entry: Entry, options: Options, progress: bool) -> Found:
    place = entry.place()
    if place is not None and not place.exists() and not isinstance(options, PackagedOptions):
        how = f"; `intrinsic datasets {entry.name}` says how to get it" if entry.obtain else ""
        raise BadSource(
            f"{place} does not exist: put the image set {entry.name} there, or correct its location in the "
            f"catalogue{how}"
        )
    return _ADAPTERS[entry.adapter][1](place, options, progress)


def _check_classes(images: ImageSet) -> None:
    if images.n_classes < 2:
        raise BadSource(
            f"{images.name} has images of one class only, {images.classes[images.labels[0]]!r}, so there are "
            "no labels to learn or compare: give at least two classes"
        )


def _load_as_published(entry: Entry, size: int, progress: bool) -> ImageSet:
    theirs = entry.as_published
    if theirs is None:
        raise BadSource(
            f"the entry of {entry.name} does not say how the paper's code reads it (as_published), so it cannot be "
            "repeated: load the set without as_published"
        )
    found = _find(entry, entry.checked_options(as_published=True), progress)
    found = replace(found, table=found.table.reset_index(drop=True))
    seen = np.flatnonzero(published_names(found.table, theirs.names_with))
    rule = theirs.labels or entry.labels
    labels, classes, kept = rule.apply(found.table.iloc[seen], found.label, found.classes)
    if not kept.any():
        raise BadSource(f"the label rule of {entry.name} leaves none of its {len(kept):,} images: correct it")
    labels, rows = published_rows(labels, seen[kept], theirs.slips)
    images = ImageSet(
        published_pixels(found, rows, theirs.channels, size, progress=progress),
        labels,
        classes,
        paths=_paths(found.table.iloc[rows]),
        show_pixels=entry.show_pixels,
        pixel_range="image",
        name=f"{entry.name} as published",
        **_facts(entry, found),
    )
    _check_classes(images)
    return images


def _assemble(entry: Entry, found: Found, reading: files.Reading, skip: bool, progress: bool) -> ImageSet:
    """Rules, then pixels of the rows they keep."""
    labels, classes, kept = entry.labels.apply(found.table, found.label, found.classes)
    if not kept.any():
        raise BadSource(f"the label rule of {entry.name} leaves none of its {len(kept):,} images: correct it")
    if entry.at_most is not None:
        drawn = _drawn(_paths(found.table[kept]), labels, entry.at_most)
        labels, kept = labels[drawn], np.flatnonzero(kept)[drawn]
        kept = np.isin(np.arange(len(found.table)), kept)
    table = found.table[kept].reset_index(drop=True)
    group, default = None, found.group
    asked = isinstance(entry.group, GroupRule) and entry.group.column == "PatientID"
    if found.images is None and "PatientID" not in table and (asked or (entry.group is None and default is None)):
        ids = patients(found.root, list(table["path"]), progress)
        if any(ids):
            table["PatientID"], default = ids, default or "PatientID"
    if isinstance(entry.group, GroupRule):
        group = entry.group.apply(table, default)
    elif entry.group is None and default is not None:
        group = GroupRule(of="patient" if default == "PatientID" else "group").apply(table, default)
    if found.images is not None:
        pixels, unreadable, at = (found.images if kept.all() else found.images[kept]), (), "stored"
    else:
        pixels, good, unreadable = files.read(found.root, table, reading, skip=skip, progress=progress)
        labels, table, at = labels[good], table[good], reading.pixel_range
        group = None if group is None else group[good]
    return ImageSet(
        np.asarray(pixels),
        labels,
        classes,
        group=group,
        paths=_paths(table),
        show_pixels=entry.show_pixels,
        ordered=entry.labels.ordered,
        pixel_range=at,
        unreadable=unreadable,
        name=entry.name if entry.about else entry.title,  # a path keeps its own name
        **_facts(entry, found),
    )


def _drawn(paths, labels: np.ndarray, at_most: int) -> np.ndarray:
    """Rows (bool) of the at_most images of each class whose paths have the smallest SHA-256: random, yet repeatable."""
    drawn = np.zeros(len(labels), dtype=bool)
    digests = np.array([hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest() for path in paths])
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        drawn[rows[np.argsort(digests[rows], kind="stable")[:at_most]]] = True
    return drawn


def _paths(table) -> tuple[str, ...]:
    if "frame" in table:
        return tuple(str(p) if pd.isna(f) else f"{p}#{f}" for p, f in zip(table["path"], table["frame"], strict=True))
    return tuple(str(p) for p in table["path"])


def _facts(entry: Entry, found: Found) -> dict[str, Any]:
    facts = {"source": "", "licence": "", **found.facts}
    for key in ("domain", "modality", "about", "beware", "source", "licence"):
        facts[key] = getattr(entry, key) or facts.get(key, "")
    return facts
