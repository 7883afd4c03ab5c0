"""GPUs, the drivers that know them and the slices they are cut into."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.spec.infrastructure import Infrastructure
from kivactl.stack.infrastructure.gpus import BRANCHES, GPUS, driver_fault, gpu_fault, gpu_faults, gpu_of, mig_fault, slices_for

names = st.sampled_from(sorted(GPUS))


@pytest.mark.parametrize(
    ("written", "name"),
    [("H200", "H200"), ("NVIDIA H200", "H200"), ("a100 80gb", "A100-80GB"), ("A100", "A100-40GB"), ("H100", "H100-80GB"), ("RTX PRO 6000", "RTX-PRO-6000")],
)
def test_a_gpu_has_several_spellings(written, name):
    gpu = gpu_of(written)
    assert gpu is not None
    assert gpu.name == name
    assert gpu_fault(written) is None


@pytest.mark.parametrize(("typo", "near"), [("H20", "H200"), ("L4OS", "L40S"), ("A100-8GB", "A100-80GB"), ("zzz", "it knows: V100, T4")])
def test_an_unknown_gpu_gets_the_nearest_names(typo, near):
    fault = gpu_fault(typo)
    assert fault is not None
    assert f"'{typo}' is no GPU" in fault
    assert near in fault


@pytest.mark.parametrize(
    ("name", "branch", "words"),
    [
        ("B200", "550", "driver branch 550 does not fit the B200 (Blackwell); these do: 570, 575, 580, 590, 595, 610, 620 and later"),
        ("V100", "590", "driver branch 590 does not fit the V100 (Volta); these do: 450, 470, 525, 535, 550, 570, 575, 580"),
        ("L40S", "525", "does not fit the L40S (Ada Lovelace); these do: 535, 550"),
        ("H200", "580", None),
        ("V100", "580", None),
        ("T4", "700", None),
    ],
)
def test_a_driver_fits_or_the_fitting_ones_are_named(name, branch, words):
    fault = driver_fault(GPUS[name], branch)
    assert (fault is None) == (words is None)
    assert words is None or words in str(fault)


@pytest.mark.parametrize(
    ("name", "layout", "slices"),
    [
        ("A100-80GB", "all-3g.40gb", ("3g.40gb",) * 2),
        ("A30", "all-1g.6gb", ("1g.6gb",) * 4),
        ("H200", "7g.141gb", ("7g.141gb",)),
        ("B200", "all-1g.23gb", ("1g.23gb",) * 7),
        ("H100-NVL", "all-2g.24gb", ("2g.24gb",) * 3),
        ("RTX-PRO-6000", "all-2g.48gb", ("2g.48gb",) * 2),
    ],
)
def test_a_gpu_is_cut_into_as_many_slices_as_fit(name, layout, slices):
    assert slices_for(GPUS[name], layout) == slices
    assert mig_fault(GPUS[name], layout) is None


@pytest.mark.parametrize(
    ("name", "layout", "words"),
    [
        ("A100-40GB", "all-3g.40gb", "the A100-40GB has no MIG layout all-3g.40gb; it has, with the slices that fit: all-1g.5gb (7), all-1g.10gb (4)"),
        ("L40S", "all-1g.10gb", "the L40S cannot be cut into slices (MIG), so not into all-1g.10gb; these can: A30, A100-40GB"),
    ],
)
def test_a_layout_that_a_gpu_does_not_have(name, layout, words):
    assert words in str(mig_fault(GPUS[name], layout))


@given(names, st.sampled_from(BRANCHES))
def test_branches_that_are_offered_fit(name, branch):
    gpu = GPUS[name]
    assert (driver_fault(gpu, str(branch)) is None) == (branch in gpu.branches)
    assert gpu.branches


@given(names)
def test_slices_fit_into_the_gpu(name):
    gpu = GPUS[name]
    parts = 7 if any(profile.startswith("7g") for profile in gpu.profiles) else 4
    for profile, count in gpu.profiles.items():
        compute, memory_gb = map(int, re.findall(r"\d+", profile))
        assert compute * count <= parts
        assert memory_gb * count <= gpu.memory_gb + count  # names are rounded
        assert slices_for(gpu, f"all-{profile}") == (profile,) * count


@given(names, st.from_regex(r"(all-)?[0-9]{1,2}g\.[0-9]{1,3}gb", fullmatch=True))
def test_a_layout_has_slices_or_a_fault(name, layout):
    assert bool(slices_for(GPUS[name], layout)) == (mig_fault(GPUS[name], layout) is None)


def _infrastructure(*types: str, **gpu) -> Infrastructure:
    groups = [
        {"name": f"group{at}", "role": "host", "gpu": {"type": name}, "hosts": [{"name": f"one-{at}", "address": f"10.20.16.{at + 1}"}]}
        for at, name in enumerate(types)
    ]
    return Infrastructure.model_validate({"provider": "static", "groups": groups, "gpu": gpu})


def test_every_group_is_looked_at():
    assert gpu_faults(_infrastructure("H200", "A100-80GB")) == ()
    faults = gpu_faults(_infrastructure("B200", "L40S", "H20", driver="550", mig="all-1g.23gb"))
    assert [fault.partition(":")[0] for fault in faults] == ["group 'group0'", "group 'group1'", "group 'group2'"]
    assert "550" in faults[0]
    assert "cannot be cut" in faults[1]
    assert "no GPU" in faults[2]
