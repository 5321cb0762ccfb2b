"""Labels print as they are, formulas mean what the expressions mean, numbers round the right way, lines fit."""

import math
import re
import shutil
import subprocess
import unicodedata
from importlib import resources

import pytest
import sympy
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from latex_reader import value

import fimtheory as ft
from fimtheory.claims import Quantity
from fimtheory.closed_form import conclusion
from fimtheory.ensemble import Initial
from fimtheory.expressions import nonnegative
from fimtheory.inference import BOUNDED
from fimtheory.latex import labels
from fimtheory.latex.ensembles import SENTENCES
from fimtheory.latex.facts import FACTS, fact_of
from fimtheory.latex.numbers import decimals, scientific
from fimtheory.latex.printer import KAPPA, Name, Printer, number
from fimtheory.latex.symbols import Names
from fimtheory.latex.typesetting import LINE, Typesetter
from fimtheory.latex.widths import width
from fimtheory.registry import rules
from fimtheory.reporting import typeset

latexmk = pytest.mark.skipif(shutil.which("latexmk") is None, reason="needs latexmk (CI installs it)")
pdftotext = pytest.mark.skipif(shutil.which("pdftotext") is None, reason="needs pdftotext (CI installs it)")
I = sympy.Symbol("i", integer=True, positive=True)  # noqa: E741
PLAIN = [nonnegative(name) for name in ("a_one", "b_two", "c_three")]
FAMILY = [nonnegative(name, I) for name in ("f_one", "g_two")]
NAMES = {
    PLAIN[0]: Name("a", node=r"\mathrm{one}"),
    PLAIN[1]: Name(r"\gamma", "b", r"\mathrm{two}"),
    PLAIN[2]: Name(r"\ell", "c", r"\mathrm{three}", step=True),
    FAMILY[0].base.label: Name("f", node=r"\mathrm{one}"),
    FAMILY[1].base.label: Name("L", "g", r"\mathrm{two}", step=True),
}
VALUES = {PLAIN[0]: 0.7, PLAIN[1]: 1.9, PLAIN[2]: 3.1}
MEMBERS = {FAMILY[0]: lambda i: 0.5 + 0.3 * i, FAMILY[1]: lambda i: 2.3 / i}


# ---- labels -----------------------------------------------------------------------------------------------------

TEXTS = st.text(
    st.one_of(
        st.sampled_from("\\{}$&#%_^~<>|\"'`-,. /:;@!?"),
        st.characters(min_codepoint=32, max_codepoint=126),
        st.sampled_from(labels.NAMED_CHARACTERS + "层жαβ∘\u200b\u202eπ€"),
    ),
    min_size=1,
    max_size=60,
)


def printed(text):
    """What a label should look like on the page, without spaces."""
    known = set(labels.NAMED_CHARACTERS) | {chr(k) for k in range(33, 127)} | {"–"}
    return "".join(c if c in known else f"U+{ord(c):04X}" for c in text if c != " ")


@latexmk
@pdftotext
@settings(
    max_examples=1,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.large_base_example],
)
@example([*labels.NAMED_CHARACTERS, *map(chr, range(32, 127)), "--,,''``<<>>?`!`fi", "a" * 200])
@given(st.lists(TEXTS, min_size=60, max_size=60))
def test_labels_survive_the_way_to_the_page(tmp_path, texts):
    short = [t[:8] for t in texts]  # what does not break must fit on a line
    body = "\n\n".join(
        f"{labels.typewriter(t)}A1Z\\par {labels.escaped(s)} A2Z\\par $x_{{{labels.math_name(s)}}}$"
        for t, s in zip(texts, short, strict=True)
    )
    document = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage[utf8]{inputenc}\usepackage{lmodern,amsmath}"
        r"\pagestyle{empty}\begin{document}\raggedright " + body + r"\end{document}"
    )
    pdf = typeset(document, tmp_path)
    log = (tmp_path / "report.log").read_text(encoding="utf-8", errors="replace")
    assert "Missing character" not in log
    found = subprocess.run(["pdftotext", "-raw", str(pdf), "-"], capture_output=True, check=True).stdout.decode()
    found = unicodedata.normalize("NFC", re.sub(r"\s", "", found))
    for text, label in zip(texts, short, strict=True):
        expected = f"{printed(text)}A1Z{printed(label)}A2Zx{printed(label)}"
        assert found[: len(expected)] == expected
        found = found[len(expected) :]
    assert not found


@given(st.text())
def test_escaped_labels_hold_no_command_of_their_own(text):
    left = labels.escaped(text, breaks=True)
    for known in sorted({*labels._COMMANDS.values(), r"\allowbreak{}"}, key=len, reverse=True):
        left = left.replace(known, "")
    assert not set(left.replace("{}", "")) & set("\\{}$&#%_^~")


@given(st.text())
def test_statements_keep_plain_mathematics_only(text):
    made = labels.prose(f"norm at most ${text}$")
    if f"${text}$" in made:
        assert set(re.findall(r"\\([A-Za-z]+)", text)) <= set(
            labels._SAFE_MATH.pattern.replace("\\", "").split("|")
        ) | {
            "frac",
            "tfrac",
        }


@pytest.mark.parametrize(
    "text", [r"\input{/etc/passwd}", r"\write18{ls}", "{", "a}b{c", r"\left(", "#1", "a%b", r"\csname x"]
)
def test_what_is_not_plain_mathematics_is_printed(text):
    assert f"${text}$" not in labels.prose(f"norm at most ${text}$")


# ---- formulas ---------------------------------------------------------------------------------------------------

ATOMS = st.one_of(
    st.sampled_from([*PLAIN, *FAMILY]),
    st.sampled_from(
        [sympy.Integer(1), sympy.Integer(2), sympy.Rational(1, 2), sympy.Rational(3, 7), sympy.Rational(0.01)]
    ),
    st.sampled_from([sympy.Integer(150528), sympy.Rational(13824, 5), sympy.sqrt(3), sympy.pi, sympy.E, sympy.erf(1)]),
)


def grown(parts):
    pairs = st.tuples(parts, parts)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: p[0] / p[1]),
        pairs.map(lambda p: 2 + p[0] ** 2 - p[0] - 1 / (2 + p[1])),
        pairs.map(lambda p: sympy.Min(*p)),
        pairs.map(lambda p: sympy.Max(*p)),
        parts.map(sympy.sqrt),
        parts.map(lambda p: p**2),
        parts.map(lambda p: sympy.exp(-p)),
    )


EXPRESSIONS = st.recursive(ATOMS, grown, max_leaves=14).filter(lambda e: not e.has(sympy.Abs, sympy.I, sympy.zoo))


def numeric(expression, index=None):
    values = {s: sympy.Float(v) for s, v in VALUES.items()} | {
        s: sympy.Float(f(index or 2)) for s, f in MEMBERS.items()
    }
    return complex(expression.xreplace(values).evalf())


def symbols_of(printer):
    made = {printer.doprint(s): v for s, v in VALUES.items()}
    made |= {printer.doprint(s): lambda i, f=f: f(i or 2) for s, f in MEMBERS.items()}
    return made | {r"\kappa": (1 + math.erf(1)) / 2 + 1 / (math.e * math.sqrt(math.pi))}


def balanced(latex):
    depth = 0
    for token in re.findall(r"\\.|[{}]", latex):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    return depth == 0 and latex.count(r"\left") == latex.count(r"\right")


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("slashed", [False, True])
@settings(deadline=None, max_examples=25)
@given(expression=EXPRESSIONS)
def test_a_formula_reads_back_as_its_expression(local, slashed, expression):
    printer = Printer(NAMES, {s: k for k, s in enumerate([*PLAIN, *FAMILY])}, local=local, slashed=slashed)
    expected = numeric(expression)
    latex = printer.doprint(expression)
    assert balanced(latex)
    if expected.imag == 0 and 1e-200 < abs(expected) < 1e200:
        assert value(latex, symbols_of(printer)) == pytest.approx(expected.real, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(expression=EXPRESSIONS, before=EXPRESSIONS, count=st.integers(1, 4))
def test_a_product_over_blocks_reads_back(expression, before, count):
    printer = Printer(NAMES, {s: k for k, s in enumerate([*PLAIN, *FAMILY])})
    before = before.xreplace({FAMILY[0]: PLAIN[0], FAMILY[1]: PLAIN[1]})
    whole = before * sympy.Product(expression, (I, 1, count))
    expected = numeric(before)
    for k in range(1, count + 1):
        expected *= numeric(expression, k)
    if expected.imag == 0 and 1e-100 < abs(expected) < 1e100:
        assert value(printer.doprint(whole), symbols_of(printer)) == pytest.approx(expected.real, rel=1e-5)


@given(st.fractions())
def test_a_number_is_exact_or_says_that_it_goes_on(fraction):
    exact = sympy.Rational(fraction.numerator, fraction.denominator)
    latex = number(exact)
    sign = -1 if latex.startswith("-") else 1
    read = value(latex.lstrip("-"), {})
    assert sign * read == pytest.approx(float(exact), rel=2e-7 if r"\ldots" in latex else 1e-15)
    if r"\ldots" in latex:
        assert read <= abs(float(exact)) * (1 + 1e-15)


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_float_is_printed_as_python_prints_it(x):
    assert value(number(sympy.Rational(x)), {}) == pytest.approx(x, rel=2e-7)


@settings(deadline=None, max_examples=25)
@given(expression=EXPRESSIONS, line=st.sampled_from([16.0, LINE]))
@example(expression=sympy.exp(-next(iter(NAMES)) * sympy.erf(1)), line=16.0)
def test_names_for_parts_of_a_long_formula_build_on_one_another(expression, line):
    names = Names(ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2)))
    names.table |= NAMES
    setter = Typesetter(names, line=line)
    shown = setter.display("y", "=", expression, I)
    symbols = symbols_of(setter.printer)
    expected = numeric(expression)
    if expected.imag != 0 or not 1e-100 < abs(expected) < 1e100:
        return
    for each in (*shown.where, shown):
        ((_, lines),) = each.rows
        joined = " ".join(lines)
        symbols[each.left] = value(joined, symbols)
    assert symbols["y"] == pytest.approx(expected.real, rel=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "vgg16", "densenet121", "vit_b_16", "mlp", "mixer_b_16", "convnext_tiny"])
def test_every_closed_form_of_the_shipped_derivations_prints(name):
    derivation = ft.derive(ft.families.PRESETS[name].build(10, (3, 224, 224)))
    names = Names(derivation)
    for local in (False, True):
        printer = names.printer(local=local)
        forms = [step.claim.expression for step in derivation.steps] + [step.name for step in derivation.steps]
        forms += [conclusion(lemma.steps, k)[0] for lemma in derivation.lemmas for k in range(len(lemma.steps))]
        forms += [derivation.bound, derivation.expected_bound]
        for form in forms:
            latex = printer.doprint(form)
            assert balanced(latex)
            assert "None" not in latex


def test_no_two_symbols_of_a_derivation_look_alike():
    for name in ("resnet18", "vit_b_16", "densenet121", "mixer_b_16", "convnext_tiny"):
        derivation = ft.derive(ft.families.PRESETS[name].build(10, (3, 224, 224)))
        printer = Names(derivation).printer()
        symbols = {step.name for step in derivation.steps} | {m.symbol for m in derivation.measured()}
        assert len({printer.doprint(s) for s in symbols}) == len(symbols)


def test_kappa_is_the_largest_slope_of_gelu():
    gelu = ft.registry.find_rule((ft.layers.GELU,), Quantity.GAIN)
    gain = gelu.function(ft.Site.of(ft.layers.GELU(), inputs=((3,),))).expression
    assert Printer({}, {}).doprint(gain) == Printer({}, {}).doprint(KAPPA) == r"\kappa"


# ---- widths and rounding ----------------------------------------------------------------------------------------


@given(st.floats(-300, 300, allow_subnormal=False))
def test_values_round_towards_what_they_claim(log10):
    up, down = (value(scientific(log10, up=u).strip("$"), {}) for u in (True, False))
    assert down * (1 - 1e-8) <= 10**log10 <= up * (1 + 1e-8)
    assert up <= down * 1.011


@given(st.floats(-1e6, 1e6, allow_subnormal=False))
def test_logarithms_round_towards_what_they_claim(x):
    up, down = (float(decimals(x, up=u).strip("$")) for u in (True, False))
    assert down - 1e-8 <= x <= up + 1e-8
    assert up - down < 0.0011


@settings(deadline=None, max_examples=25)
@given(EXPRESSIONS, EXPRESSIONS)
def test_a_formula_is_as_wide_as_its_parts(a, b):
    printer = Printer(NAMES, {})
    first, second = printer.doprint(a), printer.doprint(b)
    assert width(f"{first} + {second}") >= max(width(first), width(second))
    assert width(rf"\frac{{{first}}}{{{second}}}") >= max(width(first), width(second))


# ---- facts ------------------------------------------------------------------------------------------------------


def own(rule):
    """Name of a built-in rule's function, as ``templates/facts.tex`` has it."""
    module = rule.function.__module__
    return f"{module.removeprefix('fimtheory.rules.')}.{rule.function.__name__}"


BUILT_IN = [r for r in rules() if r.quantity in BOUNDED and r.function.__module__.startswith("fimtheory.rules.")]


@pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.name)
def test_every_rule_that_a_step_can_use_has_a_statement_and_a_proof(rule):
    fact = fact_of(rule.name, rule.quantity)
    assert fact.title
    assert fact.proof
    assert fact.statement not in ("", "Its author gives no statement.")
    assert fact.proof != "Given with the rule." or rule.quantity is not Quantity.GAIN, f"{rule.name} has no proof"
    assert "``" not in fact.statement + fact.proof


def test_every_fact_is_read_and_belongs_to_a_rule():
    text = resources.files("fimtheory").joinpath("templates", "facts.tex").read_text(encoding="utf-8")
    assert list(FACTS) == re.findall(r"^%%% ([a-z ]+): .*\n", text.replace("%%% rules: ", ""), flags=re.MULTILINE)
    named = [name for fact in FACTS.values() for name in fact.rules]
    assert len(named) == len(set(named))
    assert set(named) <= {own(rule) for rule in BUILT_IN}
    assert [fact.key for fact in FACTS.values() if not fact.rules] == [
        "composition",
        "centred residual",
        "chain",
        "stack",
        "growth",
    ]


def test_no_fact_is_about_gain_and_growth():
    growth = {fact_of(r.name, r.quantity).key for r in BUILT_IN if r.quantity is Quantity.JACOBIAN_VARIANCE}
    other = {fact_of(r.name, r.quantity).key for r in BUILT_IN if r.quantity is not Quantity.JACOBIAN_VARIANCE}
    assert not growth & other
    assert all("growth" not in FACTS[key].statement for key in other & FACTS.keys())


def test_every_initial_distribution_has_a_sentence():
    assert {str(initial) for initial in Initial} - set(SENTENCES) == {"count"}
