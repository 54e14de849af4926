"""What `measure` found, in plain words: one route for the terminal, for notebooks and for the report."""

import html
import math
import shlex
import textwrap
from dataclasses import dataclass
from types import SimpleNamespace

from intrinsic.properties import flagged as kinds
from intrinsic.properties.growth import predicted_sharpness
from intrinsic.properties.interval import digits

SHORTCUT = 0.80  # balanced accuracy of brightness and border from which they are a warning
LINKED = 0.10  # share of near-duplicates from which they are a warning: clean sets have up to that by chance
IMBALANCE = 2.0  # largest / smallest class, from which it is a warning
FEW = 16  # images of a class below which its labels cannot be judged
LINES, WIDTH = 25, 110  # of what the terminal shows
PUBLISHED = (64, 64)  # pixels of the published sets
UNIT = "per unit of L2 distance, pixels in [0, 1]"


@dataclass(frozen=True)
class Answer:
    """What was found about an image set: a title, and sentences; details are pairs of texts (what, value).

    next   commands to run next, with what they do
    """

    title: str
    wrong: tuple[str, ...]
    numbers: tuple[str, ...]
    details: tuple[tuple[str, str], ...]
    next: tuple[str, ...] = ()

    def text(self, details=False, lines=LINES):
        """For a terminal: `lines` at most, of which the two numbers are always some."""
        title = _wrapped(self.title, "")
        numbers = ["", *(line for one in self.numbers for line in _wrapped(one, "  ")), *self.next]
        room, shown = lines - len(title) - len(numbers) - 3, []
        for m, one in enumerate(self.wrong, 1):
            more = _wrapped(one, f"  {m}. ")
            if len(shown) + len(more) > room and not details:
                shown.append(f"  and {_n(len(self.wrong) - m + 1, 'more point')}: --details")
                break
            shown += more
        head = "Look at this first:" if self.wrong else "Nothing was found wrong with the images."
        rows = ["", *(line for what, value in self.details for line in _wrapped(value, f"  {what:<18}"))]
        return "\n".join([*title, "", head, *shown, *numbers, *(rows if details else [])])

    def html(self):
        """For a page; names of files and classes are escaped."""
        lists = self.wrong, self.numbers
        wrong, numbers = ("".join(f"<li>{html.escape(one)}</li>" for one in part) for part in lists)
        rows = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in self.details)
        first = f"<p>Look at this first:</p><ol>{wrong}</ol>" if wrong else "<p>Nothing was found wrong.</p>"
        table = f"<details><summary>Details</summary><table>{rows}</table></details>"
        return f"<p><b>{html.escape(self.title)}</b></p>{first}<ul>{numbers}</ul>{table}"


def answer(found, placed=None, again="") -> Answer:
    """What `measure` found in words.

    found    Measured
    placed   of `place`, if the set was compared
    again    the command that measures it, from which those to run next are made
    """
    nexts, n = [], len(found.soundness.flagged)
    if again and n and "--flagged" not in again:
        nexts.append(f"Next: {again} --flagged suspects.csv   lists all {n:,} pictures to look at, by family")
    if again and placed is not None and found.images.images.shape[1:] != PUBLISHED:
        nexts.append(f"Next: {again} --size 64 --channels 1   compares with the published sets")
    numbers = tuple(_numbers(found, placed))
    return Answer(_title(found), tuple(found.warnings), numbers, tuple(_details(found)), tuple(nexts))


def _title(found):
    sound, classes = found.soundness, [f"{name} {n:,}" for name, n in found.classes.items()]
    more = f" and {len(classes) - 8} more classes" if len(classes) > 8 else ""
    title = f"{found.images.name}: {_n(found.n, 'image')} of {' x '.join(map(str, found.shape))} pixels: "
    title += f"{', '.join(classes[:8])}{more}. "
    if sound.groups is None:
        return title + f"{sound.who.capitalize()}s are unknown."
    mixed = "none has" if sound.mixed == 0 else f"{sound.mixed:,} {'has' if sound.mixed == 1 else 'have'}"
    return title + (f"{_n(sound.groups, sound.who)}, {found.n / sound.groups:.1f} images each; {mixed} images of "
                    "several labels.")  # fmt: skip


def wrong(sound) -> list[str]:
    """What `soundness` found wrong and what to do, the worst first."""
    known, who, empty = sound.groups is not None, sound.who, sound.constant + sound.nearly_constant
    split = f"Split by {who}, never by image" if known else f"Find out the {who}s, and split by them"
    other = f"the nearest of another {who}" if known else "the nearest that is no near-duplicate"
    guess, exact = sound.by_image < (1 + sound.chance) / 2, _named(sound, kinds.EXACT, 1)
    small = [name for name, n in sound.counts.items() if 0 < n < FEW or name in sound.few]
    enough = [shlex.quote(name) for name in sound.counts if name not in small]
    leave = f", or leave it out (--classes {' '.join(enough)})" if 1 < len(enough) <= 8 else ""
    found = (
        (sound.conflicting, f"{_n(sound.conflicting, 'image')} have an exact copy with another label: "
         f"{_named(sound, kinds.CONFLICTING)}. Correct one label of each pair, or remove both."),
        (sound.as_classes, f"The {who}s are the same as the classes, so they say nothing about {who}s. Name the column "
         f"that holds the {who} (--group-column)."),
        (sound.across_classes, f"{_n(sound.across_classes, 'pair')} of near-duplicates with two labels: "
         f"{_named(sound, kinds.ACROSS_CLASSES)}. One of the two labels is probably wrong."),
        (not sound.across_classes, "The two most alike pictures with different labels: "
         f"{_both(sound.closest)}. Look at them."),
        (_named(sound, kinds.MIXED), f"{_n(sound.mixed or 0, who)} of {sound.groups} have several labels, first "
         f"{_named(sound, kinds.MIXED, 6)}. Check these labels."),
        (sound.shortcut > SHORTCUT, f"Brightness and border alone tell the classes with accuracy "
         f"{sound.shortcut}; chance is {sound.chance:.2f}. Check whether classes come from other machines or wards, or "
         "carry a burned-in marker."),
        (_named(sound, kinds.DOUBTFUL), "Labels that the most alike pictures contradict, the most doubtful first: "
         f"{_named(sound, kinds.DOUBTFUL, 6)}." + (" Distance says little about the label here, so most of them may be "
         "right." if guess else " If labels are wrong, they are probably among these.")),
        (sound.across_groups, f"{_n(sound.across_groups, 'pair')} of near-duplicates of two {who}s: "
         f"{_named(sound, kinds.ACROSS_GROUPS, 2)}. One {who} may have two names."),
        (sound.leaks, f"The nearest picture tells the label with accuracy {sound.by_image:.2f}, {other} with "
         f"{sound.by_group:.2f}, so a split by image leaks. {split}."),
        (sound.linked > LINKED * sound.distinct and not sound.leaks, f"{sound.linked:,} of {sound.distinct:,} "
         f"images have a near-duplicate. {split}{'' if known else ', or by the families that --flagged writes'}."),
        (sound.groups == sound.n, f"Each {who} has one image, so {who}s change nothing. Check that the column holds "
         f"the {who} and not the image."),
        (small, f"Too few images to judge a label: {', '.join(f'{c} ({sound.counts[c]})' for c in small[:5])}. "
         f"Label sharpness and balanced training sets have as few of each class: add images{leave}."),
        (sound.imbalance > IMBALANCE and not small, f"The largest class is {sound.imbalance:.1f} times the "
         "smallest. Balanced training sets use as many of each class as the smallest has."),
        (sound.copies, f"{_n(sound.copies, 'exact copy', 'exact copies')} with the same label left out"
         f"{exact and ': '}{exact}."),
        (empty, f"{_n(empty, 'image')} of nearly one grey level: "
         f"{_named(sound, (kinds.CONSTANT, kinds.NEARLY_CONSTANT))}. Export again, or remove."),
        (sound.unreadable, f"{_n(sound.unreadable, 'file')} could not be read and were left out: "
         f"{_named(sound, kinds.UNREADABLE, 2)}. Export them again."),
    )  # fmt: skip
    return [text for applies, text in found if applies]


def _named(sound, which, most=3):
    """Flagged files of a kind by name, with labels and partners; empty where there is none."""
    rows = sound.suspects(*([which] if isinstance(which, str) else which), most=sound.n)
    more = [f"{len(rows) - most:,} more"] if len(rows) > most else []
    return "; ".join([*map(_both, rows[:most]), *more])


def _both(row):
    """An image and its partner by name, with their labels; a doubtful label alone."""
    alone = row["kind"] in (kinds.DOUBTFUL, kinds.MIXED) or not row["partner_path"]
    sides = ("",) if alone else ("", "partner_")
    named = (f"{row[f'{side}path']} ({row[f'{side}class']})" if row["class"] else row["path"] for side in sides)
    return " | ".join(named)


def _numbers(found, placed):
    d, k, who = found.d_data, found.sharpness_at_m, found.soundness.who
    apart = f", {who}s kept apart" if d.excludes_group else ""
    yield f"Intrinsic dimension {digits(d)}{_ends(d)}{apart}: the images vary in about {max(1, round(d))} ways."
    if d.excludes_group and abs(found.d_all / d - 1) > 0.1:
        yield f"Counting neighbors of the same {who} it would be {digits(found.d_all)}: a {who}'s images are alike."
    yield (f"Label sharpness {digits(k)}{_ends(k)} at {k.per_class} images a class: the closest two with different "
           f"labels are about {digits(1 / k)} apart.")  # fmt: skip
    if placed is not None and placed.sets:
        yield (f"Its labels are sharper than those of {placed.below} of {placed.sets} published sets, at these pixels "
               f"with {placed.per_class} images a class.")  # fmt: skip


def _details(found):
    """The facts behind the words, as pairs of texts (what, value)."""
    sound, law, grown = found.soundness, found.growth.cross, found.growth.exponent
    more = 2 * found.sharpness_at_m.per_class
    return [
        ("d_data", f"{found.d_data}   maximum likelihood, k = {found.d_data.k}"),
        ("d_data of all", f"{found.d_all}   neighbors of the same {sound.who} counted"),
        ("TwoNN", f"{found.twonn}"),
        ("K_F of all pairs", f"{found.label_sharpness}   {UNIT}"),
        (f"K_F at M = {found.sharpness_at_m.per_class}",
         f"{found.sharpness_at_m}   mean over {found.sharpness_at_m.draws} balanced draws"),
        ("K_F / same label", f"{found.control.ratio}   near 1: labels keep no distance"),
        ("growth of K_F", f"M^{grown}" if math.isfinite(grown) else f"not measured: {grown.method}"),
        ("predicted growth", f"M^{law.exponent}; K_F {predicted_sharpness(law, more)} at M = {more:,}"
         if math.isfinite(law) else f"none: {law.method}"),
        ("near-duplicates", f"{sound.linked:,} of {sound.distinct:,} images have one"),
        ("brightness alone", f"{sound.shortcut}   balanced accuracy, chance {digits(sound.chance)}"),
        ("nearest image", f"{sound.by_image}; of another {sound.unit}: {sound.by_group}"),
    ]  # fmt: skip


def place(found, records):
    """Compare a set with published ones, at the largest recorded M up to 250 that it allows.

    found     Measured
    records   with .params and .series: records of kind properties
    Returns an object with attributes per_class (M), k_f (K_F at M of each published set, by name), sets (how many these
    are) and below (how many of them have a smaller K_F).
    """
    own, pixels = dict(zip(found.growth.per_class, found.growth.k_f, strict=True)), found.images
    setting = {"size": pixels.size[0], "channels": pixels.channels, "pixel_range": pixels.pixel_range}
    m, k_f = max((m for m in own if m <= 250), default=0), {}
    for one in records:
        grown = dict(zip(one.series.get("growth_per_class", ()), one.series.get("growth_k_f", ()), strict=True))
        alike = setting == {key: one.params[key] for key in setting} and pixels.size[0] == pixels.size[1]
        if alike and m in grown and one.params["dataset"] != pixels.name:
            k_f[one.params["dataset"]] = grown[m]
    return SimpleNamespace(per_class=m, below=sum(value < own[m] for value in k_f.values()), sets=len(k_f), k_f=k_f)


def _ends(value):
    known = not math.isnan(value.low) and not math.isnan(value.high)
    return f" (95 %: {digits(value.low)} to {digits(value.high)})" if known else ""


def _n(count, one, several=None):
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _wrapped(text, first):
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * len(first),
                         break_long_words=False, break_on_hyphens=False) or [first.rstrip()]  # fmt: skip
