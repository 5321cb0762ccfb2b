"""Settings that every test shares."""

import pytest
import torch

from fimtheory.sources.callables import torchvision_operators

torch.set_num_threads(1)
torch.set_flush_denormal(True)


torchvision_operators()  # before any test imports torchvision


def pytest_configure(config):
    # torch scripts its decompositions at the first use of forward mode, and warns about its own call
    config.addinivalue_line("filterwarnings", "ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def own_rules():
    """Forget, after the test, the layer types, rules and measures that it declares."""
    from fimtheory import layers, measures, registry

    tables = [layers.LAYER_TYPES, registry._RULES, registry._BY_NAME, registry._MEASURES, measures.EVALUATIONS]
    before = [dict(table) for table in tables]
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
