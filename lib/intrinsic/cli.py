"""The command `intrinsic`: measure, forecast, run, status, publish, report, book, datasets."""

import argparse
import json
import math
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

SHOWN = 12  # classes, and unreadable files, that are named


class UsageError(ValueError):
    """Options that do not go together, so that one of them would change nothing."""


def _count(text: str) -> int:
    """A whole number from 1."""
    return _whole(text, 1)


def _whole(text: str, least: int = 0) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}; give one")
    return number


def _positive(text: str) -> float:
    """A finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0; give one")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intrinsic",
        description="Intrinsic dimension and label sharpness of image sets, and the book that tests four claims.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: intrinsic measure digits",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, help, example):
        return commands.add_parser(
            name,
            help=help,
            description=(help if help.startswith("d_") else help[0].upper() + help[1:]) + ".",
            epilog=f"example: {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    measure = add(
        "measure",
        "d_data, K_F with intervals, copies and sharpest pairs of an image set",
        "intrinsic measure scans/ --json   (a folder with one folder a class)",
    )
    measure.add_argument(
        "source",
        metavar="PATH|NAME",
        help="a folder of class folders, of DICOM or of NIfTI files; a .csv, .tsv, .parquet or .npz file; a name",
    )
    measure.add_argument("--json", action="store_true", help="print one JSON object")
    measure.add_argument("--size", type=int, help="resize to SIZE x SIZE pixels first, also in --compare")
    measure.add_argument(
        "--channels", type=int, choices=(1, 3), help="convert to 1 (grey) or 3 channels, also in --compare"
    )
    measure.add_argument(
        "--k", type=_count, help="neighbors of the maximum-likelihood dimension (20; at least 2), also in --compare"
    )
    measure.add_argument("--per-class", type=_count, metavar="M",
                         help="images a class for K_F at M (250), also in --compare")  # fmt: skip
    measure.add_argument("--flagged", type=Path, metavar="FILE.csv", help="write copies and other suspects to a table")
    _add_reading(measure)
    measure.add_argument("--compare", action="store_true", help="place it, matched, among the sets in the records")
    measure.add_argument("--params", metavar="PARAMS.yaml", help="compare at the setting of this file")

    forecast = add(
        "forecast",
        "how many labels a set needs: its loss and accuracy at more images, from its small runs",
        "intrinsic forecast digits --target-accuracy 0.9",
    )
    forecast.add_argument("source", metavar="PATH|NAME", help="an image set with stored runs at two sizes N or more")
    forecast.add_argument("--target-accuracy", type=float, metavar="A", help="how many images reach this accuracy")
    forecast.add_argument("--target-loss", type=float, metavar="NATS", help="how many images reach this test loss")
    forecast.add_argument("--model", default="resnet18", help="the network (resnet18)")
    forecast.add_argument("--at", type=int, nargs="+", metavar="N",
                          help="sizes to forecast (2, 5 and 10 times the largest trained)")  # fmt: skip
    forecast.add_argument("--params", metavar="PARAMS.yaml", help="take size, channels, M and k from this file")
    forecast.add_argument("--json", action="store_true", help="print one JSON object")
    _add_catalogue(forecast)

    run = add("run", "complete a campaign: compute what is not stored", "intrinsic run params/quick.yaml --dry-run")
    run.add_argument("params", metavar="PARAMS.yaml")
    run.add_argument("--dry-run", action="store_true", help="show the plan and its estimated minutes, compute nothing")
    _add_sets(run)
    _add_engine(run)
    run.add_argument("--retries", type=_whole, default=1, metavar="K", help="tries more of a run that raises (1)")
    run.add_argument("--no-progress", action="store_true", help="do not show what is done")

    status = add("status", "what a campaign has done and what is missing", "intrinsic status params/quick.yaml")
    status.add_argument("params", metavar="PARAMS.yaml")
    _add_sets(status)
    status.add_argument("--traceback", action="store_true", help="show where failed runs failed")

    publish = add("publish", "write the records of a campaign to the file that the book is built from",
                  "intrinsic publish params/published.yaml")  # fmt: skip
    publish.add_argument("params", metavar="PARAMS.yaml")
    _add_sets(publish)
    publish.add_argument("--output", type=Path, metavar="FILE.jsonl", help="the file (book/records/NAME.jsonl)")
    publish.add_argument("--all", action="store_true", help="also stored records that are not of the campaign's plan")

    report = add("report", "the page of one image set, executed, as HTML", "intrinsic report digits")
    report.add_argument("source", metavar="PATH|NAME")
    report.add_argument("--params", metavar="PARAMS.yaml", help="take size, channels, M and k from this file, and not "
                        "32 pixels, grey, 250 and 20")  # fmt: skip
    _add_catalogue(report)
    _add_rules(report)

    book = add("book", "complete a campaign, execute the notebooks, build the book",
               "intrinsic book --params params/quick.yaml")  # fmt: skip
    book.add_argument("--params", metavar="PARAMS.yaml", required=True)
    _add_sets(book)
    book.add_argument("--output", type=Path, help="folder for the build (_build)")
    _add_engine(book)
    book.add_argument("--no-compute", action="store_true", help="build from stored records only")
    book.add_argument("--no-progress", action="store_true", help="no progress bars")

    datasets = add(
        "datasets",
        "the image sets of the catalogue and what is on this machine; or one of them, and how to get it",
        "intrinsic datasets digits\n         intrinsic datasets --draft scans/ > my_sets.yaml",
    )
    datasets.add_argument("name", nargs="?", metavar="NAME")
    datasets.add_argument("--present", action="store_true", help="only sets that can be read on this machine now")
    datasets.add_argument("--draft", metavar="PATH", help="print a catalogue entry for this folder or file")
    _add_catalogue(datasets)
    _add_rules(datasets)
    return parser


def _add_catalogue(parser) -> None:
    parser.add_argument(
        "--catalogue",
        metavar="FILE.yaml",
        action="append",
        default=[],
        help="image sets of your own, beside params/datasets.yaml; or list files in INTRINSIC_CATALOGUE",
    )


def _add_sets(parser) -> None:
    _add_catalogue(parser)
    parser.add_argument(
        "--add", metavar="PATH|NAME", action="append", default=[], help="an image set beside those of PARAMS.yaml"
    )
    parser.add_argument("-p", dest="changes", nargs=2, metavar=("KEY", "VALUE"), action="append", default=[],
                        help="a value in place of the file's, as YAML: -p datasets '[scans]'")  # fmt: skip


def _add_engine(parser) -> None:
    parser.add_argument("--workers", type=_count, help="processes of one thread each (one a GPU, else one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of a running Dask scheduler")
    parser.add_argument("--cluster", type=Path, metavar="FILE.yaml", help="send jobs to a queue (params/clusters/)")
    parser.add_argument("--run-minutes", type=_positive, metavar="M", help="stop a run that takes longer; it failed")


def _add_rules(parser) -> None:
    parser.add_argument("--label-column", metavar="COLUMN", help="column of a table, or DICOM attribute, of the label")
    parser.add_argument("--label-pattern", metavar="REGEX", help="label: the first group of this, in the path")
    parser.add_argument("--group-column", metavar="COLUMN", help="column, or DICOM attribute, of the patient")
    parser.add_argument("--group-pattern", metavar="REGEX", help="patient: the first group of this, in the path")
    parser.add_argument("--path-column", metavar="COLUMN", help="column of a table that holds the image's path")
    parser.add_argument("--nested", action="store_true", help="read the folders inside class folders too")
    parser.add_argument(
        "--join", type=Path, metavar="TABLE", help="a table with more columns, such as labels by patient"
    )
    parser.add_argument("--join-on", metavar="A[=B]", help="a row is for images whose column, or DICOM attribute, A "
                        "equals its column B (or A)")  # fmt: skip
    _add_levels(parser)


def _add_reading(parser) -> None:
    _add_catalogue(parser)
    _add_rules(parser)
    parser.add_argument("--pixel-range", choices=("stored", "image"),
                        help="grey levels as stored (the default), or each image's maximum at 255")  # fmt: skip


def _add_levels(parser) -> None:
    parser.add_argument("--levels", help="what becomes 0 and 255 above 8 bits: full, window, range:LOW,HIGH, "
                        "percentile:LOW,HIGH")  # fmt: skip
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out files that cannot be read")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 on success, 1 on failure, 2 on wrong usage."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is shown escaped
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    work = {
        "measure": _measure,
        "forecast": _forecast,
        "run": _run,
        "status": _status,
        "publish": _publish,
        "report": _report,
        "book": _book,
        "datasets": _datasets,
    }[arguments.command]
    try:
        with _catalogues(getattr(arguments, "catalogue", [])), warnings.catch_warnings():
            warnings.showwarning = _one_line
            return work(arguments)
    except KeyboardInterrupt:
        print("\nstopped; what was stored stays, and the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        why = str(error) or "memory ran out"
        print(f"intrinsic {arguments.command}: {why}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _together(arguments, options: tuple[str, ...], needed: str) -> None:
    """Raises UsageError where one of the options is given without the one that it belongs to."""
    for option in options:
        if getattr(arguments, option) and not getattr(arguments, needed):
            names = [f"--{name.replace('_', '-')}" for name in (option, needed)]
            raise UsageError(f"{names[0]} would change nothing without {names[1]}: give both or neither")


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    """A warning as one line without the place in the code, which is nothing to a user."""
    print(f"warning: {message}", file=sys.stderr)


@contextmanager
def _catalogues(files: list[str]):
    """Catalogue files are in the environment inside, where this process and those it starts look for them."""
    before = os.environ.get("INTRINSIC_CATALOGUE", "")
    given = [str(Path(file).expanduser().absolute()) for file in files]
    os.environ["INTRINSIC_CATALOGUE"] = os.pathsep.join(
        dict.fromkeys([*filter(None, before.split(os.pathsep)), *given])
    )
    try:
        yield
    finally:
        os.environ["INTRINSIC_CATALOGUE"] = before


def _source(arguments, place: str):
    """The image set that was named; with rules given on the command line, as an entry of its own."""
    from intrinsic import images

    labels = {"column": arguments.label_column, "pattern": arguments.label_pattern}
    group = {"column": arguments.group_column, "pattern": arguments.group_pattern}
    options = {
        "path_column": arguments.path_column,
        "nested": arguments.nested or None,
        "join": _join(arguments, place),
    }
    labels, group, options = ({k: v for k, v in one.items() if v is not None} for one in (labels, group, options))
    read = {"levels": arguments.levels, "skip_unreadable": arguments.skip_unreadable}
    read = {key: value for key, value in read.items() if value}
    if not (labels or group or options or read):
        return place
    entries = images.catalogue()
    if place in entries and not (labels or group or options):
        return images.Entry.model_validate(dict(images.find(place)) | read)
    if place in entries:
        raise ValueError(f"{place} is in the catalogue, which holds its rules already; write an entry of your own "
                         f"to change them: intrinsic datasets {place}")  # fmt: skip
    images.find(place)  # says what is wrong with a place that is none
    fields = {"labels": labels, "group": group or None, "options": options, **read}
    return images.of_path(Path(place), **{k: v for k, v in fields.items() if v})


def _join(arguments, place: str) -> dict | None:
    """The option `join` of an adapter: images of a folder that the table does not hold are left out, with a warning."""
    _together(arguments, ("join_on",), "join")
    if arguments.join is None:
        return None
    if not arguments.join_on:
        raise UsageError(
            "--join needs --join-on, the column by which rows are found: give both, e.g. --join-on PatientID"
        )
    column, _, other = arguments.join_on.partition("=")
    table = str(arguments.join.expanduser().absolute())
    return {
        "table": table,
        "column": column,
        "other": other or None,
        "how": "inner" if Path(place).is_dir() else "left",
    }


def _params(arguments):
    """The parameters of a file, with the values of -p and the image sets of --add."""
    from intrinsic import images
    from intrinsic.campaigns import parameters

    p = parameters.read(arguments.params, {key: images.plain_yaml(value) for key, value in arguments.changes})
    if getattr(arguments, "workers", None) is not None:
        p = p.model_copy(update={"workers": arguments.workers})
    more = [source for source in arguments.add if source not in p.datasets]
    return p.model_copy(update={"datasets": [*p.datasets, *more]}) if more else p


# ------------------------------------------------------------------------------------------ measure


def _measure(arguments) -> int:
    from intrinsic import images
    from intrinsic.campaigns import records
    from intrinsic.properties.measure import measure
    from intrinsic.properties.soundness import write_csv

    _together(arguments, ("params",), "compare")
    source = _source(arguments, arguments.source)
    if arguments.flagged:
        records.writable(arguments.flagged, ".csv")
    found = measure(
        source,
        size=arguments.size,
        channels=arguments.channels,
        k=20 if arguments.k is None else arguments.k,
        per_class=250 if arguments.per_class is None else arguments.per_class,
        pixel_range=arguments.pixel_range or "stored",
        progress=not arguments.json,
    )
    if arguments.flagged:
        write_csv(found.soundness.flagged, arguments.flagged)
    facts, compared, why = found.to_dict(), None, ""
    if arguments.compare:
        try:
            facts["compared"] = compared = _compare(arguments, source)
        except (ValueError, OSError, RuntimeError) as error:  # what was measured is shown all the same
            why = f"intrinsic measure: not compared: {error}"
            if isinstance(error, images.Unmatched):
                why += "; --per-class asks for that M, --unmatched shows the set at its own M beside others"
    if arguments.json:
        print(json.dumps(facts, allow_nan=False))
        return _said(why)
    print(found)
    if arguments.flagged:
        print(f"  flagged          {sum(facts['soundness']['flagged'].values())} rows in {arguments.flagged}")
    for path, reason in facts["unreadable"][:SHOWN]:
        print(f"    {_line(path)}: {_line(reason)}")
    if compared is not None:
        _show_compared(compared)
    print("  intervals: 95 %, for the estimator's expectation at this n, not for the true dimension")
    return _said(why)


def _line(text: str) -> str:
    """A name on one line of a terminal: what is not printable as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _said(why: str) -> int:
    """The exit code, 1 with a reason on stderr."""
    if why:
        print(why, file=sys.stderr)
    return 1 if why else 0


def _compare(arguments, source) -> dict:
    """The set, matched, among those in the records, as plain numbers."""
    from intrinsic.campaigns import frames, plan, records

    asked = {key: getattr(arguments, key) for key in ("size", "channels", "pixel_range", "per_class", "k")}
    p = _setting(arguments).model_copy(update={key: value for key, value in asked.items() if value is not None})
    rows = frames.beside(source, p, records.default_store()).sort_values("k_f", ascending=False)
    own, others = rows[rows["own"]].iloc[0], rows[~rows["own"]]
    return {
        "setting": {key: getattr(p, key) for key in plan.SETTING},
        "sets_below": {c: [int((others[c] < own[c]).sum()), len(others)] for c in ("d_data", "k_f")},
        "sets": json.loads(rows.drop(columns=["growth_per_class", "growth_k_f"]).to_json(orient="records")),
    }


def _setting(arguments):
    """The parameters of --params, or of the published records."""
    from intrinsic.campaigns import parameters

    return parameters.read(arguments.params or parameters.PUBLISHED)


def _show_compared(compared: dict) -> None:
    at = compared["setting"]
    print(f"  among the sets in the records at size {at['size']}, channels {at['channels']}, M = {at['per_class']}")
    print(f"    {'':<2}{'set':<28}{'domain':<11}{'d_data':<22}K_F")

    def shown(row, name, digits):
        return f"{row[name]:.{digits}f} [{row[f'{name}_low']:.{digits}f}, {row[f'{name}_high']:.{digits}f}]"

    for row in compared["sets"]:
        print(f"    {'> ' if row['own'] else '  '}{_line(row['dataset']):<28}{row['domain']:<11}"
              f"{shown(row, 'd_data', 2):<22}{shown(row, 'k_f', 4)}")  # fmt: skip
    d, k = compared["sets_below"].values()
    print(f"    of {k[1]} other sets {d[0]} have a lower d_data, {k[0]} a lower K_F")


# ----------------------------------------------------------------------------------------- forecast


def _forecast(arguments) -> int:
    from intrinsic.campaigns import frames, plan, records
    from intrinsic.inference import forecast

    name, store = plan.set_name(arguments.source), records.default_store()
    runs = forecast.with_error(frames.runs_at(_setting(arguments), arguments.model, store))
    if name not in set(runs["dataset"]):
        raise ValueError(f"no fitted run of {arguments.model} on {name} is stored at this setting, so its curve is not "
                         "known: train it at two sizes N at least, with `intrinsic run`")  # fmt: skip
    own = runs[runs["dataset"] == name]
    targets = {}
    if (wanted := arguments.target_accuracy) is not None:
        targets["accuracy"] = (wanted, forecast.ERROR, forecast.error_of(wanted, own["n_classes"].iloc[0]))
    if arguments.target_loss is not None:
        targets["loss"] = (arguments.target_loss, forecast.LOSS, arguments.target_loss)
    sizes = forecast.ahead(runs, name) if arguments.at is None else arguments.at
    left_out = forecast.left_out(runs, name, sizes)
    rows = []
    if not targets or len(left_out) < len(set(sizes)):  # where a target is given, it is answered without a table too
        rows = forecast.table(runs, name, sizes).to_dict("records")
    needed = {
        what: forecast.n_needed(runs, name, value, outcome=outcome) for what, (_, outcome, value) in targets.items()
    }
    if arguments.json:
        facts = {
            "name": name,
            "model": arguments.model,
            "runs": len(own),
            "trained": sorted({int(n) for n in own["n_train"]}),
            "d_data": float(own["d_data"].iloc[0]),
            "k_f": float(own["k_f"].iloc[0]),
            "sets": int(runs["dataset"].nunique()),
            "forecasts": rows,
            "left_out": [list(pair) for pair in left_out],
            "needed": {
                what: {"target": targets[what][0], **vars(one), "bounds": one.bounds} for what, one in needed.items()
            },
        }
        print(json.dumps(facts, allow_nan=False))
        return 0
    print(f"{name}: {arguments.model}, from {len(own)} runs at N = {own['n_train'].min()} to {own['n_train'].max()}, "
          f"d_data {own['d_data'].iloc[0]:.2f}, K_F {own['k_f'].iloc[0]:.4f}, "
          f"pooled with {runs['dataset'].nunique() - 1} other image sets")  # fmt: skip
    if rows:
        print(f"  {'N':<9}{'test loss (nats)':<32}test accuracy")
    for row in rows:
        loss, accuracy = (
            f"{row[what]:.3f}   [{row[f'{what}_low']:.3f}, {row[f'{what}_high']:.3f}]" for what in ("loss", "accuracy")
        )
        print(f"  {row['n_train']:<9}{loss:<32}{accuracy}")
    for n, why in left_out:
        print(f"  {n}: {why}, where nothing is forecast")
    for what, one in needed.items():
        print(f"  {what} {targets[what][0]:g} needs {one}")
    print("  intervals: 95 %, for one run; the page on labels says how such forecasts did on the records")
    return 0


# ------------------------------------------------------------------------------------ run and status


def _execution(arguments) -> dict:
    """Where and how runs are computed, as the command line says."""
    keys = ("scheduler", "cluster", "run_minutes")
    return {key: getattr(arguments, key) for key in keys} | {"progress": not arguments.no_progress}


def _run(arguments) -> int:
    from intrinsic.campaigns import cluster

    if arguments.scheduler:
        cluster.check_address(arguments.scheduler)  # before what takes longer
    p = _params(arguments)
    if arguments.dry_run:
        return _dry_run(p)
    from intrinsic.campaigns import execution, plan

    made = plan.plan(p)
    _show_incomparable(made)
    outcome = execution.run(p, made=made, retries=arguments.retries, **_execution(arguments))
    for label, reason in outcome.unreachable:
        print(f"not reachable: {label}: {reason}")
    for label, reason in outcome.failed:
        print(f"failed: {label}: {reason}", file=sys.stderr)
    print(
        f"{p.name}: {_counted(outcome.computed, 'task')} computed in {outcome.minutes:.1f} minutes, {outcome.stored} "
        f"stored before, {len(outcome.failed)} failed, {len(outcome.unreachable)} not reachable"
    )
    if outcome.failed:
        print("intrinsic run: what was computed is stored, and the same command tries the rest again", file=sys.stderr)
    return 1 if outcome.failed else 0


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _show_incomparable(found) -> None:
    """The sets of a plan, or of its status, that have too few images for M a class."""
    for name, why in found.incomparable:
        print(f"not comparable: {_line(name)}: {why}")


def _dry_run(p) -> int:
    from collections import Counter

    from intrinsic.campaigns import execution, plan, records

    store, (p, away) = records.default_store(), plan.present(p)
    made = plan.plan(p)
    _show_incomparable(made)
    todo = made.todo(store)
    print(f"{p.name}: {_counted(len(made.tasks), 'task')}, {len(made.tasks) - len(todo)} stored, {len(todo)} to do")
    counts = Counter((task.params.get("model", "properties"), task.params.get("n_train", 0)) for task in todo)
    seconds, workers = plan.estimate(todo, store), execution.n_workers(p)
    for (model, n), count in counts.items():
        each = seconds[model, n]
        took = "unknown, since no such run is stored" if each is None else f"{count * each / 60:.1f} minutes"
        print(f"  {model:<12}{f'N = {n}' if n else '':<10}{_counted(count, 'task'):<12}{took}")
    if todo and None not in seconds.values():
        total = sum(count * seconds[key] for key, count in counts.items())
        processes = f"{workers} process{'' if workers == 1 else 'es'}"
        print(f"about {total / 60 / workers:.1f} minutes with {processes}, at the speed that the records show")
    for label, reason in made.unreachable:
        print(f"not reachable: {label}: {reason}")
    _tell_away(away)
    return 0


def _tell_away(away: dict[str, str]) -> None:
    """Lines of the image sets that are not here: their tasks are in no count."""
    for where in dict.fromkeys(away.values()):
        names = [name for name, at in away.items() if at == where]
        sets = f"{_counted(len(names), 'image set')} {'is' if len(names) == 1 else 'are'}"
        how = "downloaded when first read" if where == "downloads" else "not on this machine"
        print(
            f"{sets} {how}, and not counted: {', '.join(names)} (`intrinsic datasets NAME` says where they come from)"
        )


def _status(arguments) -> int:
    from intrinsic.campaigns import plan, records, status

    store, (p, away) = records.default_store(), plan.present(_params(arguments))
    found = status.status(p, store)
    _show_incomparable(found)
    table, counts = found.table(), found.tasks["state"].value_counts()
    if len(table):
        print((table if table["reason"].any() else table.drop(columns="reason")).to_string(index=False))
    for task in found.tasks[found.tasks["state"] == "failed"].itertuples():
        print(f"failed: {task.label}: {task.reason}")
        if arguments.traceback:
            print(task.traceback)
    _tell_away(away)
    print(f"records: {store.root.absolute()}, and those published in book/records")
    rest = ", ".join(f"{counts.get(state, 0)} {state}" for state in status.STATES)
    print(f"{p.name}: {_counted(len(found.tasks), 'task')}: {rest}")
    return 0


def _publish(arguments) -> int:
    from intrinsic.campaigns import records, status

    made = status.publish(_params(arguments), records.default_store(), arguments.output, everything=arguments.all)
    print(f"{made.path}: {made.total} records, {made.added} of them new")
    if made.left_out:
        print(f"{made.left_out} stored records are not of this campaign's plan and were left out; --all takes them")
    return 0


# ------------------------------------------------------------------------- report, book and datasets


def _report(arguments) -> int:
    from intrinsic.campaigns import parameters
    from intrinsic.properties import measurement
    from intrinsic.publishing import book

    p = parameters.read(arguments.params) if arguments.params else parameters.params()
    with _named(_source(arguments, arguments.source)) as source:
        # first, since it says in one sentence what is wrong with the set, and no notebook runs for nothing
        data = measurement.matched(source, p.size, p.channels, p.pixel_range)
        distinct, needed = len(measurement.without_conflicts(data)), max(2 * p.k, 40) + 1
        if distinct < needed:
            raise ValueError(
                f"{source} has {distinct} distinct images, and a report looks at {needed - 1} neighbors of each: "
                f"give {needed} images or more, or `intrinsic measure`, which takes fewer neighbors"
            )
        print(book.report(source, p))
    return 0


@contextmanager
def _named(source):
    """The name or path of an image set, also for processes that are started inside, which know no entry made here."""
    from intrinsic import images
    from intrinsic.publishing import book

    if isinstance(source, str):
        yield source
        return
    if source.name in images.catalogue():
        raise ValueError(
            f"{source.name!r} is in the catalogue already, and so no name for the set of these options: rename the "
            "folder, or write an entry with another name (intrinsic datasets --draft) and give its name"
        )
    with _catalogues([str(book.entry_file(source))]):
        yield source.name


def _book(arguments) -> int:
    from intrinsic.publishing import book

    how = {"compute": not arguments.no_compute, "progress": not arguments.no_progress, "output": arguments.output}
    book.build(_params(arguments), settings=_execution(arguments), **how)
    return 0


def _datasets(arguments) -> int:
    from intrinsic import images

    rules = ("label_column", "label_pattern", "group_column", "group_pattern", "path_column", "nested", "join")
    _together(arguments, (*rules, "levels", "skip_unreadable"), "draft")
    given = [f"--{name}" for name in ("draft", "present") if getattr(arguments, name)]
    if given and (arguments.name is not None or len(given) > 1):
        other = given[1] if len(given) > 1 else arguments.name
        raise UsageError(f"{other} would change nothing beside {given[0]}: give one of them")
    if arguments.draft:
        source = _source(arguments, arguments.draft)
        entry = images.of_path(source) if isinstance(source, str) else source
        print(entry.draft(), end="")
        return 0
    entries = images.catalogue()
    if arguments.name is None:
        for name, entry in entries.items():
            where = entry.whereabouts()
            if not entry.parent and (entry.present() or not arguments.present):
                pairs = sum(1 for other in entries.values() if other.parent == name)
                more = f"; pairs of its classes: {name}-pair1 to {name}-pair{pairs}" if pairs else ""
                print(f"{name:27} {entry.domain:10} {where:10} {entry.title}{more}")
        print("`intrinsic datasets NAME` tells more of a set, and how to get it")
        return 0
    if arguments.name not in entries:
        images.find(arguments.name)  # raises with the closest name
        raise ValueError(f"{arguments.name!r} is a path and not in the catalogue; `--draft` prints an entry for it")
    print(entries[arguments.name].describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
