"""The command `intrinsic`: measure, forecast, run, status, retry, publish, report, book, datasets."""

import argparse
import json
import math
import os
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

SHOWN = 12  # classes, and unreadable files, that are named
TERAFLOPS = 20.0  # 10^12 operations a second that a GPU is taken to train at


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
    measure.add_argument("--unmatched", action="store_true", help="show sets at other settings too, without a rank")

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
    run.add_argument(
        "--gpu-teraflops",
        type=_positive,
        metavar="RATE",
        help="10^12 operations a second that a GPU is taken to train at, for the estimate of a dry run (20)",
    )
    _add_sets(run)
    _add_engine(run)
    run.add_argument("--retries", type=_whole, default=1, metavar="K", help="tries more of a run that raises (1)")
    run.add_argument("--no-progress", action="store_true", help="no table of progress")

    status = add("status", "what a campaign has done and what is missing", "intrinsic status params/quick.yaml")
    status.add_argument("params", metavar="PARAMS.yaml")
    _add_sets(status)
    status.add_argument("--traceback", action="store_true", help="show where failed runs failed")
    status.add_argument("--html", type=Path, metavar="FILE", help="write a page that needs no network")

    retry = add("retry", "make failed runs to do again", "intrinsic retry params/quick.yaml --only 'vgg13 *'")
    retry.add_argument("params", metavar="PARAMS.yaml")
    _add_sets(retry)
    retry.add_argument("--only", metavar="PATTERN", default="*", help="those whose name matches, as status prints it")

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


def _add_engine(parser) -> None:
    parser.add_argument("--workers", type=_count, help="processes of one thread each (one a GPU, else one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of a running Dask scheduler")
    parser.add_argument("--cluster", type=Path, metavar="FILE.yaml", help="send jobs to a queue (params/clusters/)")
    parser.add_argument(
        "--limit-minutes", type=_positive, metavar="M", help="start nothing later than M minutes from now"
    )
    parser.add_argument(
        "--run-minutes", type=_positive, metavar="M", help="a run, or notebook, that takes longer failed"
    )


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
        "retry": _retry,
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
    """The parameters of a file, with the image sets of --add."""
    from intrinsic.campaigns import campaign

    p = campaign.read(arguments.params)
    more = [source for source in arguments.add if source not in p.datasets]
    return p.model_copy(update={"datasets": [*p.datasets, *more]}) if more else p


# ------------------------------------------------------------------------------------------ measure


def _measure(arguments) -> int:
    from intrinsic import images
    from intrinsic.campaigns import records
    from intrinsic.properties.measure import measure
    from intrinsic.properties.soundness import write_csv

    _together(arguments, ("params", "unmatched"), "compare")
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
    """The set, matched, among those in the records, as plain numbers; writes the picture."""
    from intrinsic.campaigns import campaign
    from intrinsic.publishing import book

    setting = _setting(arguments) or campaign.stored_setting()
    asked = {key: getattr(arguments, key) for key in ("size", "channels", "pixel_range", "per_class", "k")}
    setting = {**setting, **{key: value for key, value in asked.items() if value is not None}}
    found = campaign.compare(source, setting, unmatched=arguments.unmatched)
    columns = ["dataset", "domain", "size", "channels", "pixel_range", "per_class", "draws", "k", "matched",
               "d_data", "d_data_low", "d_data_high", "k_f", "k_f_low", "k_f_high", "own"]  # fmt: skip
    rows = found.rows[columns].sort_values("k_f", ascending=False)
    below = {column: found.rank(column) for column in ("d_data", "k_f")}
    return {
        "setting": found.setting,
        "per_class_asked": setting["per_class"],
        "sets_below": {column: list(pair) if pair else None for column, pair in below.items()},
        "sets": json.loads(rows.to_json(orient="records")),
        "left_out": [list(pair) for pair in found.left_out],
        "picture": str(book.plane_page(found)),
    }


def _setting(arguments) -> dict | None:
    """Size, channels, range, M, draws and k of --params."""
    from intrinsic.campaigns import campaign

    return campaign.setting_of(campaign.read(arguments.params)) if arguments.params else None


def _show_compared(compared: dict) -> None:
    at, asked = compared["setting"], compared["per_class_asked"]
    print("  among the sets in the records (d_data and K_F change with size, channels, range, M and k)")
    if at["per_class"] < asked:
        print(f"    yours at M = {at['per_class']}, its smallest class, and not at {asked}")
    print(f"    {'':<2}{'set':<28}{'domain':<11}{'size':<6}{'ch.':<5}{'range':<8}{'M':<6}{'k':<4}{'d_data':<22}K_F")

    def shown(row, name, digits):
        if row[name] is None:
            return "not measured"
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
        return f"{row[name]:.{digits}f}{ends}"

    for row in compared["sets"]:
        setting = f"{row['size']:<6}{row['channels']:<5}{row['pixel_range']:<8}{row['per_class']:<6}{row['k']:<4}"
        print(f"    {'> ' if row['own'] else '  '}{row['dataset']:<28}{row['domain']:<11}{setting}"
              f"{shown(row, 'd_data', 2):<22}{shown(row, 'k_f', 4)}")  # fmt: skip
    d, k = compared["sets_below"].values()
    if d and k:
        rest = "" if all(row["matched"] for row in compared["sets"]) else "; sets at another setting are not counted"
        print(f"    of {k[1]} other sets {d[0]} have a lower d_data, {k[0]} a lower K_F{rest}")
    else:
        more = "; --unmatched shows those at other settings" if compared["left_out"] else ""
        print(f"    no other set has been measured at the setting of yours, so it has no rank among them{more}")
    for why in dict.fromkeys(why for _, why in compared["left_out"]):
        print(f"    left out: {', '.join(name for name, one in compared['left_out'] if one == why)}: {why}")
    print(f"    drawn in {compared['picture']}")


# ----------------------------------------------------------------------------------------- forecast


def _forecast(arguments) -> int:
    from intrinsic.campaigns import campaign
    from intrinsic.inference import forecast

    runs = forecast.with_error(campaign.runs_beside(arguments.source, arguments.model, _setting(arguments)))
    name = runs.attrs["dataset"]
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


def _engine_settings(p, arguments, **more):
    """Where and how runs and notebooks are computed, as the command line says."""
    from intrinsic.campaigns import campaign, engine

    return engine.Settings(
        workers=campaign.n_workers(p),
        gpus=campaign.gpus(),
        run_minutes=arguments.run_minutes,
        limit_minutes=arguments.limit_minutes,
        scheduler=arguments.scheduler,
        cluster=arguments.cluster,
        **more,
    )


def _run(arguments) -> int:
    from intrinsic.campaigns import campaign

    _together(arguments, ("gpu_teraflops",), "dry_run")
    p = _params(arguments)
    if arguments.workers is not None:
        p = p.model_copy(update={"workers": arguments.workers})
    if arguments.dry_run:
        return _dry_run(p, arguments.gpu_teraflops or TERAFLOPS)
    settings = _engine_settings(p, arguments, retries=arguments.retries)
    made = campaign.plan(p)
    _show_incomparable(made)
    outcome = campaign.run(p, progress=not arguments.no_progress, settings=settings, made=made)
    if outcome.left:
        print(f"{p.name}: {len(outcome.left)} tasks are left, first {outcome.left[0]}; the same command continues")
    for label, reason in outcome.unreachable:
        print(f"not reachable: {label}: {reason}")
    for label, reason in outcome.failed:
        print(f"failed: {label}: {reason}", file=sys.stderr)
    if outcome.failed:
        print(
            f"intrinsic run: {len(outcome.failed)} of {outcome.computed + len(outcome.failed)} tasks failed; "
            "what was computed is stored, and the same command tries the rest again",
            file=sys.stderr,
        )
        return 1
    away = f", {len(outcome.unreachable)} not reachable" if outcome.unreachable else ""
    if outcome.computed == 0 and not outcome.left:
        all_ = "its one task is" if outcome.stored == 1 else f"all {outcome.stored} tasks are"
        print(f"{p.name}: {all_} stored already{away}; nothing to do")
    else:
        print(
            f"{p.name}: {_counted(outcome.computed, 'task')} computed in {outcome.minutes:.1f} minutes, "
            f"{outcome.stored} were stored already{away}"
        )
    return 0


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _show_incomparable(found) -> None:
    """The sets of a plan, or of its status, that have too few images for M a class."""
    for name, why in found.incomparable:
        print(f"not comparable: {name}: {why}")


def _dry_run(p, teraflops: float) -> int:
    import pandas as pd

    from intrinsic.campaigns import campaign, progress

    store, away = campaign.default_store(), campaign.absent(p)
    made = campaign.plan(campaign.without(p, away))
    _show_incomparable(made)
    todo = made.todo(store)
    seconds = campaign.estimate_seconds(todo, store, calibrate=True)
    rows = [
        {
            "task": t.kind,
            "model": t.params.get("model", ""),
            "N": t.params.get("n_train", ""),
            "image sets": t.params["dataset"],
            "runs": 1,
            "minutes": s / 60,
        }
        for t, s in zip(todo, seconds, strict=True)
    ]
    print(f"{p.name}: {_counted(len(made.tasks), 'task')}, {len(made.tasks) - len(todo)} stored, {len(todo)} to do")
    if rows:
        table = pd.DataFrame(rows).groupby(["task", "model", "N"], sort=False)
        plan = table.agg({"image sets": "nunique", "runs": "sum", "minutes": "sum"})
        print(plan.round(1).to_string())
        workers = campaign.n_workers(p)
        minutes = sum(seconds) / 60 / workers
        many = "process" if workers == 1 else "processes"
        print(f"about {minutes:.1f} minutes with {workers} {many} on this machine")
    for line in progress.grouped(made.unreachable):
        print(f"not reachable: {line}")
    _tell_away(away)
    cells = list(campaign.cells(p))
    seeds = len({seed for *_, seed in cells})
    if not cells:
        print("the grid has no training runs")
        return 0
    hours = campaign.gpu_hours(p, teraflops)
    took = f"{hours:.1f} hours" if hours >= 1 else f"{max(60 * hours, 0.1):.1f} minutes"
    print(
        f"the grid has {_counted(len(cells), 'training run')} ({len(cells) / seeds:.0f} a seed): at most about {took} "
        f"of a GPU that trains at {teraflops:g} TFLOP/s, without attacks"
    )
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
    from intrinsic.campaigns import campaign, progress, records

    html = None if arguments.html is None else records.writable(arguments.html, ".html", ".htm")
    p = _params(arguments)
    away = campaign.absent(p)
    found = progress.status(campaign.without(p, away))
    _show_incomparable(found)
    table = found.frame()
    shown = table.drop(columns="reason") if not table["reason"].any() else table
    if len(shown):
        print(shown.to_string(index=False))
    for failure in found.failures:
        times = f" ({failure.attempts} attempts)" if failure.attempts > 1 else ""
        print(f"failed: {failure.label}: {failure.reason}{times}")
        if arguments.traceback:
            print(failure.traceback)
    counts = {state: int(table[state].sum()) for state in progress.STATES}
    done, planned = counts.pop("done"), len(found.states)
    rest = "".join(f", {n} {state}" for state, n in counts.items() if n or state == "not reachable")
    _tell_away(away)
    print(f"records: {campaign.default_store().root.absolute()}, those published in book/records")
    print(f"{p.name}: {done} of {planned} tasks done{rest}")
    if html is not None:
        records.write_text(html, found.html(p.name))
        print(f"written: {arguments.html}")
    return 0


def _retry(arguments) -> int:
    from intrinsic.campaigns import progress

    p = _params(arguments)
    again = progress.retry(p, arguments.only)
    for label in again:
        print(label)
    if not again:
        print(f"{p.name}: no task has failed, so nothing is to do again")
        return 0
    said = f"{_counted(len(again), 'failed task')} {'is' if len(again) == 1 else 'are'} to do again"
    print(f"{p.name}: {said}; compute with: intrinsic run {arguments.params}")
    return 0


def _publish(arguments) -> int:
    from intrinsic.campaigns import progress

    made = progress.publish(_params(arguments), arguments.output, everything=arguments.all)
    print(
        f"{made.path}: {made.total} records: {made.added} added, {made.replaced} written again, {made.kept} as before"
    )
    if made.left_out:
        print(f"{made.left_out} stored records are not of this campaign's plan and were left out; --all takes them")
    return 0


# ------------------------------------------------------------------------- report, book and datasets


def _report(arguments) -> int:
    from intrinsic.campaigns import campaign
    from intrinsic.properties import measurement
    from intrinsic.publishing import book

    p = campaign.read(arguments.params) if arguments.params else campaign.params()
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

    p = _params(arguments)
    if arguments.workers is not None:
        p = p.model_copy(update={"workers": arguments.workers})
    how = {"compute": not arguments.no_compute, "progress": not arguments.no_progress, "output": arguments.output}
    book.build(p, settings=_engine_settings(p, arguments), **how)
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
        print(images.draft(_source(arguments, arguments.draft)), end="")
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
