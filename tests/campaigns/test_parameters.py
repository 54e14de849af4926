"""Parameter files and the parameters of a page: what is known is taken, what is not is refused with a suggestion."""

from pathlib import Path

import pandas as pd
import pytest

from intrinsic.campaigns import parameters
from intrinsic.campaigns.parameters import CampaignError, Params, read

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "some.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", parameters.files(), ids=lambda path: path.stem)
def test_every_parameter_file_of_the_book_is_valid(path):
    assert read(path).name == path.stem


def test_the_defaults_are_those_of_the_quick_campaign():
    quick, own = read("params/quick.yaml").model_dump(), {"datasets", "runs"}
    assert Params().model_dump(exclude=own) == {key: value for key, value in quick.items() if key not in own}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("grey_levle: 2", "'grey_level'"),
        ("augment: flip", "'augment'"),
        ("runs: [{models: [resnet18], n_trian: [64]}]", "'n_train'"),
        ("runs: [{models: [resnet18]}]", "n_train"),
        ("runs: [{models: [resnet19], n_train: [64]}]", "runs.0.models"),
        ("runs: [{models: [resnet18], n_train: [64], seeds: [0, -1]}]", "runs.0.seeds.1"),
        ("runs: [{models: [resnet18], n_train: [20]}]", "n_train = 20"),
        ("runs: [{models: [vgg13], n_train: [64]}]\nsize: 16", "vgg13"),
        ("per_class: 10", "k = 20"),
        ("protocol: paper\nwarmup_steps: 5", "warmup_steps"),
        ("grey_level: 3", "grey_level 3"),
        ("grey_levels: [256]", "grey_levels"),
        ("datasets: []", "datasets"),
        ("k: 5\nk: 6", "'k'"),
        ("k: [", "YAML"),
        ("1: 2", "1"),
        ("- k", "key: value"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_name(written, text, named):
    with pytest.raises(CampaignError) as found:
        read(written(text))
    assert named in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_not_there_names_those_that_are():
    with pytest.raises(CampaignError, match=r"params/published\.yaml"):
        read("params/nothing.yaml")


def test_image_sets_of_a_page_take_the_blocks_that_all_sets_share():
    p = read("params/quick.yaml", {"datasets": ["torus_waves", "torus_waves"]})
    assert p.datasets == ["torus_waves"]
    assert [(block.models, block.datasets) for block in p.runs] == [(["resnet18"], None)]
    held = read("params/controlled.yaml", {"datasets": ["digits"]})  # every block of it has sets of its own
    assert len(held.runs) == len(read("params/controlled.yaml").runs)
    assert read("params/quick.yaml", {"datasets": []}) == read("params/quick.yaml")


def test_a_page_gives_the_keys_that_the_schema_knows():
    namespace = {"campaign": "params/quick.yaml", "grey_level": 4, "turns": 3, "runs": pd.DataFrame(), "k": print}
    p, file, changed = parameters.of_page(namespace)
    assert (p.grey_level, file, changed) == (4, "params/quick.yaml", {"grey_level": 4})
    assert parameters.of_page({})[1:] == (parameters.PUBLISHED, {})


def test_what_papermill_injects_is_known_to_the_page_or_the_schema():
    cells = ["", "grey_level = 2\nturns = 3  # of the page's own", "# Parameters\nturns = 4\ngrey_level = 8\n"]
    assert parameters.of_page({"In": cells, "grey_level": 8, "turns": 4})[2] == {"grey_level": 8}
    with pytest.raises(CampaignError, match="grey_level"):
        parameters.of_page({"In": [*cells[:2], "# Parameters\ngrey_levle = 8\n"], "grey_levle": 8})


@pytest.mark.parametrize("given", ["n_train = 'many'", "n_train = 2.5", "datasets = 3", "networks = 'vgg13'"])
def test_a_value_of_another_type_than_the_page_has_is_refused(given):
    cells = ["", "n_train = 500\ndatasets = []\nnoise = 0.1\nnetworks = ['resnet18']", f"# Parameters\n{given}\n"]
    with pytest.raises(CampaignError, match=given.split()[0]):
        parameters.check({"In": cells})
    parameters.check({"In": [*cells[:2], "# Parameters\nn_train = 3\ndatasets = 'digits'\nnoise = 1\n"]})


def test_image_sets_may_come_as_the_text_that_papermill_takes():
    for text, names in (('["a", "b c"]', ["a", "b c"]), ("a", ["a"]), ("[a]", ["a"])):
        assert parameters.of_page({"datasets": text})[0].datasets == names
    with pytest.raises(CampaignError, match="datasets"):
        parameters.of_page({"datasets": '["a"'})


def test_image_sets_that_the_published_campaign_lacks_take_small_runs():
    known = read(parameters.PUBLISHED).datasets[:1]
    assert parameters.of_page({"datasets": known})[1] == parameters.PUBLISHED
    assert parameters.of_page({"datasets": [*known, "scans"]})[1] == parameters.OWN
    assert parameters.of_page({"datasets": ["scans"], "campaign": "params/quick.yaml"})[1] == "params/quick.yaml"


def test_dataset_is_refused_where_a_page_has_image_sets():
    injected = '# Parameters\ndataset = "digits"\n'
    with pytest.raises(CampaignError, match="did you mean 'datasets'"):
        parameters.of_page({"In": ["", "datasets = []", injected], "dataset": "digits", "datasets": []})
    assert parameters.of_page({"In": ["", 'dataset = "knee"', injected], "dataset": "digits"})[0].dataset == "digits"


def test_a_whole_file_that_papermill_injects_is_that_campaign():
    published = read("params/published.yaml")
    quick = read("params/quick.yaml")
    assert read("params/published.yaml", quick.model_dump(mode="json")) == quick != published
