"""Reports compile without a warning that shows, tell every step, hide nothing in labels, and are the same each time."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sympy
import torch
from hypothesis import given, settings
from latex_reader import value

import fimtheory as ft
from fimtheory import layers, reporting
from fimtheory.bibliography import BIBLIOGRAPHY
from fimtheory.claims import Claim, Quantity, Reference, Relation, Status
from fimtheory.closed_form import conclusion
from fimtheory.errors import CheckError, DataError
from fimtheory.inference import BOUNDED
from fimtheory.latex import activations
from fimtheory.latex.chapters import chapter
from fimtheory.latex.facts import fact_of
from fimtheory.latex.labels import label_key, prose
from fimtheory.registry import Need
from fimtheory.reporting import report, tex, typeset
from fimtheory.rules.activations import ACTIVATIONS
from fimtheory.strategies import layer_graphs

latexmk = pytest.mark.skipif(shutil.which("latexmk") is None, reason="needs latexmk (CI installs it)")
HOSTILE = (
    r"\input{/etc/passwd}", "50%_of$a&b#c{d}e~f^g", "$$x^2_3$", r"}\end{document}", "层.ж.é|<>\"'`", "a" * 150,
    r"\write18{touch pwned}", "x y  z", "^^M", r"$\csname x$",
)  # fmt: skip


def hostile():
    """A network whose every label would be a command, a comment or an error in LaTeX."""
    g = ft.Builder(r"evil\_{}%$#&~^ 名 \end{document}")
    x = g.add("x", layers.Input((2, 8)))
    for name in HOSTILE:
        y = g.add(f"{name}.1", layers.Linear(8, 8), x, block=name)
        y = g.add(f"{name}.r\\elu%", layers.ReLU(), y, block=name)
        x = g.add(f"{name}._$%", layers.Add(), x, y, block=name)
    x = g.add("$a_b_c$", layers.MultiHeadSelfAttention(8, 2), x)
    x = g.add("#1", layers.SelectToken(0), x)
    g.add("h_%&", layers.Linear(8, 3), x)
    return g.graph()


@pytest.fixture(scope="module")
def verdict():
    torch.manual_seed(0)
    graph = ft.families.mlp((6, 5), inputs=(4,), classes=3, name="small_mlp")
    return ft.verify(graph, torch.randn(3, 4), target="zoo:small_mlp & co", starts=2, steps=2)


def complaints(log):
    """What LaTeX says of a report that a reader would see."""
    found = [line for line in log.splitlines() if re.search(r"undefined|Missing character|multiply defined|^!", line)]
    return found + [w for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(w) > 5]


def loose_ends(document):
    """References to labels and works that are not there."""
    key = re.search(r"factref\}\[1\]\{Fact~\\ref\{(.*?):fact:", document)[1]
    refs = {
        *re.findall(r"\\ref\{([^#}]*)\}", document),
        *(f"{key}:fact:{f}" for f in re.findall(r"\\factref\{([^#}]*)\}", document)),
    }
    cites = set(re.findall(r"\\cite(?:\[\{.*?\}\]|\[.*?\])?\{(.*?)\}", document))
    labels, works = re.findall(r"\\label\{(.*?)\}", document), re.findall(r"\\bibitem\{(.*?)\}", document)
    twice = [name for name in (*labels, *works) if (*labels, *works).count(name) > 1]
    return (refs - set(labels)) | (cites - set(works)) | set(twice)


def assert_compiles(document, tmp_path):
    pdf = typeset(document, tmp_path)
    log = (tmp_path / "report.log").read_text(encoding="utf-8", errors="replace")
    assert complaints(log) == []
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith("report")) == []
    return pdf


# ---- the PDF ----------------------------------------------------------------------------------------------------


@latexmk
def test_a_verified_model_makes_a_clean_pdf(verdict, tmp_path):
    document = tex(chapter(verdict.derivation, verdict.bound, verdict.to_json()))
    assert_compiles(document, tmp_path)


@latexmk
@pytest.mark.parametrize("name", ["Transformer", "Mixer", "ConvNeXt"])
def test_a_symbolic_family_makes_a_clean_pdf(name, tmp_path):
    assert_compiles(tex(chapter(ft.derive(ft.families.SYMBOLIC[name].build()))), tmp_path)


@latexmk
def test_labels_cannot_break_out(tmp_path):
    derivation = ft.derive(hostile())
    pdf = assert_compiles(tex(chapter(derivation)), tmp_path)
    assert not (tmp_path / "pwned").exists()
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext (CI installs it)")
    shown = subprocess.run(["pdftotext", "-raw", str(pdf), "-"], capture_output=True, check=True).stdout.decode()
    shown = re.sub(r"\s", "", shown)
    for name in HOSTILE:
        plain = "".join(c if c.isascii() or c == "é" else f"U+{ord(c):04X}" for c in name if c != " ")
        assert plain in shown, name
    assert "root:" not in shown


@latexmk
def test_the_fact_of_every_rule_makes_a_clean_pdf(tmp_path):
    """Every statement and proof, with the words for every layer type, on one sheet."""
    facts = {}
    for rule in ft.rules():
        if rule.quantity in BOUNDED and rule.function.__module__.startswith("fimtheory.rules."):
            fact = fact_of(rule.name, rule.quantity)
            facts[label_key(fact.key)] = fact
    made = chapter(ft.derive(_one_layer(layers.ReLU(), bias=True)))
    document = tex(dataclasses.replace(made, facts=tuple(facts.items()), mean=None))
    assert len(re.findall(r"\\begin\{fact\}", document)) == len(facts)
    assert_compiles(document, tmp_path)


@latexmk
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet18", "vgg16", "densenet121", "vit_b_16", "mlp", "resnet50", "mixer_b_16", "convnext_tiny"]
)
def test_presets_make_clean_pdfs(name, tmp_path):
    assert_compiles(tex(chapter(ft.derive(ft.families.PRESETS[name].build(1000, (3, 224, 224))))), tmp_path)


@latexmk
@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(graph=layer_graphs())
def test_random_graphs_make_clean_pdfs(graph, tmp_path_factory):
    assert_compiles(tex(chapter(ft.derive(graph))), tmp_path_factory.mktemp("random"))


@latexmk
def test_the_same_theorem_gives_the_same_bytes(tmp_path):
    derivation = ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2))
    first, second = (report([derivation], tmp_path / name) for name in "ab")
    assert [p.name for p in first] == ["mlp.tex", "mlp.pdf"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_the_text_does_not_depend_on_the_order_of_sets():
    program = (
        "import fimtheory as ft, hashlib\n"
        "from fimtheory.latex.chapters import chapter\n"
        "from fimtheory.reporting import tex\n"
        "text = ''.join(tex(chapter(ft.derive(f()))) for f in (ft.families.symbolic.symbolic_transformer,"
        " ft.families.symbolic.symbolic_densenet))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())\n"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


# ---- what it says -----------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(graph=layer_graphs())
def test_every_step_is_told_once(graph):
    derivation = ft.derive(graph)
    made = chapter(derivation)
    for lemma, text, growth in zip(derivation.lemmas, made.lemmas, made.mean.lemmas, strict=True):
        told = []
        for item in (*text.gain.proof, *growth.proof):
            first, _, last = re.fullmatch(r"\(\$.*\$\.(\d+)(--(\d+))?\)", item.number).groups()
            told += range(int(first), int(last or first) + 1)
        assert sorted(told) == list(range(len(lemma.steps)))
        assert (text.gain.step, growth.step) == (lemma.gain, lemma.variance)
    document = tex(made)
    numbers = re.findall(r"\\item\[\(\$.*?\$\.(\d+)(?:--(\d+))?\)\]", document)
    assert sum(1 if last == "" else 2 for _, last in numbers) == len(derivation.steps)
    assert not loose_ends(document)


@pytest.mark.parametrize("build", [lambda g, x: x, lambda g, x: g.add("fc", layers.Linear(3, 2), x)])
def test_a_network_without_blocks_needs_no_lemma(build):
    g = ft.Builder("short")
    build(g, g.add("x", layers.Input((3,))))
    document = tex(chapter(ft.derive(g.graph())))
    assert "needs no lemma" in document
    assert r"\item[" not in document
    assert not loose_ends(document)


def test_the_theorem_says_what_it_assumes():
    free = tex(chapter(ft.derive(ft.families.vit_tiny(classes=10))))
    assert "assumes nothing: it holds for every input and all weights" in free
    assert "For every input $x$ and all weights," in free
    bound = tex(chapter(ft.derive(ft.families.vit_tiny(classes=10), token_variance="0.01")))
    assert r"\item Every token that enters a layer norm has variance at least $\frac{1}{100}$." in bound
    assert "assumes nothing" not in bound


def test_an_assumed_bound_on_tokens_names_its_node():
    g = ft.Builder("bare")
    x = g.add("x", layers.Input((5, 8)))
    x = g.add("re$lu", layers.ReLU(), x, block="b")
    x = g.add("attend", layers.MultiHeadSelfAttention(8, 2), x, block="b")
    g.add("fc", layers.Linear(8, 3), g.add("sel", layers.SelectToken(0), x, block="b"))
    derivation = ft.derive(g.graph())
    (sentence,) = chapter(derivation).assumptions
    assert sentence == (
        r"Every token at the node \texttt{re\$lu} of the block of Lemma $a$ has norm at most "
        r"$R_{a,\textnormal{re\$lu}}$."
    )


def test_a_heuristic_is_called_one():
    document = tex(chapter(ft.derive(ft.families.vit_tiny(classes=10))))
    assert "Heuristically, for every input" in document
    assert "is an estimate and not a theorem" in document
    assert "Heuristically" not in tex(chapter(ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2))))


def test_the_printed_bound_is_the_bound():
    graph = ft.families.resnet((1, 2), widths=(4, 6), stem="cifar", classes=3, input_shape=(3, 8, 8))
    derivation = ft.derive(graph)
    made = chapter(derivation)
    (_, _), (sign, lines) = made.theorem.bound.display.rows
    assert sign == "="
    from fimtheory.latex.symbols import Names

    names = Names(derivation)
    printer = names.printer()
    joint = derivation.theorem.recursion.symbol  # the bound by the stack stands in a sentence of its own
    (product,) = (each for each in derivation.bound.args if joint not in each.free_symbols)
    symbols, exact = {}, product.doit()
    for k, measured in enumerate(derivation.measured()):
        symbol = measured.symbol
        if isinstance(symbol, sympy.Indexed):
            symbols[printer.doprint(symbol)] = lambda i, k=k: 0.5 + k + 0.1 * i
            exact = exact.xreplace({symbol.base[i]: sympy.Float(0.5 + k + 0.1 * i) for i in range(1, 9)})
        else:
            symbols[printer.doprint(symbol)] = 0.5 + k
            exact = exact.xreplace({symbol: sympy.Float(0.5 + k)})
    for lemma in derivation.lemmas:  # a gain too wide for the line stands under the lemma's name
        if len(lemma.instances) == 1:
            gain = conclusion(lemma.steps, lemma.gain)[0]
            known = {m.symbol: symbols[printer.doprint(m.symbol)] for s in lemma.steps for m in s.claim.measured}
            symbols[rf"L_{{{lemma.letter}}}"] = float(gain.xreplace({k: sympy.Float(v) for k, v in known.items()}))
    assert value(" ".join(lines), symbols) == pytest.approx(float(exact))


def test_a_verdict_shows_each_number_with_its_status_and_rounds_bounds_up(verdict):
    told = verdict.to_json()
    rows = chapter(verdict.derivation, verdict.bound, told).verification.rows
    statuses = [row.status for row in rows]
    found = told["estimates"]["status"]
    assert statuses == ["certified", "certified", "expected", found, found, "lower"]
    logs = [value(row.log10.strip("$"), {}) for row in rows]
    for shown, key in zip(logs, ("bound", "baseline", "expected"), strict=False):
        assert told[key]["log10"] <= shown <= told[key]["log10"] + 0.0011
    assert logs[5] <= told["worst_case"]["log10"]


def test_a_violated_bound_is_said_in_bold(verdict):
    told = json.loads(json.dumps(verdict.to_json())) | {"violations": 2}
    assert r"\textbf{2 values exceed the bound}" in tex(chapter(verdict.derivation, verdict.bound, told))


def test_contributions_of_the_blocks_add_up_to_the_bound(verdict):
    blocks = chapter(verdict.derivation, verdict.bound).blocks
    total = sum(value(block.decades.strip("$").replace("-", "0-"), {}) for block in blocks)
    assert total == pytest.approx(verdict.bound.log10, abs=0.001 * len(blocks))


def test_every_reference_is_in_the_bibliography():
    for rule in (r for r in ft.rules() if r.function.__module__.startswith("fimtheory.")):
        assert rule.reference.key in BIBLIOGRAPHY, f"{rule.name} refers to {rule.reference.key}"
    sources = [*Path(reporting.__file__).parent.rglob("*.py"), *Path(reporting.__file__).parent.rglob("templates/*")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path.name != "bibliography.py")
    keys = set(re.findall(r'Reference\("([a-z0-9]+)"', text)) | set(
        re.findall(r"\\cite(?:\[.*?\])?\{([a-z]+\d+)\}", text)
    )
    assert len(keys) > 15
    assert keys <= set(BIBLIOGRAPHY)
    assert len({label_key(key) for key in BIBLIOGRAPHY}) == len(BIBLIOGRAPHY)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_of_ones_own_is_told_by_its_docstring():
    @ft.layer
    class Halve(layers.Layer):
        """Half of its input."""

    ft.rule(Halve, quantity=ft.Quantity.SHAPE, reference=Reference("mine2031"))(lambda site: site.inputs[0])

    @ft.rule(Halve, quantity=ft.Quantity.GAIN, reference=Reference("my_paper 50%", "thm. #1"))
    def halve_gain(site):
        """Gain of ``Halve``: 1/2 & no more.

        Proof: 50% of a vector_x is half as long.

        >>> 1
        1
        """
        return Claim(Relation.EQ, sympy.Rational(1, 2), Reference("my_paper 50%", "thm. #1"))

    @ft.rule(Halve, quantity=ft.Quantity.JACOBIAN_VARIANCE, reference=Reference("mine2031"))
    def halve_growth(site):
        return Claim(Relation.LE, sympy.Rational(1, 4), Reference("mine2031"), status=Status.EXPECTED)

    g = ft.Builder("own")
    x = g.add("half", Halve(), g.add("x", layers.Input((4,))))
    g.add("fc", layers.Linear(4, 2), x)
    document = tex(chapter(ft.derive(g.graph())))
    assert r"Gain of \texttt{Halve}: 1/2 \& no more." in document
    assert r"50\% of a vector\_x is half as long." in document
    assert r"\cite[{thm. \#1}]{my-paper-50}" in document
    assert r"\bibitem{my-paper-50} \texttt{my-\allowbreak{}paper-\allowbreak{}50}: cited by a rule" in document
    assert "The growth of \\texttt{Halve}" in document


@pytest.fixture
def bounded_product(own_rules):
    """A network with a layer of two inputs that needs three bounds on values, and has no rule for the growth."""

    @ft.layer
    class Clip(layers.Layer):
        """Entries cut off at 3 in absolute value."""

    @ft.layer
    class Product(layers.Layer):
        """Product of the first input, entry by entry, with the second."""

        arity = 2

    mine = Reference("fimtheory")
    unit = lambda site: Claim(Relation.LE, sympy.Integer(1), mine)  # noqa: E731
    ft.rule(Clip, quantity=Quantity.SHAPE, reference=mine)(lambda site: site.inputs[0])
    ft.rule(Clip, quantity=Quantity.GAIN, reference=mine)(unit)

    @ft.rule(Clip, quantity=Quantity.ENTRY_BOUND, reference=mine)
    def clip_entries(site):
        """Entries are at most 3.  Proof: they are cut off there."""
        return Claim(Relation.LE, sympy.Integer(3), mine)

    ft.rule(Product, quantity=Quantity.SHAPE, reference=mine)(lambda site: site.inputs[0])

    @ft.rule(
        Product,
        quantity=Quantity.GAIN,
        reference=mine,
        needs=(Need(Quantity.ENTRY_BOUND, 1), Need(Quantity.TOKEN_NORM, 0), Need(Quantity.NORM_BOUND, 0)),
    )
    def product_gain(site):
        """Gain of the product of two inputs, the first bounded in norm.  Proof: the product rule."""
        entries, token, norm = site.premises
        return Claim(Relation.LE, entries * site.gains[0] + sympy.Min(token, norm) * site.gains[1], mine)

    g = ft.Builder("bounded")
    x = g.add("x", layers.Input((5, 8)))
    for name in ("b1", "b2"):
        left = g.add(f"{name}.left", layers.Linear(8, 8), x, block=name)
        right = g.add(f"{name}.clip", Clip(), g.add(f"{name}.right", layers.Linear(8, 8), x, block=name), block=name)
        x = g.add(f"{name}.product", Product(), left, right, block=name)
    g.add("fc", layers.Linear(8, 3), g.add("sel", layers.SelectToken(0), x, block="pick"))
    return ft.derive(g.graph())


@latexmk
def test_a_theorem_without_an_expected_bound_says_so_and_says_nothing_else_of_it(bounded_product, tmp_path):
    made = chapter(bounded_product)
    assert made.mean is None
    document = tex(made)
    assert (
        r"There is no bound on the mean of $\lambda(x)$ over random weights: no rule says how the mean square of a "
        r"Jacobian grows through \texttt{Clip} and \texttt{Product}." in " ".join(document.split())
    )
    assert not re.search("growth|ensemble|Markov|None", document)
    assert document.count(r"\begin{theorem}") == 1
    assert not loose_ends(document)
    assert_compiles(document, tmp_path)


def test_bounds_on_values_have_names_of_their_own(bounded_product):
    made = chapter(bounded_product)
    lemma = made.lemmas[0].gain
    proof = " ".join(item.text for item in lemma.proof)
    for name in (
        r"\mu_{\mathrm{clip}} \le 3 $ by", r"\rho_{\mathrm{left}} \le R_{a,\mathrm{left}}$ by assumption",
        r"\nu_{\mathrm{left}} \le N_{a,\mathrm{left}}$ by assumption",
    ):  # fmt: skip
        assert name.replace(" $", "$") in proof
    assert re.findall(r"\$.*?\$", made.values) == [r"$\mu_v$", r"$\rho_v$", r"$\nu_v$"]
    assert made.assumptions == (
        r"Every token at the node \texttt{left} of every block of Lemma $a$ has norm at most "
        r"$R^{(i)}_{a,\mathrm{left}}$.",
        r"What flows through the node \texttt{left} of every block of Lemma $a$ has norm at most "
        r"$N^{(i)}_{a,\mathrm{left}}$.",
    )


def test_a_layer_with_several_inputs_is_bounded_from_the_entry_of_its_block(bounded_product):
    (last,) = [item.text for item in chapter(bounded_product).lemmas[0].gain.proof if "product" in item.text]
    assert last.startswith(r"$L_{\mathrm{product}} \le ")
    assert r"\ell_{\mathrm{product}}" not in last
    steps = bounded_product.lemmas[0].steps
    (joint,) = [step for step in steps if step.rule == "gain[Product]"]
    from_steps = [f"($a$.{p})" for p in joint.premises]
    assert last.endswith(f"from {', '.join(from_steps[:-1])} and {from_steps[-1]}")


@pytest.mark.parametrize("kind", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_every_elementwise_layer_has_slopes_and_a_reason(kind, monkeypatch):
    layer = layers.Clamp(minimum=0.0) if kind is layers.Clamp else kind()
    derivation = ft.derive(_one_layer(layer, bias=True))
    (row,) = chapter(derivation).slopes
    assert row.reason
    monkeypatch.setattr(activations, "_REASONS", {})
    (row,) = chapter(derivation).slopes
    assert row.reason == prose(kind.__doc__.splitlines()[0])


def test_the_ensemble_is_what_the_tensors_start_as():
    first, *others = chapter(ft.derive(ft.families.vit_tiny(classes=10))).mean.ensemble
    assert first.startswith("Weights of every patch embedding and linear map are independent")
    assert any("Projections of every self-attention" in sentence for sentence in others)
    assert "Biases" not in " ".join(chapter(ft.derive(_one_layer(layers.ReLU(), bias=False))).mean.ensemble)


def _one_layer(layer, *, bias):
    g = ft.Builder("one")
    x = g.add("layer", layer, g.add("x", layers.Input((4,))))
    g.add("fc", layers.Linear(4, 2, bias=bias), x)
    return g.graph()


# ---- files ------------------------------------------------------------------------------------------------------


def test_without_latexmk_a_line_says_how_to_get_the_pdf(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporting.shutil, "which", lambda name: None)
    derivation = ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2, name="a_b"))
    assert [p.name for p in report([derivation], tmp_path)] == ["a_b.tex"]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "latexmk -pdf a_b.tex" in error


def test_reports_of_one_name_are_told_apart(tmp_path):
    derivations = [ft.derive(ft.families.mlp((4,), inputs=(3,), classes=k, name=n)) for k, n in ((2, "m"), (3, "M"))]
    written = report([*derivations, (derivations[0], None, None)], tmp_path, compile=False)
    assert [p.name for p in written] == ["m.tex", "M-2.tex", "m-3.tex"]


@latexmk
def test_a_report_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    derivation = ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2))
    monkeypatch.setattr(reporting, "tex", lambda content: r"\documentclass{article}\begin{document}\broken")
    with pytest.raises(DataError, match="Undefined control sequence"):
        report([derivation], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.tex"]


def test_what_the_kernel_refuses_is_not_reported(tmp_path):
    derivation = ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2))
    theorem = dataclasses.replace(derivation.theorem, bound=derivation.theorem.bound / 2)
    with pytest.raises(CheckError):
        report([dataclasses.replace(derivation, theorem=theorem)], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_a_theorem_is_refused(tmp_path):
    with pytest.raises(DataError, match="got str"):
        report(["resnet18"], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        report([ft.derive(ft.families.mlp((4,), inputs=(3,), classes=2))], tmp_path / "file", compile=False)
