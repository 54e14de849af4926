"""The command `intrinsic`: measure, forecast, run, status, publish, report, book, datasets."""

import argparse
import json
import math
import os
import shlex
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from unittest.mock import patch

from intrinsic import images

SOURCE = "a folder of class folders, of DICOM or of NIfTI files; a .csv, .tsv, .parquet or .npz file; a name"
RULES = ("label_column", "label_pattern", "group_column", "group_pattern", "path_column", "nested", "join", "levels",
         "classes")  # fmt: skip


class UsageError(ValueError):
    """Options that do not go together, so that one of them would change nothing."""


def _number(kind, above):
    """The type of an option that is a finite number, or a whole one (kind int), above another."""

    def number(text):
        if not above < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not above {above}: give a larger, finite number")
        return value

    return number


_whole, _count, _positive = _number(int, -1), _number(int, 0), _number(float, 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, from which the reference page is made too."""
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    about = "Intrinsic dimension and label sharpness of image sets, and the book that tests four claims."
    example = "example: intrinsic measure digits"
    whole = argparse.ArgumentParser(prog="intrinsic", description=about, epilog=example, **how)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, help, example, *shared):
        about = f"{help[0].upper()}{help[1:]}."
        made = commands.add_parser(name, help=help, description=about, epilog=f"example: {example}", **how)
        for one in shared:
            one(made)
        return made

    one = add("measure", "dimension, label sharpness and soundness of an image set",
              "intrinsic measure scans/   (a folder with one folder a class)", _catalogue, _rules, _images)  # fmt: skip
    one.add_argument("--json", action="store_true", help="print one JSON object")
    one.add_argument("--pixel-range", choices=("stored", "image"), default="stored",
                     help="grey levels as stored, or each image's maximum at 255")  # fmt: skip
    one.add_argument("--k", type=_count, default=20, help="neighbors of the dimension (20)")
    one.add_argument("--per-class", type=_count, default=250, metavar="M", help="images a class for K_F at M (250)")
    one.add_argument("--flagged", type=Path, metavar="FILE.csv", help="write all pictures to look at to a table")
    one.add_argument("--details", action="store_true", help="print all that was found wrong, and the facts behind it")

    one = add("forecast", "how many labels a set needs: its loss and accuracy at more images, from its small runs",
              "intrinsic forecast digits --target-accuracy 0.9", _catalogue)  # fmt: skip
    one.add_argument("source", metavar="PATH|NAME", help="an image set with stored runs at two sizes N or more")
    one.add_argument("--target-accuracy", type=_positive, metavar="A", help="how many images reach this accuracy")
    one.add_argument("--target-loss", type=_positive, metavar="NATS", help="how many images reach this test loss")
    one.add_argument("--model", default="resnet18", help="the network (resnet18)")
    one.add_argument("--at", type=_count, nargs="+", metavar="N", help="sizes to forecast")
    one.add_argument("--params", metavar="PARAMS.yaml", help="take size, channels, M and k from this file")
    one.add_argument("--json", action="store_true", help="print one JSON object")

    one = add("run", "complete a campaign: compute what is not stored",
              "intrinsic run params/quick.yaml --dry-run", _campaign, _where)  # fmt: skip
    one.add_argument("--dry-run", action="store_true", help="show what would be computed, and about how long")
    one.add_argument("--retries", type=_whole, default=1, metavar="K", help="tries more of a run that raises (1)")

    one = add("status", "what a campaign has done and what is missing", "intrinsic status params/quick.yaml", _campaign)
    one.add_argument("--traceback", action="store_true", help="show where failed runs failed")

    one = add("publish", "write the records of a campaign to the file that the book is built from",
              "intrinsic publish params/published.yaml", _campaign)  # fmt: skip
    one.add_argument("--output", type=Path, metavar="FILE.jsonl", help="the file (book/records/NAME.jsonl)")
    one.add_argument("--all", action="store_true", help="also stored records that are not of the campaign's plan")

    one = add("report", "the page of one image set, with its pictures, as one HTML file",
              "intrinsic report digits --out digits.html", _catalogue, _rules, _images)  # fmt: skip
    one.add_argument("--out", type=Path, metavar="FILE.html", help="the file to write (the set's name, here)")

    one = add("book", "execute the pages and build the book; with --params of a campaign, completed first",
              "intrinsic book --params params/quick.yaml", _where)  # fmt: skip
    one.add_argument("--params", metavar="PARAMS.yaml", help="the campaign that pages show (the published records)")
    one.add_argument("--output", type=Path, help="folder for the build (_build)")
    one.add_argument("--no-compute", action="store_true", help="build from stored records only")

    one = add("datasets", "the image sets of the catalogue; or one of them, and how to get it",
              "intrinsic datasets digits\n         intrinsic datasets --draft scans/ > my_sets.yaml",
              _catalogue, _rules)  # fmt: skip
    one.add_argument("name", nargs="?", metavar="NAME", help="show one set, and how to get it")
    one.add_argument("--present", action="store_true", help="only sets that can be read on this machine now")
    one.add_argument("--draft", metavar="PATH", help="print a catalogue entry for this folder or file")
    return whole


def _catalogue(one) -> None:
    one.add_argument("--catalogue", metavar="FILE.yaml", action="append", default=[],
                     help="image sets of your own, beside params/datasets.yaml (or INTRINSIC_CATALOGUE)")  # fmt: skip


def _images(one) -> None:
    one.add_argument("source", metavar="PATH|NAME", help=SOURCE)
    one.add_argument("--size", type=_count, help="resize to SIZE x SIZE pixels first")
    one.add_argument("--channels", type=int, choices=(1, 3), help="convert to 1 (grey) or 3 channels")


def _campaign(one) -> None:
    one.add_argument("params", metavar="PARAMS.yaml", help="a campaign's parameter file")
    one.add_argument("--add", metavar="PATH|NAME", action="append", default=[], help="an image set beside the file's")
    one.add_argument("-p", dest="changes", nargs=2, metavar=("KEY", "VALUE"), action="append", default=[],
                     help="a value in place of the file's, as YAML: -p datasets '[scans]'")  # fmt: skip
    _catalogue(one)


def _where(one) -> None:
    one.add_argument("--workers", type=_count, help="processes of one thread each (one a GPU, else one a core)")
    one.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of a running Dask scheduler")
    one.add_argument("--cluster", type=Path, metavar="FILE.yaml", help="send jobs to a queue (params/clusters/)")
    one.add_argument("--run-minutes", type=_positive, metavar="M", help="stop a run that takes longer; it failed")
    one.add_argument("--no-progress", action="store_true", help="do not show what is done")


def _rules(one) -> None:
    for name, metavar, text in (
        ("label-column", "COLUMN", "column of a table, or DICOM attribute, of the label"),
        ("label-pattern", "REGEX", "label: the first group of this, in the path"),
        ("group-column", "COLUMN", "column, or DICOM attribute, of the patient"),
        ("group-pattern", "REGEX", "patient: the first group of this, in the path"),
        ("path-column", "COLUMN", "column of a table that holds the image's path"),
        ("join-on", "A[=B]", "a row is for images whose column, or DICOM attribute, A equals its column B (or A)"),
        ("levels", "HOW", "0 and 255 above 8 bits: full, window, range:LOW,HIGH, percentile:LOW,HIGH"),
    ):
        one.add_argument(f"--{name}", metavar=metavar, help=text)
    one.add_argument(
        "--ungrouped",
        choices=("own", "unknown"),
        help="where a patient cannot be read: each image is one of its own, or no patient is known",
    )
    one.add_argument("--join", type=Path, metavar="TABLE", help="a table with more columns, such as labels by patient")
    one.add_argument("--classes", nargs="+", metavar="CLASS", help="only these classes; leave all others out")
    one.add_argument("--nested", action="store_true", help="read the folders inside class folders too")
    one.add_argument("--skip-unreadable", action="store_true", help="leave out files that cannot be read")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 on success, 1 on failure, 2 on wrong usage."""
    arguments = parser().parse_args(argv)
    arguments.words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is shown escaped
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    work = globals()[f"_{arguments.command}"]
    try:
        with _catalogues(getattr(arguments, "catalogue", [])), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            return work(arguments) or 0
    except KeyboardInterrupt:
        print("\nstopped; what was stored stays, and the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"intrinsic {arguments.command}: {str(error) or 'memory ran out'}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _line(text) -> str:
    """A name on one line of a terminal: what is not printable as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _catalogues(files: list):
    """Catalogue files are in the environment inside, where this process and those it starts look for them."""
    before = filter(None, os.environ.get("INTRINSIC_CATALOGUE", "").split(os.pathsep))
    named = dict.fromkeys([*before, *(str(Path(file).expanduser().absolute()) for file in files)])
    return patch.dict(os.environ, {"INTRINSIC_CATALOGUE": os.pathsep.join(named)})


def _source(arguments, place: str):
    """The image set that was named; with rules given on the command line, as an entry of its own."""
    labels = {"column": arguments.label_column, "pattern": arguments.label_pattern}
    if arguments.classes:
        labels |= {"classes": {name: [name] for name in arguments.classes}, "others": "drop"}
    group = {"column": arguments.group_column, "pattern": arguments.group_pattern, "unmatched": arguments.ungrouped}
    if not arguments.ungrouped and arguments.join and arguments.group_column and not arguments.label_column:
        group["unmatched"] = "own"  # an image that the table of families lacks is one by itself
    join = _join(arguments, place)
    options = {"path_column": arguments.path_column, "nested": arguments.nested, "join": join}
    read = {"levels": arguments.levels, "skip_unreadable": arguments.skip_unreadable}
    labels, group, options, read = ({k: v for k, v in one.items() if v} for one in (labels, group, options, read))
    images.find(place)  # says what is wrong with a place that is none
    if not (labels or group or options or read):
        return place
    if place in images.catalogue():
        if labels or group or options:
            how = f"write an entry of your own to change them (intrinsic datasets {place})"
            raise ValueError(f"{place} is in the catalogue, which holds its rules already: {how}")
        return images.Entry.model_validate(dict(images.find(place)) | read)
    fields = {"labels": labels, "group": group or None, "options": options, **read}
    return images.of_path(Path(place), **{key: value for key, value in fields.items() if value})


def _join(arguments, place: str) -> dict | None:
    """The option `join` of an adapter; images of a folder that the table lacks are left out, with a warning."""
    if bool(arguments.join) != bool(arguments.join_on):
        raise UsageError("--join TABLE and --join-on COLUMN would change nothing alone: give both or neither")
    if not arguments.join:
        return None
    column, _, other = arguments.join_on.partition("=")
    labels = arguments.label_column or not arguments.group_column  # a table of patients alone keeps all images
    table, how = str(arguments.join.expanduser().absolute()), "inner" if labels and Path(place).is_dir() else "left"
    return {"table": table, "column": column, "other": other or None, "how": how}


def _params(arguments):
    """The parameters of a file, with the values of -p and the image sets of --add."""
    from intrinsic.campaigns import parameters

    changes = {key: images.plain_yaml(value) for key, value in arguments.changes}
    changes |= {"workers": arguments.workers} if getattr(arguments, "workers", None) else {}
    p = parameters.read(arguments.params, changes)
    return p.model_copy(update={"datasets": list(dict.fromkeys([*p.datasets, *arguments.add]))})


def _execution(arguments) -> dict:
    """Where and how runs are computed, as the command line says."""
    if arguments.scheduler:
        from intrinsic.campaigns import execution

        execution.check_address(arguments.scheduler)  # before what takes longer
    keys = ("scheduler", "cluster", "run_minutes")
    return {key: getattr(arguments, key) for key in keys} | {"progress": not arguments.no_progress}


def _measure(arguments) -> None:
    source = _source(arguments, arguments.source)  # before anything heavy is loaded
    from intrinsic.campaigns import records
    from intrinsic.properties import flagged, words
    from intrinsic.properties.measure import measure

    if arguments.flagged:
        records.writable(arguments.flagged, ".csv")
    asked = {key: getattr(arguments, key) for key in ("size", "channels", "pixel_range", "k", "per_class")}
    found = measure(source, progress=not arguments.json, **asked)
    placed = words.place(found, records.collected("properties"))
    if arguments.flagged:
        flagged.write_csv(found.soundness.flagged, arguments.flagged)
    if arguments.json:
        print(json.dumps(found.to_dict() | {"compared": vars(placed)}, allow_nan=False))
        return
    again = [word for word in arguments.words if word != "--details"]
    print(words.answer(found, placed, shlex.join(["intrinsic", *again])).text(arguments.details, 24))
    if arguments.flagged:
        print(f"{len(found.soundness.flagged):,} pictures to look at: {arguments.flagged}", end="")
        file, join = shlex.quote(str(arguments.flagged)), found.groups is None and not arguments.join
        print(f"; families as groups: --join {file} --join-on path --group-column family" if join else "")


def _forecast(arguments) -> None:
    from intrinsic.campaigns import frames, parameters, plan, records
    from intrinsic.inference import forecast

    name, p = plan.set_name(arguments.source), parameters.read(arguments.params or parameters.PUBLISHED)
    runs = forecast.with_error(frames.runs_at(p, arguments.model, records.default_store(), name))
    own = runs[runs["dataset"] == name]
    if own.empty:
        small = shlex.join(["intrinsic", "run", "params/forecast.yaml", "-p", "datasets", f"[{arguments.source}]"])
        raise ValueError(f"{name} has no fitted runs of {arguments.model} at two sizes N at this setting: {small}")
    targets = {}
    if arguments.target_accuracy is not None:
        targets["accuracy"] = (arguments.target_accuracy, forecast.ERROR, 1 - arguments.target_accuracy)
    if arguments.target_loss is not None:
        targets["loss"] = (arguments.target_loss, forecast.LOSS, arguments.target_loss)
    table = forecast.forecast(runs, name, arguments.at)
    needed = {what: forecast.n_needed(runs, name, v, outcome=outcome) for what, (_, outcome, v) in targets.items()}
    trained = sorted(set(own["n_train"].tolist()))
    if arguments.json:
        ends = {what: {"target": targets[what][0], **one.to_dict()} for what, one in needed.items()}
        facts = {"name": name, "model": arguments.model, "runs": len(own), "trained": trained, "needed": ends,
                 "per_class": int(own["per_class"].iloc[0]),
                 "forecasts": json.loads(table.to_json(orient="records")), **table.attrs}  # fmt: skip
        print(json.dumps(facts, allow_nan=False))
        return
    print(f"{_line(name)}: {arguments.model}, {_counted(len(own), 'run')} at N = {trained[0]:,} to {trained[-1]:,}, "
          f"with {runs['dataset'].nunique() - 1} image sets of {runs['family'].nunique() - 1} families; "
          f"K_F and d at {own['per_class'].iloc[0]:,} images a class")  # fmt: skip
    print(f"  {'N':<9}{'test loss (nats)':<28}test accuracy")
    for row in table.to_dict("records"):
        loss, right = (f"{row[w]:.3f} [{row[f'{w}_low']:.3f}, {row[f'{w}_high']:.3f}]" for w in ("loss", "accuracy"))
        print(f"  {row['n_train']:<9,}{loss:<28}{right}{'' if row['informative'] else '   not informative yet'}")
    for what, one in needed.items():
        print(f"  {what} {targets[what][0]:g} needs {forecast.in_words(one)}")
    vague = table.loc[~table["informative"], "n_train"]
    if len(vague):
        more = forecast.informative_from(runs, name, vague.max())
        what = f"train at N = {more:,}" if more else "train at more seeds; the set may be near chance"
        print(f"  not informative yet: the interval at N = {vague.max():,} reaches chance. To narrow it, {what}.")
    print("  Intervals of 95 % are for one run.")


def _run(arguments) -> int:
    where = _execution(arguments)
    from intrinsic.campaigns import execution, plan

    p = _params(arguments)
    if arguments.dry_run:
        _dry_run(p)
        return 0
    made = plan.plan(p)
    _tell(made.incomparable, made.unreachable)
    outcome = execution.run(p, made=made, retries=arguments.retries, **where)
    for label, reason in outcome.failed:
        print(f"failed: {label}: {reason}", file=sys.stderr)
    print(f"{p.name}: {_counted(outcome.computed, 'task')} computed in {outcome.minutes:.1f} minutes, {outcome.stored} "
          f"stored before, {len(outcome.failed)} failed")  # fmt: skip
    if outcome.failed:
        print("intrinsic run: what was computed is stored, and the same command tries the rest again", file=sys.stderr)
    return 1 if outcome.failed else 0


def _dry_run(p) -> None:
    from intrinsic.campaigns import execution, plan, records, status

    store, (p, away) = records.default_store(), plan.present(p)
    made = plan.plan(p)
    todo = made.todo(store)
    print(f"{p.name}: {_counted(len(made.tasks), 'task')}, {len(made.tasks) - len(todo)} stored, {len(todo)} to do")
    counts = Counter((task.params.get("model", "properties"), task.params.get("n_train", 0)) for task in todo)
    seconds, workers = status.estimate(todo, store), execution.n_workers(p)
    for (model, n), count in counts.items():
        each = seconds[model, n]
        took = "time unknown: no such run is stored" if each is None else f"{count * each / 60:.1f} minutes"
        print(f"  {model:<12}{f'N = {n:,}' if n else '':<10}{_counted(count, 'task'):<12}{took}")
    if todo and None not in seconds.values():
        total = sum(count * seconds[key] for key, count in counts.items()) / 60 / workers
        print(f"about {total:.1f} minutes with {_counted(workers, 'worker')}, as fast as stored runs were")
    _tell(made.incomparable, made.unreachable, away)


def _tell(incomparable=(), unreachable=(), away=None) -> None:
    """Lines of what a plan leaves out: sets too small for M, runs out of reach, sets that are not here."""
    for what, rows in (("comparable", incomparable), ("reachable", unreachable), ("counted", (away or {}).items())):
        for name, why in rows:
            print(f"not {what}: {_line(name)}: {why}")


def _status(arguments) -> None:
    from intrinsic.campaigns import plan, records, status

    store, (p, away) = records.default_store(), plan.present(_params(arguments))
    made = plan.plan(p)
    tasks = status.states(made, store)
    table, counts = status.table(tasks), tasks["state"].value_counts()
    if len(table):
        print((table if table["reason"].any() else table.drop(columns="reason")).to_string(index=False))
    for task in tasks[tasks["state"] == "failed"].itertuples():
        print(f"failed: {task.label}: {task.reason}" + (f"\n{task.traceback}" if arguments.traceback else ""))
    _tell(made.incomparable, (), away)
    print(f"records: {store.root.absolute()}, and those published in book/records")
    rest = ", ".join(f"{counts.get(state, 0)} {state}" for state in status.STATES)
    print(f"{p.name}: {_counted(len(tasks), 'task')}: {rest}")


def _publish(arguments) -> None:
    from intrinsic.campaigns import records, status

    made = status.publish(_params(arguments), records.default_store(), arguments.output, everything=arguments.all)
    print(f"{made.path}: {_counted(made.total, 'record')}, {made.added:,} of them new")
    if made.left_out:
        print(f"{_counted(made.left_out, 'stored record')} not of this campaign's plan: --all takes them")


def _report(arguments) -> None:
    from intrinsic.publishing import report

    source, files = _source(arguments, arguments.source), []
    with tempfile.TemporaryDirectory() as folder:
        if not isinstance(source, str):  # the page is executed by another process, which knows no entry made here
            if source.name in images.catalogue():
                how = "rename the folder, or give the name of an entry of your own (intrinsic datasets --draft)"
                raise ValueError(f"{source.name!r} is in the catalogue already: {how}")
            files = [Path(folder, f"{source.name}.yaml")]
            files[0].write_text(source.written(), encoding="utf-8")
            source = source.name
        with _catalogues(files):
            out = arguments.out or Path(f"{images.find(source).name}.html")
            print(report.report(source, out, size=arguments.size, channels=arguments.channels))


def _book(arguments) -> None:
    from intrinsic.publishing import build

    how = {"compute": not arguments.no_compute, "workers": arguments.workers}
    build.build(arguments.params, output=arguments.output, **how, **_execution(arguments))


def _datasets(arguments) -> None:
    for rule in (*RULES, "skip_unreadable"):
        if getattr(arguments, rule) and not arguments.draft:
            raise UsageError(f"--{rule.replace('_', '-')} would change nothing without --draft: give both or neither")
    given = [name for name in ("draft", "present", "name") if getattr(arguments, name)]
    if len(given) > 1:
        raise UsageError(f"{given[1]} would change nothing beside {given[0]}: give one of them")
    if arguments.draft:
        source = _source(arguments, arguments.draft)
        print((images.of_path(source) if isinstance(source, str) else source).draft(), end="")
        return
    entries = images.catalogue()
    if arguments.name is None:
        pairs = Counter(entry.parent for entry in entries.values() if entry.parent)
        for name, entry in entries.items():
            if not entry.parent and (entry.present() or not arguments.present):
                more = f"; pairs of its classes: {name}-pair1 to {name}-pair{pairs[name]}" if pairs[name] else ""
                print(f"{name:27} {entry.domain:10} {entry.whereabouts():10} {entry.title}{more}")
        print("`intrinsic datasets NAME` tells more of a set, and how to get it")
        return
    if arguments.name not in entries:
        images.find(arguments.name)  # raises with the closest name
        raise ValueError(f"{arguments.name!r} is a path and not in the catalogue; `--draft` prints an entry for it")
    print(entries[arguments.name].describe())


if __name__ == "__main__":
    sys.exit(main())
