"""Further tests: simulated tables of known truth for each, the family's adjustment, and what could be seen at all."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from simulated_runs import simulated as simulated_campaign

from intrinsic import images
from intrinsic.campaigns import campaign
from intrinsic.inference import further, statistics
from intrinsic.inference.further import FurtherTest, WrongTests, further_tests, verdict
from intrinsic.inference.statistics import NOT_MEASURED, TOO_FEW_SETS, NotEnough, power_difference, power_mean

NAMES = list(further_tests())
RUN_TESTS = [name for name in NAMES if further_tests()[name].frame in ("runs", "layers")]


def simulated(name, n_sets, effect, seed=0, spread=0.05, tasks=1, sizes=(64, 256), runs=1):
    """A table for one test whose effect is known: `effect` in the unit of its quantity (rank: -1, 0 or 1).

    Sets have effects of their own, shared by all of their runs, so that runs alone prove nothing.
    """
    test, rng, rows = further_tests()[name], np.random.default_rng(seed), []
    tasks = max(tasks, 3) if test.statistic == "within" else tasks
    margin = test.margin or 1
    for i in range(n_sets):
        own, level = rng.normal(0, spread), rng.normal(0, 2)
        for task in range(tasks):
            x = rng.uniform(4, 15) if test.statistic == "excess" else math.exp(rng.normal(-1.5, 0.6))
            facts = {"dataset": f"set{i}_{task}", "family": f"set{i}", "domain": "natural"}
            if test.statistic == "rank":
                y = effect * math.log(x) + rng.normal(0, spread if effect else 1)
                rows.append(facts | {test.predictor: x, test.outcome: y})
                continue
            noise = rng.normal(0, spread)
            for n_train in sizes:
                for run in range(runs):
                    e = rng.normal(0, 0.02)
                    y = {
                        "excess": math.exp(
                            level - ((test.margin or 1) / x + effect + own) * math.log(n_train / 128) + e
                        ),
                        "slope": math.exp(own + effect * math.log(x) + e),
                        "correlation": own + effect * x + e,
                        "within": math.exp(level + (effect + own) * math.log(x) + noise + e),
                        "ratio": x * margin * math.exp(effect + own + e),
                    }[test.statistic]
                    row = {"model": "resnet18", "n_train": n_train, "seed": run, "fitted": True}
                    rows.append(facts | row | {test.predictor: x, test.outcome: y})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- truth found, not invented, not reversed


@pytest.mark.parametrize("name", NAMES)
def test_a_true_effect_is_found_and_its_reverse_refutes(name):
    side = further_tests()[name].side
    found = verdict(name, simulated(name, 12, side, seed=1), permutations=499)
    reverse = verdict(name, simulated(name, 12, -side, seed=1), permutations=499)
    assert (found.n_sets, found.verdict) == (12, "supported")
    assert reverse.verdict == "not supported"
    assert np.sign(found.effect) == side == -np.sign(reverse.effect)
    assert found.leave_one_out["value"].notna().all()


@pytest.mark.parametrize("name", NAMES)
def test_no_effect_is_not_supported_and_few_sets_are_an_illustration(name):
    nothing = verdict(name, simulated(name, 12, 0.0, seed=3), permutations=499)
    assert nothing.verdict in ("undecided", "not supported")
    assert verdict(name, simulated(name, 5, further_tests()[name].side, seed=1)).verdict == TOO_FEW_SETS
    assert "| Test | " in nothing._repr_markdown_()  # none of them is primary
    assert "Primary" not in nothing._repr_markdown_()


@pytest.mark.parametrize("name", [name for name in RUN_TESTS if further_tests()[name].statistic == "excess"])
@pytest.mark.parametrize(("effect", "said"), [(-1.0, "not supported"), (1.0, "supported")])
def test_sets_about_which_a_bound_says_nothing_decide_nothing(name, effect, said):
    frame = simulated(name, 12, effect, seed=1)
    number = frame["dataset"].str.extract(r"set(\d+)_")[0].astype(int)
    for below, expected in ((12, said), (8, said), (7, "undecided"), (0, "undecided")):
        silent = 0.5 if name == "accuracy_scaling" else 1.0  # 1 / K_L
        found = verdict(name, frame.assign(least_bound=np.where(number < below, 0.4, silent)), permutations=499)
        assert found.verdict == expected
        assert found.beside["Sets about which the bound says anything"].startswith(f"{below} set")
        counted = below if below >= 8 else 12
        assert found.n_runs == (number < counted).sum()


@pytest.mark.slow
def test_chance_finds_an_effect_in_at_most_6_percent():
    """p <= 5 % with an interval off 0, where the truth is 0; the seeds are fixed, so this never flickers."""
    hits, n = 0, 0
    for name in ("twonn_scaling", "minimal_radius", "stronger_attack", "network_slope", "sharpness_at_sizes"):
        sizes = (64, 256) if name == "twonn_scaling" else (64,)
        for seed in range(40):
            found = verdict(name, simulated(name, 10, 0.0, seed=seed + 1000, sizes=sizes, runs=1), permutations=199)
            hits += found.p <= 0.05 and (found.low > 0 or found.high < 0)
            n += 1
    assert hits / n <= 0.06


def test_a_sharper_set_says_nothing_about_tasks_on_the_same_images():
    """Between families the loss falls with K_F, within each it rises: the cluster is the set of images."""
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        base = rng.normal(0, 2)
        for task in range(3):
            log_k_f = base + 0.3 * task
            loss = math.exp(-2 * base + 0.3 * task + rng.normal(0, 0.02))
            row = {"dataset": f"set{i}_{task}", "family": f"set{i}", "model": "resnet18", "n_train": 64, "seed": 0}
            rows.append(row | {"fitted": True, "k_f": math.exp(log_k_f), "test_loss_nats": loss})
    found = verdict("same_images", pd.DataFrame(rows), permutations=499)
    assert found.verdict == "supported"
    assert found.effect == pytest.approx(1, abs=0.1)


def test_tasks_of_one_family_count_once():
    frame = simulated("brier_sharpness", 4, 1.0, tasks=3)
    assert (frame["dataset"].nunique(), verdict("brier_sharpness", frame).n_sets) == (12, 4)
    frame = simulated("sharpness_at_sizes", 4, 1.0, tasks=3)
    assert verdict("sharpness_at_sizes", frame).n_sets == 4


def test_synthetic_sets_and_runs_that_did_not_fit_do_not_decide():
    frame = simulated("network_slope", 10, -1.0)
    frame.loc[frame["dataset"] == "set0_0", "domain"] = "synthetic"
    frame.loc[frame["dataset"] == "set1_0", "fitted"] = False
    found = verdict("network_slope", frame)
    assert (found.n_sets, found.all_runs.n_sets) == (8, 9)


def test_a_network_at_the_trivial_bound_is_as_steep_as_the_labels():
    frame = simulated("network_slope", 10, 0.0)
    frame["slope_max"] = (1 - 2 * 0.01) * frame["slope_label_sharpness"]
    found = verdict("network_slope", frame)
    assert found.effect == pytest.approx(math.log(0.98 / 2))
    assert found.verdict == "supported"


# ---------------------------------------------------------------------------------------------- the family


def test_p_is_adjusted_over_the_tests_that_have_enough_sets_and_never_touches_the_claims():
    tables = {"runs": None, "layers": None, "settings": None, "classes": None}
    frame = simulated("sharpness_at_sizes", 12, 1.0)
    other = simulated("dimension_at_sizes", 12, 1.0, seed=2)
    few = simulated("sharpness_in_colour", 4, 1.0)
    tables["settings"] = frame.merge(other, on=["dataset", "family", "domain"]).merge(few, how="left")
    found = further.verdicts(tables, permutations=499)
    assert list(found) == NAMES
    with_p = [v for v in found.values() if v.p_holm is not None]
    assert len(with_p) == 2
    assert min(v.p_holm for v in with_p) == pytest.approx(2 * min(v.p for v in with_p))
    assert found["sharpness_in_colour"].n_sets == 4
    assert "decides no verdict of the four claims" in found["twonn_scaling"].test


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_with_the_command_that_makes_it(name):
    for frame in (None, pd.DataFrame(), pd.DataFrame({"dataset": ["a"], "fitted": [True]})):
        found = verdict(name, frame)
        assert (found.n_sets, found.verdict) == (0, NOT_MEASURED)
        assert "intrinsic run params/beyond.yaml" in found.notes[0]
    assert (images.REPOSITORY / further.PARAMETERS).exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"side": 0}, "side is 0"),
        ({"statistic": "median"}, "statistic is 'median'"),
        ({"margin": 2.0}, "margin is 2.0"),
        ({"alpha": 5}, "alpha is 5"),
        ({"side": -1, "claimed": 1.0}, "negative effect"),
        ({"frame": "pages"}, "frame is 'pages'"),
    ],
)
def test_a_test_that_cannot_be_computed_is_refused(tmp_path, change, sentence):
    body = {"one": vars(further_tests()["brier_sharpness"]) | change}
    (tmp_path / "further.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(WrongTests, match=sentence):
        further.read_further_tests(tmp_path / "further.yaml")
    with pytest.raises(WrongTests, match="no further test"):
        verdict("another", None)


def test_an_amendment_names_its_date_and_what_was_stored_by_then(tmp_path):
    entry = {"date": "2024-05-01", "change": "another margin", "runs": "three, of one set"}
    stated = vars(further_tests()["brier_sharpness"])
    path = tmp_path / "further.yaml"
    path.write_text(yaml.safe_dump({"one": stated | {"amended": [entry]}}))
    said = "2024-05-01: another margin (stored by then: three, of one set)"
    assert further.read_further_tests(path)["one"].stated()["amended"] == (said,)
    for wrong in ({"date": "2024-05-01"}, entry | {"runs": ""}, "amended"):
        path.write_text(yaml.safe_dump({"one": stated | {"amended": [wrong]}}))
        with pytest.raises(WrongTests, match="an amendment is date, change and runs"):
            further.read_further_tests(path)
    assert said in replace(verdict("brier_sharpness", None), amended=(said,))._repr_markdown_()


def test_tests_over_tables_count_image_sets_and_not_runs():
    table = simulated("several_classes", 9, 1)
    found = verdict("several_classes", table)
    assert found.counted == "image set"
    assert f"| Units | {len(table)} image sets |" in found._repr_markdown_()
    assert "runs)" not in found._repr_markdown_()
    for name, counted in (("several_classes", "image set"), ("brier_sharpness", "run")):
        nothing = verdict(name, None, fitted_only=False)
        assert (nothing.counted, nothing.fitted_only) == (counted, False)


def test_every_test_states_its_rule_before_the_data():
    table = further.stated(NAMES)
    assert len(table) == len(NAMES)
    assert not table.isna().any().any()
    assert all(isinstance(one, FurtherTest) for one in further_tests().values())
    assert campaign.read(images.REPOSITORY / further.PARAMETERS).layers == "blocks"


# ---------------------------------------------------------------------------------------------- tables


def test_several_classes_are_as_sharp_as_their_sharpest_pair_in_each_draw():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (80, 8, 8), dtype=np.uint8)
    data = images.ImageSet(pixels, np.arange(80) % 4, ("0", "1", "2", "5"), "four", "natural")
    row = further.several_classes(data, per_class=20, draws=1)
    assert row["k_f_several"] == pytest.approx(row["k_f_sharpest_pair"])
    assert row["k_f_pairs"] <= row["k_f_several"] <= row["k_f_ordered"] <= 5 * row["k_f_several"]
    assert further.several_classes(data, per_class=10, draws=3)["k_f_sharpest_pair"] <= row["k_f_several"]
    named = images.ImageSet(pixels, np.arange(80) % 4, ("a", "b", "c", "d"), "four", "natural")
    assert math.isnan(further.several_classes(named, per_class=20, draws=1)["k_f_ordered"])
    grown = further.number_of_classes(data, per_class=10, draws=5)
    assert list(grown["n_pairs"]) == [1, 3, 6]


def test_the_two_sizes_are_those_that_most_families_have():
    rows = [
        {
            "dataset": f"s{i}",
            "family": f"s{i}",
            "domain": "natural",
            "size": size,
            "channels": 1,
            "k_f": i + size,
            "d_data": i,
        }
        for i in range(4)
        for size in ((8, 32, 64) if i else (8, 64))
    ]
    table = further.setting_pairs(pd.DataFrame(rows))
    assert (table["size_small"].iloc[0], table["size_large"].iloc[0]) == (8, 64)
    assert list(table["k_f_small"]) == [8, 9, 10, 11]
    assert "k_f_colour" not in table or table["k_f_colour"].isna().all()


def test_derived_columns_and_layers_are_those_of_their_definitions():
    runs = further.derived(pd.DataFrame({"test_accuracy": [0.75], "radius_l2_median_correct": [0.5]}))
    assert runs.loc[0, ["test_error", "inverse_radius"]].tolist() == [0.25, 2.0]
    assert further.derived(pd.DataFrame({"radius_l2_median_correct": [0.0]}))["inverse_radius"].isna().all()
    run = {
        "dataset": "a",
        "family": "a",
        "domain": "natural",
        "model": "resnet18",
        "n_train": 64,
        "seed": 0,
        "fitted": True,
    }
    blocks = [("layer1", 1, 9.0), ("layer2", 2, 12.0), ("layer4", 4, 5.0)]
    layers = pd.DataFrame(
        [
            run | {"layer": name, "depth": at, "is_last": name == "layer4", "d_repr": d, "d_data_same_images": 10.0}
            for name, at, d in blocks
        ]
    )
    pair = further.layer_pairs(layers).iloc[0]
    assert (pair["d_repr_first"], pair["d_repr_last"], pair["d_repr_largest"], pair["largest_at"]) == (
        9,
        5,
        12,
        "layer2",
    )
    assert list(further.layer_profile(layers)["ratio"]) == [0.9, 1.2, 0.5]


# ------------------------------------------------------------------------------------ what could be seen


def test_the_spread_over_seeds_is_that_of_the_simulation():
    rng = np.random.default_rng(0)
    rows = [
        {"dataset": f"s{i}", "model": "m", "n_train": 64, "y": math.exp(i + 0.3 * rng.normal())}
        for i in range(200)
        for _ in range(3)
    ]
    found = further.seed_spread(pd.DataFrame(rows), "y")
    assert (found.df, found.n_cells) == (400, 200)
    assert found.low < 0.3 < found.high
    assert float(found) == pytest.approx(0.3, rel=0.1)
    with pytest.raises(NotEnough, match="second seed"):
        further.seed_spread(pd.DataFrame(rows[::3]), "y")


def test_the_error_of_an_exponent_is_that_of_least_squares():
    rng, sizes = np.random.default_rng(0), [62, 125, 250, 500]
    x = np.log(np.repeat(sizes, 2))
    slopes = [np.polyfit(x, 0.2 * rng.normal(size=len(x)), 1)[0] for _ in range(4000)]
    assert further.exponent_spread(0.2, sizes, seeds=2) == pytest.approx(np.std(slopes), rel=0.05)
    with pytest.raises(NotEnough, match="two sizes"):
        further.exponent_spread(0.2, [100])


def test_the_smallest_effect_has_the_power_that_was_asked():
    rows = further.detectable_exponents(0.3, [62, 125, 250, 500], 12, [0.0, 0.1], seeds=(1, 5))
    for row in rows.itertuples():
        sd = math.hypot(row.between, further.exponent_spread(0.3, [62, 125, 250, 500], row.seeds))
        assert power_mean(row.smallest, sd, 12, 0.05 / 4) == pytest.approx(0.8, abs=1e-6)
    gaps = further.detectable_gaps(0.3, 7, 5, [0.5], seeds=(2,)).iloc[0]
    assert power_difference(gaps["smallest"], math.hypot(0.5, 0.3 / math.sqrt(2)), 7, 5) == pytest.approx(0.8, abs=1e-6)
    assert rows["smallest"].is_monotonic_increasing is False
    with pytest.raises(NotEnough, match="no effect"):
        further.smallest_effect(lambda effect: 0.1)


def test_an_effect_is_seen_up_to_the_spread_at_which_its_size_is_reached():
    rows = pd.DataFrame({"between": [0.0, 0.1, 0.2], "smallest": [0.05, 0.1, 0.3]})
    assert further.seen("one", 0.1, rows, "smallest")["up_to"] == 0.1
    assert further.seen("one", 0.2, rows, "smallest")["up_to"] == pytest.approx(0.15)
    assert further.seen("one", 0.2, rows, "smallest")["verdict"] == "found where sets differ by up to 0.15"
    assert further.seen("one", 0.5, rows, "smallest")["up_to"] == 0.2  # and perhaps beyond
    assert further.seen("one", 0.01, rows, "smallest")["verdict"] == "cannot be found"


def test_what_is_seen_so_far_follows_from_the_spread_of_the_verdicts_own_sets():
    found = statistics.claims(simulated_campaign(9, seed=1))
    excess = found["data_dimension"].sets["excess"]
    levels = found["sharpness_generalization"].sets
    rows = further.seen_so_far(found, 0.1, 2.0).set_index("effect")
    row = rows.loc["exponent of the law"]
    assert row["spread"] == pytest.approx(np.std(excess, ddof=1))
    power = statistics.power_mean(row["smallest"], row["spread"], len(excess), 0.0125)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert (row["verdict"] == "would be found") == (row["smallest"] <= 0.1)
    row = rows.loc["a loss 2 times as high"]
    parts = [part["level"].to_numpy() for _, part in levels.groupby("domain")]
    pooled = sum(((part - part.mean()) ** 2).sum() for part in parts) / (len(levels) - 2)
    assert row["spread"] == pytest.approx(pooled**0.5)
    power = statistics.power_difference(np.log(row["smallest"]), row["spread"], *map(len, parts))
    assert power == pytest.approx(0.8, abs=1e-6)
    few = {name: replace(v, sets=None) for name, v in found.items()}
    assert further.seen_so_far(few, 0.1, 2.0).empty


def test_sets_of_one_size_have_no_exponent_and_are_not_counted():
    found = verdict("twonn_scaling", simulated("twonn_scaling", 9, 1.0, sizes=(64,)).assign(least_bound=0.5))
    assert (found.n_sets, found.verdict) == (0, NOT_MEASURED)


def test_the_published_verdicts_are_those_of_the_published_records():
    names = ["sharpness_at_sizes", "twonn_scaling"]
    found = further.published_summary(names)
    own = further.verdicts(further.frames(further.pilot().params))
    assert list(found["verdict"]) == [own[name].verdict for name in names]
    assert list(found["claim"]) == [further_tests()[name].claim for name in names]


def test_the_pilot_is_read_from_the_published_records():
    found = further.pilot()
    assert found.n_medical + found.n_natural == found.properties["family"].nunique()
    assert found.sizes == sorted(set(found.sizes))
    assert further.seed_spread(found.runs).value > 0


def test_stored_properties_hold_every_size_that_is_published():
    p = campaign.read(images.REPOSITORY / "params" / "published.yaml")
    stored = campaign.stored_properties(p)
    assert not stored.duplicated(["dataset", "size", "channels"]).any()
    assert {32, 64} <= set(stored["size"])
    assert set(campaign.properties_frame(p)["dataset"]) <= set(stored["dataset"])
    pairs = further.setting_pairs(further.settings(p, measure=False))
    assert {"k_f_small", "k_f_large", "k_f_grey", "k_f_colour"} <= set(pairs.columns)
    assert (pairs["k_f_grey"] / pairs["k_f_colour"]).dropna().between(1.5, 3).all()  # replication alone: sqrt(3)
