"""Addresses: one spelling each, and a place that the model does not have is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factfinding.data.prompts import ROLES
from factfinding.engine.sites import LAYER_KINDS, Site, check, parse
from factfinding.errors import InputError
from helpers.models import random_anatomy

roles = st.sampled_from([None, *ROLES])
numbers = st.integers(0, 10**9)
sites = st.one_of(
    st.builds(Site, st.sampled_from(LAYER_KINDS), numbers, st.none(), roles),
    st.builds(Site, st.sampled_from(["z", "post", "pattern"]), numbers, numbers, roles),
)


@given(sites)
def test_printing_and_parsing_are_inverse(site):
    assert parse(str(site)) == site


@given(
    st.text(max_size=20)
    | st.from_regex(r"(L\d{1,3}[HNX]\d{1,3}|resid_\w{3,4}:\d{1,3}|pattern:\w{1,5})(@\w{0,10})?")
)
def test_any_text_is_an_address_with_one_spelling_or_refused(text):
    try:
        site = parse(text)
    except InputError as error:
        assert repr(text) in str(error)
    else:
        assert str(site) == text


@pytest.mark.parametrize(
    "text",
    ["L1", "L01H2", "l1h2", "L1H", "resid:3", "mlp_out", "mlp_out:-1", "L1N2@", "L1H2@name", "", "@end"],
)
def test_near_misses_are_refused(text):
    with pytest.raises(InputError, match="allowed"):
        parse(text)


def test_a_model_says_what_it_has():
    anatomy = random_anatomy("gpt_neox", layers=3, heads=4, width=32)
    check(parse("L2H3"), anatomy)
    with pytest.raises(InputError, match=r"L33H2: found layer 33; allowed: this model has layers 0-2"):
        check(parse("L33H2"), anatomy)
    with pytest.raises(InputError, match=r"L0H4: found head 4; allowed: this model has heads 0-3"):
        check(parse("L0H4"), anatomy)
    with pytest.raises(
        InputError, match=r"L0N128@end: found neuron 128; allowed: this model has neurons 0-127"
    ):
        check(parse("L0N128@end"), anatomy)
