import json

import numpy as np
import pytest
import yaml

from intrinsic import images
from intrinsic.inference import fragility
from intrinsic.inference.effects import NotEnough

PLAN = yaml.safe_load((images.REPOSITORY / "params" / "confirmation.yaml").read_text(encoding="utf-8"))["plan"]


# dimension over neighbors of other patients and contrast of published sets, measured at 64 x 64 grey, M = 250
def test_coefficients_that_were_built_in_are_found(runs):
    table = fragility.families(runs(40, noise=0.2))
    fit = fragility.fit(table)
    for name in ("log_k_f", "log_d"):
        assert fit[name].low <= 2 <= fit[name].high
    assert len(table) == 40
    assert table["n_sets"].tolist()[:2] == [2, 1]
    assert table.attrs["left_out"] == {}


def test_primary_tests_support_a_true_relation_and_refute_an_absent_one(runs):
    table = fragility.families(runs(24, noise=0.2).assign(contrast=1.0))
    table["log_contrast"] = np.random.default_rng(1).normal(size=24)
    table["log_clean_loss"] += np.random.default_rng(2).normal(size=24)
    found = fragility.primary(table, PLAN)
    assert list(found) == [one["name"] for one in PLAN["primary"]]
    assert found["sharpness"].effect.n == 24
    assert found["sharpness"].verdict == found["dimension"].verdict == found["beyond_scale"].verdict == "supported"
    table = fragility.families(runs(24, seed=3, noise=0.3, b=0.0))
    table["log_contrast"] = np.random.default_rng(1).normal(size=24)
    assert fragility.primary(table, PLAN)["sharpness"].verdict == "refuted"


def test_without_a_relation_the_primary_test_is_rarely_supported(runs):
    supported = 0
    for seed in range(25):
        table = fragility.families(runs(12, seed=seed, b=0.0, noise=0.5))
        supported += fragility.fit(table)["log_k_f"].p <= 0.05
    assert supported <= 6  # of 1 expected


def test_a_set_whose_network_did_not_fit_is_left_out_by_name_or_levelled(runs):
    frame = runs(10, noise=0.1)
    frame.loc[(frame["dataset"] == "set1.0") & (frame["model"] == "vgg13"), "fitted"] = False
    frame.loc[(frame["dataset"] == "set2.0") & (frame["model"] == "resnet50"), "loss_penalty_nats_eps2"] = 0.0
    frame = frame[(frame["dataset"] != "set3.0") | (frame["model"] != "resnet18")]
    table = fragility.families(frame)
    assert set(table.attrs["left_out"]) == {"set1.0", "set2.0", "set3.0"}
    assert len(table) == 7
    assert "vgg13" in table.attrs["left_out"]["set1.0"]
    every, whole = fragility.families(frame, complete=False), fragility.families(runs(10, noise=0.1))
    assert every["log_penalty"].to_numpy() == pytest.approx(whole["log_penalty"].to_numpy())
    with pytest.raises(NotEnough):
        fragility.families(frame, networks=("vgg19",))


def test_the_old_fit_predicts_new_families_of_the_same_relation_and_no_others(runs):
    old = fragility.families(runs(12, seed=1, noise=0.2))
    same = fragility.predicted(old, fragility.families(runs(24, seed=2, noise=0.2)))
    other = fragility.predicted(old, fragility.families(runs(24, seed=2, noise=0.2, b=-2.0)))
    assert same.attrs["r2"] > 0.7
    assert same.attrs["coverage"] > 0.8
    assert other.attrs["r2"] < 0
    assert other.attrs["coverage"] < 0.8


def test_each_family_is_predicted_without_its_own_value(runs):
    table = fragility.families(runs(30, noise=0.3))
    found = fragility.held_out(table)
    assert found["family"].tolist() == table["family"].tolist()
    assert found.attrs["coverage"] > 0.85
    design = np.column_stack([np.ones(29), table.loc[1:, ["log_k_f", "log_d"]]])
    a, b, c = np.linalg.lstsq(design, table.loc[1:, "log_penalty"], rcond=None)[0]
    expected = a + b * table.loc[0, "log_k_f"] + c * table.loc[0, "log_d"]
    assert found.loc[0, "value"] == pytest.approx(expected)


def test_secondary_analyses_are_those_that_the_columns_allow(runs):
    frame = runs(14, noise=0.2)
    frame["contrast"] = frame["dataset"].map({name: 5 + i for i, name in enumerate(sorted(set(frame["dataset"])))})
    table = fragility.secondary(frame, old=fragility.families(runs(12, seed=5)))
    analyses = table.groupby("analysis")["term"].apply(set)
    assert analyses["with contrast"] == {"log_k_f", "log_d", "log_contrast"}
    assert "medical" in analyses["domain, all families"]
    assert "resnet50 alone" in analyses
    assert table.loc[table["analysis"] == "PGD", "value"].isna().all()  # no such column
    first = table[table["analysis"] == "as in the primary tests"].set_index("term")["value"]
    assert first["log_k_f"] == pytest.approx(float(fragility.fit(fragility.families(frame))["log_k_f"]))


def test_the_old_fit_comes_out_of_the_published_records():
    """Read the records themselves: families, levels and the dimension over other groups as the plan defines them."""
    import pandas as pd

    records = [json.loads(line) for line in (images.REPOSITORY / "book/records/published.jsonl").open(encoding="utf-8")]
    sets = {r["params"]["dataset"]: r["metrics"] for r in records
            if r["kind"] == "properties" and (r["params"]["size"], r["params"]["channels"]) == (64, 1)}  # fmt: skip
    attacks = {r["params"]["parent"]: r["metrics"] for r in records if r["kind"] == "attack"}
    family = {"photos": "cifar10", "garments": "fashion_mnist"}
    rows = []
    for r in records:
        p = r["params"]
        if r["kind"] == "training" and p["n_train"] == 500 and p["size"] == 64 and r["id"] in attacks:
            name = p["dataset"]
            row = {"dataset": name, "model": p["model"], "n_train": 500, "seed": p["seed"], **r["metrics"]}
            row |= {
                "family": family.get(name.split("_")[0], name),
                "k_f": sets[name]["k_f"],
                "fitted": bool(row["fitted"]),
            }
            row |= {"d_data": sets[name]["d_mle"]}
            rows.append(row | {"loss_penalty_nats_eps2": attacks[r["id"]]["loss_penalty_nats_eps2"]})
    table = fragility.families(pd.DataFrame(rows))
    fit, stated = fragility.fit(table), PLAN["old_fit"]
    assert len(table) == stated["families"]
    found = [*(float(c) for c in fit.coefficients.values()), fit.deviation, fit.r2]
    assert found == pytest.approx([stated[k] for k in ("a", "b", "c", "residual_deviation", "r_squared")], abs=2e-3)
    assert fragility.fit(table, ("log_k_f",)).r2 == pytest.approx(stated["r_squared_of_k_f_alone"], abs=1e-3)
