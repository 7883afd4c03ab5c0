"""Which size of machine a group gets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.errors import SpecError
from kivactl.spec.infrastructure import NodeGroup
from kivactl.stack.infrastructure.flavours import flavour_for, known, nearest


def group(**values):
    return NodeGroup.model_validate({"name": "gpu", "role": "engine", **values})


@pytest.mark.parametrize(
    ("provider", "values", "flavour"),
    [
        ("aws", {}, "m7i.4xlarge"),
        ("aws", {"role": "gateway"}, "c7i.xlarge"),
        ("aws", {"gpu": {"type": "L40S"}}, "g6e.4xlarge"),
        ("aws", {"gpu": {"type": "h100", "count": 8}}, "p5.48xlarge"),
        ("azure", {"gpu": {"type": "A100-80GB", "count": 2}}, "Standard_NC48ads_A100_v4"),
        ("aws", {"flavour": "x99z.12xlarge"}, "x99z.12xlarge"),  # a family that kivactl does not know is the cloud's to judge
        ("openstack", {"flavour": "gpu.l40s.1"}, "gpu.l40s.1"),
    ],
)
def test_a_flavour_is_found(provider, values, flavour):
    assert flavour_for(provider, group(**values)) == flavour


@pytest.mark.parametrize(
    ("provider", "values", "fault", "hint"),
    [
        ("aws", {"flavour": "g6e.4xlrge"}, "aws has no flavour 'g6e.4xlrge' (group 'gpu')", "g6e.4xlarge"),
        ("aws", {"flavour": "p5.24xlarge"}, "aws has no flavour 'p5.24xlarge'", "p5.4xlarge"),
        ("azure", {"flavour": "NC24ads_A100_v4"}, "azure has no flavour", "Standard_NC24ads_A100_v4"),
        ("aws", {"flavour": "!"}, "aws has no flavour", "FAMILY.SIZE"),
        ("aws", {"gpu": {"type": "L40S", "count": 3}}, "with 1 or 4 or 8 GPUs, not 3", "gpu.count"),
        ("aws", {"gpu": {"type": "H999"}}, "no flavour of aws with a GPU 'H999'", "flavour"),
        ("stackit", {}, "needs `flavour`", "flavours"),
    ],
)
def test_what_there_is_not(provider, values, fault, hint):
    with pytest.raises(SpecError, match=re.escape(fault)) as caught:
        flavour_for(provider, group(**values))
    assert hint in caught.value.hint


@pytest.mark.parametrize("provider", ["aws", "azure"])
def test_all_that_is_known_is_accepted(provider):
    for flavour in known(provider):
        assert flavour_for(provider, group(flavour=flavour)) == flavour


@given(st.text(max_size=30))
def test_the_nearest_are_known(text):
    assert set(nearest("aws", text)) <= set(known("aws"))
