"""Settings that every test shares."""

import importlib.util
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
torch.set_flush_denormal(True)


def _declare_torchvision_operators():
    """Let torchvision be imported beside a torch its compiled operators were not built for.

    Its Python code registers two operators of the compiled library that then does not load; the models use neither.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    try:
        for library in Path(spec.origin).parent.glob("_C.*"):
            torch.ops.load_library(library)
        return None
    except OSError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return operators


_OPERATORS = _declare_torchvision_operators()  # declared as long as this lives


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
