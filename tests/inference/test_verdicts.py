import math

import numpy as np
import pandas as pd
import pytest
import yaml

from intrinsic import images
from intrinsic.inference.effects import NotEnough, mean_effect
from intrinsic.inference.families import by_family, levels, usable
from intrinsic.inference.verdicts import Verdict, adjusted, claims, exponents, judge, now, ratios, table
from intrinsic.properties.interval import Interval

RULES = yaml.safe_load((images.REPOSITORY / "params" / "claims.yaml").read_text(encoding="utf-8"))


def verdict(value, low, high, p, deciding=12, **fields):
    return Verdict("claim", "quantity", Interval(value, low, high, n=12, p=p), deciding=deciding, **fields).verdict


@pytest.mark.parametrize(
    ("numbers", "fields", "said"),
    [
        ((1, 0.5, 1.5, 0.01), {"deciding": 7}, "cannot be tested"),
        ((1, 0.5, 1.5, 0.01), {}, "supported"),
        ((1, 0.5, 1.5, 0.06), {}, "undecided"),
        ((1, 0.5, 1.5, 0.01), {"p_holm": 0.06}, "undecided"),
        ((-1, -1.5, -0.5, 0.01), {}, "refuted"),
        ((-1, -1.5, -0.5, 0.01), {"side": -1}, "supported"),
        ((0.1, -0.2, 0.4, 0.6), {"claimed": 0.7}, "refuted"),
        ((0.4, -0.2, 0.8, 0.6), {"claimed": 0.7}, "undecided"),
        ((0.1, -0.2, 0.4, 0.6), {}, "undecided"),
        ((0.3, 0.1, 0.5, 0.2), {"claimed": 0.7}, "undecided"),
        ((math.nan, math.nan, math.nan, math.nan), {}, "undecided"),
    ],
)
def test_the_verdict_follows_from_interval_p_and_claimed_size(numbers, fields, said):
    assert verdict(*numbers, **fields) == said


def test_no_effect_is_rarely_supported_or_refuted_and_a_true_one_never_refuted():
    def said(shift, seed):
        effect = mean_effect(shift + np.random.default_rng(seed).normal(size=12), permutations=499)
        return Verdict("", "", effect, deciding=12).verdict

    none = [said(0, i) for i in range(200)]
    assert sum(one != "undecided" for one in none) <= 20  # of 10 expected
    assert "refuted" not in [said(1.0, i) for i in range(200)]


def test_amendments_replace_what_was_stated_and_leave_the_statement_alone():
    rule = {"test": "old", "n": 1, "amended": [{"date": 0, "change": "x", "runs": 1, "test": "new"}]}
    assert now(rule) == {"test": "new", "n": 1}
    assert rule["test"] == "old"
    stated = {name: now(rule) for name, rule in RULES.items()}
    assert {rule["statistic"] for rule in stated.values()} == {"excess", "slope", "correlation", "ratio"}
    assert stated["sharpness_robustness"]["n_train"] == 500
    assert "n_train" not in RULES["sharpness_robustness"]


def test_what_cannot_enter_is_left_out_and_named(runs):
    frame = runs(families=3)
    frame.loc[0, "fitted"], frame.loc[1, "k_f"] = False, -1
    frame.loc[frame["dataset"] == "set2.0", "k_f"] = np.nan
    frame.loc[frame["dataset"] == "set1.0", "domain"] = "synthetic"
    kept, notes = usable(frame, ["k_f"])
    assert set(kept["dataset"]) == {"set0.0", "set0.1"}
    assert len(kept) == 22
    assert sum("1 run left out" in note for note in notes) == 2
    assert any("set2.0" in note for note in notes)
    with pytest.raises(NotEnough, match="absent"):
        usable(frame, ["absent"])


def test_levels_are_means_over_networks_and_survive_a_network_that_lacks(runs):
    frame = runs().query("n_train == 500 and seed == 0")
    table = levels(frame, "test_loss_nats").set_index("dataset")["level"]
    means = frame.assign(y=np.log(frame["test_loss_nats"])).groupby("dataset")["y"].mean()
    assert table.to_dict() == pytest.approx(means.to_dict())
    less = levels(frame.drop(frame.index[4]), "test_loss_nats").set_index("dataset")["level"]
    assert less.to_dict() == pytest.approx(means.to_dict())  # networks differ by a constant
    with pytest.raises(NotEnough):
        levels(frame[(frame["model"] == "vgg13") == (frame["dataset"] < "set3")], "test_loss_nats")


def test_families_count_once():
    sets = pd.DataFrame({"dataset": ["a", "b", "c"], "family": ["f", "f", None], "level": [1.0, 3, 5]})
    found = by_family(sets).set_index("family")
    assert found["level"].to_dict() == {"f": 2, "c": 5}
    assert found["n_sets"].to_dict() == {"f": 2, "c": 1}


def test_the_four_claims_find_the_effects_that_were_built_in(runs):
    found = claims(runs(24, noise=0.1), RULES)
    assert {name: v.verdict for name, v in found.items()} == {
        "data_dimension": "supported", "sharpness_generalization": "supported",
        "sharpness_robustness": "supported", "representation_bound": "refuted",
    }  # fmt: skip
    assert found["data_dimension"].effect == pytest.approx(0.1)
    assert found["data_dimension"].deciding == 24
    assert found["sharpness_generalization"].effect == pytest.approx(1, abs=0.2)
    assert all(v.effect.n == 24 and v.p_holm >= v.effect.p for v in found.values())
    assert len(table(found)) == 4
    assert all("24 families" in v.line for v in found.values())


def test_levels_of_the_named_networks_alone_enter_and_of_all_where_a_campaign_has_none_of_them(runs):
    frame = runs(12, noise=0.0)
    odd = frame[frame["model"] == "vgg13"].assign(model="vgg19", test_loss_nats=1.0)  # another network, another slope
    more = pd.concat([frame, odd])
    assert judge(more, RULES["sharpness_generalization"]).effect == pytest.approx(1.0)
    assert judge(odd, RULES["sharpness_generalization"]).effect == pytest.approx(0.0, abs=1e-12)


def test_a_bound_that_says_nothing_cannot_be_tested(runs):
    found = claims(runs(least_bound=2.5, excess=-0.5), RULES)["data_dimension"]
    assert found.verdict == "cannot be tested"
    assert found.effect < -0.4
    assert any("on 15 of 15 sets" in n for n in found.notes)
    few = runs()
    few.loc[few["dataset"] > "set5", "least_bound"] = 2.0
    assert judge(few, RULES["data_dimension"]).verdict == "cannot be tested"


def test_claim_4_is_decided_by_the_network_in_which_it_holds_least(runs):
    frame = runs(ratio=-0.5, noise=0.05)
    found = judge(frame, RULES["representation_bound"])
    assert found.effect == pytest.approx(0.25, abs=0.05)
    assert found.verdict == "refuted"
    lower = frame.assign(d_repr=frame["d_repr"] * 0.5)
    assert judge(lower, RULES["representation_bound"]).verdict == "supported"
    table = ratios(frame).set_index(["model", "map"])
    assert table.loc[("vgg13", "trained"), "value"] == pytest.approx(-0.75, abs=0.05)


def test_exponents_are_those_built_in_and_need_two_sizes(runs):
    frame = runs()
    table = exponents(frame)
    assert (table["exponent"] - table["predicted"]).to_numpy() == pytest.approx(0.1)
    with pytest.raises(NotEnough):
        exponents(frame[frame["n_train"] == 500])


def test_an_empty_frame_cannot_be_tested(runs):
    assert judge(runs().iloc[:0], RULES["sharpness_robustness"]).verdict == "cannot be tested"


def test_a_claim_that_cannot_be_tested_counts_in_holm():
    def one(deciding, p):
        return Verdict("", "", Interval(1, 0.5, 1.5, n=12, p=p), deciding=deciding)

    found = adjusted({"a": one(0, 0.001), "b": one(12, 0.01)})
    assert math.isnan(found["a"].p_holm)
    assert found["b"].p_holm == pytest.approx(0.02)
    assert "<details>" in found["b"]._repr_html_()
