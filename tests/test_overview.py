"""The first page's parts and the coverage say what the records hold, and say so where they hold nothing."""

import re

import numpy as np
import pandas as pd
import pytest
from simulated_runs import simulated

from intrinsic import images
from intrinsic.campaigns import campaign, records
from intrinsic.inference import statistics
from intrinsic.publishing import book, overview

P = campaign.params(
    name="two",
    datasets=["digits_0_1", "digits_4_9"],
    runs=[{"models": ["resnet18", "vgg13"], "n_train": [64, 5000], "seeds": [0, 1]}],
)


def properties(names, n=1000):
    columns = ["d_data", "k_f", *(f"{c}_{end}" for c in ("d_data", "k_f") for end in ("low", "high"))]
    rows = [dict.fromkeys(columns, 1.0 + i) | {"dataset": name, "domain": "natural"} for i, name in enumerate(names)]
    more = {"n": n, "n_groups": n, "n_copies": 0.0, "n_conflicting": 0.0}
    return pd.DataFrame([row | more for row in rows])


def runs(cells):
    facts = {"fitted": True, "n_test": 200, "test_accuracy": 0.9, "test_loss_nats": 0.3}
    return pd.DataFrame(
        [dict(zip(("dataset", "model", "n_train", "seed"), cell, strict=True)) | facts for cell in cells]
    )


EMPTY = overview.Shown(P, pd.DataFrame(), pd.DataFrame())


def test_without_records_the_parts_say_so_and_name_the_command():
    assert "intrinsic run params/published.yaml" in overview.plane(EMPTY, {}, book.chart_html)[0]
    table = overview.verdicts(EMPTY)
    assert table.count("no run is published yet") == len(statistics.CLAIMS)
    assert [cell.strip() for cell in table.splitlines()[0].split("|")][2:4] == [
        "claim and test, over image sets",
        "verdict",
    ]
    assert ", properties missing | natural | 0 of 8 |" in overview.coverage_page(EMPTY)


@pytest.mark.parametrize(
    ("value", "low", "high", "read"),
    [
        (0.3061, 0.0508, 0.5614, "0.31 [0.05, 0.56]"),
        (-0.3634, -0.596, -0.1313, "−0.36 [−0.60, −0.13]"),
        (0.01234, 0.0111, 0.0135, "0.0123 [0.0111, 0.0135]"),
        (12.3456, 2.0, 22.0, "12.35 [2.00, 22.00]"),
        (0.5, np.nan, 1.0, "0.5"),
        (np.nan, np.nan, np.nan, "not available"),
    ],
)
def test_an_effect_is_written_to_two_digits_of_its_intervals_width(value, low, high, read):
    assert overview._effect(value, low, high).replace("\N{NO-BREAK SPACE}", " ") == read


def test_each_verdict_says_what_becomes_of_it_under_published_choices():
    runs = simulated(9, seed=1)
    runs = runs.assign(d_data_all=runs["d_data"], k_f_all=runs["k_f"])
    table = overview.verdicts(overview.Shown(P, pd.DataFrame(), runs)).splitlines()
    for i in range(1, 5):
        (said,) = (line for line in table if line.startswith(f"- Claim {i}: "))
        assert re.search(r"(: |; )the same under \d of \d published choices", said)


def test_verdicts_of_a_campaign_under_way_are_interim(monkeypatch):
    runs = simulated(9, seed=1)
    runs = runs.assign(d_data_all=runs["d_data"], k_f_all=runs["k_f"])
    for planned, interim in ((len(runs), False), (len(runs) + 1, True)):
        monkeypatch.setattr(overview, "within_reach", lambda _, planned=planned: planned)
        table = overview.verdicts(overview.Shown(P, pd.DataFrame(), runs))
        assert ("An interim look" in table) == interim
        assert table.count("** so far") == (len(statistics.CLAIMS) if interim else 0)


def test_coverage_counts_what_is_stored_and_names_what_is_out_of_reach():
    cells = [("digits_0_1", "resnet18", 64, 0), ("digits_0_1", "vgg13", 64, 1)]
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), runs(cells))
    page = overview.coverage_page(found)
    assert "| natural | 2 of 8 | 2 | 0 | 0 |" in page
    assert "| natural | 0 of 8 | 0 | 0 | 0 |" in page
    assert "| 64 | none | 5,000 |" in page
    assert "| none | 64 | 5,000 |" in page
    assert "| all 2 | 2 | 16 |" in page


def test_runs_out_of_reach_are_not_waited_for():
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), pd.DataFrame())
    assert len(overview.campaign.cells(P)) == 16
    assert overview.within_reach(found) == 8  # half of them ask for 5,000 images


def test_what_publishing_found_out_of_reach_is_neither_waited_for_nor_to_come():
    cells = [(model, "digits_0_1", 64, seed) for model in ("resnet18", "vgg13") for seed in (0, 1)]
    far = {campaign.run_label(*cell): "digits_0_1: class '1' has 20 left" for cell in cells}
    far["resnet18 another_set N=64 seed=0"] = "of another plan"
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), pd.DataFrame(), far)
    assert overview.within_reach(found) == 4
    page = overview.coverage_page(found)
    assert "| none | none | 64, 5,000 |" in page
    assert "| none | 64 | 5,000 |" in page
    assert page.count("- digits\\_0\\_1: class '1' has 20 left") == 1
    assert "another plan" not in page

    one = {label: why for label, why in far.items() if "seed=0" in label}
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), pd.DataFrame(), one)
    assert overview.within_reach(found) == 6
    assert "| none | none | 64, 5,000 |" not in overview.coverage_page(found)  # another seed's split has them


def test_of_the_published_campaign_only_planned_runs_without_a_record_are_out_of_reach():
    p = campaign.read(images.REPOSITORY / overview.PUBLISHED)
    far = set(records.read_unreachable(campaign.published_file(p)))
    stored = records.read_published(campaign.published_file(p))
    keys = ("model", "dataset", "n_train", "seed")
    done = {campaign.run_label(*(r.params[key] for key in keys)) for r in stored if r.kind == "training"}
    assert far <= set(campaign.run_labels(p))
    assert far.isdisjoint(done)


def test_a_set_in_the_plane_leads_to_its_page_where_there_is_one():
    found = overview.Shown(P, properties(["digits_0_1", "digits_4_9"]), pd.DataFrame())
    text, picture = overview.plane(found, {"digits_4_9": "book/image_sets/digits_4_9"}, book.chart_html)
    assert '"page":"image_sets/digits_4_9.html"' in text
    assert '"page":null' in text
    table = overview.plane_table(found, {"digits_4_9": "book/image_sets/digits_4_9"})
    assert "[digits\\_4\\_9](image_sets/digits_4_9.md)" in table
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000


def test_each_published_set_has_a_page_that_shows_its_runs_and_no_pixels():
    found = overview.Shown(P, properties(["digits_0_1"]), runs([("digits_0_1", "resnet18", 64, 0)]))
    (page,) = overview.set_pages(found).values()
    assert "| resnet18 | 64 | 1 | 1 | 0.900 | 0.300 |" in page
    assert "intrinsic report digits_0_1" in page
    assert "image}" not in page


def test_a_sets_page_gives_the_least_and_the_most_over_seeds():
    several = runs([("digits_0_1", "resnet18", 64, seed) for seed in (0, 1)])
    several["test_accuracy"] = [0.8, 0.9]
    (page,) = overview.set_pages(overview.Shown(P, properties(["digits_0_1"]), several)).values()
    assert "| resnet18 | 64 | 2 | 2 | 0.850 (0.800 to 0.900) | 0.300 (0.300 to 0.300) |" in page
