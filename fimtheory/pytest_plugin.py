"""A pytest plugin that tests every rule by every property, rules of one's own included.

Opt in with ``pytest_plugins = ["fimtheory.pytest_plugin"]`` in ``conftest.py``, declare layers and rules where tests
import them, and write one test that asks for the fixture::

    import my_layers

    def test_rules(fimtheory_property):
        fimtheory_property()

It becomes one test for each rule and property.  Options: ``--fimtheory-examples`` and ``--fimtheory-rules``.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fimtheory.errors import RuleError
from fimtheory.properties import PROPERTIES, Outcome, check_property, claiming_rules
from fimtheory.registry import Rule

__all__ = ["fimtheory_property", "pytest_addoption", "pytest_generate_tests"]

_DEFAULT = 15


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("fimtheory", "properties of layer rules")
    group.addoption(
        "--fimtheory-examples", type=int, default=_DEFAULT, help=f"examples for each rule and property ({_DEFAULT})"
    )
    group.addoption(
        "--fimtheory-rules", default="", help="test only rules in whose name this occurs, such as 'MyLayer'"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each rule and property where the fixture is asked for."""
    if "fimtheory_property" not in metafunc.fixturenames:
        return
    wanted: str = metafunc.config.option.fimtheory_rules
    chosen = [(rule, prop) for rule in claiming_rules() if wanted in rule.name for prop in PROPERTIES]
    if not chosen:
        raise RuleError(f"--fimtheory-rules={wanted}: it occurs in no rule's name; see `fimtheory rules`")
    names = [f"{rule.name}-{prop}" for rule, prop in chosen]
    metafunc.parametrize("fimtheory_property", chosen, ids=names, indirect=True)


@pytest.fixture
def fimtheory_property(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Return a function that tests one property of one rule; it skips with the reason what does not apply."""
    chosen: tuple[Rule, str] = request.param
    rule, prop = chosen
    examples: int = request.config.option.fimtheory_examples

    def run() -> None:
        result = check_property(rule, prop, examples=examples)[0]
        if result.outcome is Outcome.NOT_APPLICABLE:
            pytest.skip(next(iter(result.reasons)))

    return run
