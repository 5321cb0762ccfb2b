"""The programs in README.md run and print what their comments say."""

import re
from pathlib import Path

import pytest

import fimtheory as ft

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.usefixtures("own_rules")
def test_the_layer_of_ones_own_is_derived_checked_and_run(capsys):
    rules, graph = (code for code in PROGRAMS if "Halve" in code)
    names: dict = {}
    exec(rules, names)
    exec(graph, names)
    printed = capsys.readouterr().out
    assert re.search(r"# (lam\(x\) <= .*)", graph)[1] in printed
    assert "E lam(x) <= " in printed
    assert "certified" in printed


def test_the_first_program_names_functions_that_exist():
    (program,) = (code for code in PROGRAMS if "resnet18" in code)
    for path in re.findall(r"\bft\.([\w.]+)\(", program):
        found = ft
        for name in path.split("."):
            found = getattr(found, name)
        assert callable(found)
