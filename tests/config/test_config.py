"""The configuration: config.yaml spells out every default, and every mistake is named with its key."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factfinding.config import Config, validate
from factfinding.config_yaml import config_yaml
from factfinding.errors import InputError
from helpers import ROOT


def test_config_yaml_spells_out_every_key_with_its_default():
    """One place knows a default (config.py); the file that users read must say the same, key by key."""
    text = (ROOT / "config.yaml").read_text()
    assert text == config_yaml(), "run `make config`"
    assert yaml.safe_load(text) == Config().model_dump(mode="json")


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_study_is_valid_on_top_of_the_default(path):
    from snakemake.utils import update_config

    values, overlay = yaml.safe_load((ROOT / "config.yaml").read_text()), yaml.safe_load(path.read_text())
    update_config(values, overlay)
    expected = (
        values["study"] if overlay.get("studies") else path.stem
    )  # a list of studies names each of them
    assert validate(values, Config).study == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probs": {}}, r"config\.probs: found an unknown key"),
        ({"recall": {"seed": 16**5000}}, r"config\.recall\.seed: found a number of thousands of digits; allowed: whole numbers of less than 64 bits"),
        ({"recall": {"seed": -(2**63) - 1}}, r"config\.recall\.seed: found -9223372036854775809; allowed: whole numbers of less than 64 bits"),
        ({"neurons": {"facts": "a\nb"}}, r"config\.neurons\.facts: found 'a\\nb'; allowed: .*pattern"),
        ({"probes": {"n_fold": 5}}, r"config\.probes\.n_fold: found an unknown key"),
        ({"probes": {"n_folds": "5"}}, r"config\.probes\.n_folds: found '5'; allowed: input should be a valid integer"),
        ({"probes": {"n_folds": 1}}, r"config\.probes\.n_folds: found 1; allowed: .*greater than or equal to 2"),
        ({"probes": {"regularisation": "1e-3"}}, r"config\.probes\.regularisation: found '1e-3'; allowed: .*valid number"),
        ({"probes": {"conditions": ["full", "bare"]}}, r"probes\.conditions\.1: found 'bare'; allowed: input should be 'full', 'name_only' or 'zero_shot'"),
        ({"probes": {"conditions": ["zero_shot"]}}, r"probes\.conditions \['zero_shot'\] are not among activations\.conditions"),
        ({"study": "../elsewhere"}, r"config\.study: found '../elsewhere'"),
        ({"study": "a/b"}, r"config\.study: found 'a/b'"),
        ({"study": 3}, r"config\.study: found 3; allowed: input should be a valid string"),
        ({"model": {"source": "web"}}, r"config\.model\.source: found 'web'; allowed: input should be 'organism', 'hub', 'folder', 'gguf' or 'tiny'"),
        ({"model": {"source": "hub", "id": "a/b"}, "subjects": {"table": "x.csv"}}, r"config\.model: found an impossible combination; allowed: source 'hub' needs `id` and `revision`"),
        ({"model": {"source": "folder"}, "subjects": {"table": "x.csv"}}, r"source 'folder' needs `folder`"),
        ({"model": {"source": "gguf"}, "subjects": {"table": "x.csv"}}, r"source 'gguf' needs `file`"),
        ({"model": {"bos": "none"}}, r"model\.bos must be 'auto' for the embedded model"),
        ({"model": {"bos": "<|x|>"}}, r"model\.bos must be 'auto' for the embedded model"),
        ({"model": {"allow_pickle": "yes"}}, r"config\.model\.allow_pickle: found 'yes'; allowed: input should be a valid boolean"),
        ({"model": {"source": "tiny"}}, r"subjects\.table may be null only for the embedded model"),
        ({"subjects": {"table": "mine.csv"}}, r"organism\.world is 'fictional' and knows only its own people"),
        ({"compute": {"dtype": "float8"}}, r"config\.compute\.dtype: found 'float8'"),
        ({"compute": {"device": "gpu"}}, r"config\.compute\.device: found 'gpu'"),
        ({"compute": None}, r"config\.compute: found None"),
        ({"subjects": {"two_answers": "both"}}, r"config\.subjects\.two_answers: found 'both'; allowed: input should be 'drop' or 'first'"),
        ({"activations": {"datasets": [{"site": "resid_post"}]}}, r"config\.activations\.datasets\.0\.site: found 'resid_post'"),
        ({"activations": {"conditions": []}}, r"config\.activations\.conditions: found \[\]"),
        ({"circuit": {"extract": ["L5N3"]}}, r"config\.circuit\.extract\.0: found 'L5N3'; allowed: .*pattern"),
        ({"heads": {"conditions": ["zero_shot"]}}, r"heads\.conditions \['zero_shot'\] are not among activations\.conditions"),
        ({"heads": {"top": 9}}, r"config\.heads\.top: found 9; allowed: .*less than or equal to 8"),
        ({"circuit": {"lookup": [2]}}, r"config\.circuit\.lookup\.1: "),
        ({"organism": {"width": 50}}, r"config\.organism: found an impossible combination"),
        ({"organism": {"seed": -1}, "recall": {"seed": 0.5}}, r"2 problems\n.*organism\.seed: found -1(.|\n)*recall\.seed: found 0\.5"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_key_value_and_what_is_allowed(change, message):
    with pytest.raises(InputError, match=message):
        validate(change, Config)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
sections = st.sampled_from([*Config.model_fields, "other"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(sections, yaml_values, max_size=3))
def test_any_configuration_is_valid_or_refused_by_name(values):
    try:
        validate(values, Config)
    except InputError as error:
        assert str(error).startswith("config")
