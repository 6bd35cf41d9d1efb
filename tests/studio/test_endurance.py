"""A short run of each strain of `tests.endurance`, and the fairness that a crowd relies on."""

import random

import pytest

from tests import endurance

SHORT = {"studio": 4, "worker": 2, "stops": 8, "crowd": 1}


@pytest.mark.parametrize("name", endurance.STRAINS)
def test_nothing_is_lost_or_mixed_up(name):
    strain, _ = endurance.STRAINS[name]
    assert strain(SHORT[name], random.Random(1))
