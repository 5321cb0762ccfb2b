"""The command line as a user types it: exit statuses, JSON on stdout, one line for bad input, no partial files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fimtheory as ft
from fimtheory import cli, layers
from fimtheory.targets import resolve

SMALL = (str(Path(__file__).with_name("small_mlp.json")),)
"""A graph, so with random weights; the preset of a perceptron has 512 units in a layer, and its bound takes a while."""

PROOFS = (str(Path(__file__).parents[1] / "derivations" / "c1_series.py"),)


def run(*arguments, cwd=None):
    command = [sys.executable, "-c", "from fimtheory.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=400, check=False)


def test_verify_prints_one_json_object_with_the_promised_keys():
    done = run("verify", *SMALL, "--data", "random:4", "--starts", 4, "--steps", 3, "--json")
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert {"target", "input_shape", "classes", "seed", "bound", "baseline", "expected", "estimates", "worst_case",
            "looseness_log10", "violations", "derivation", "seconds"} <= set(verdict)  # fmt: skip
    assert verdict["bound"]["status"] == "certified"
    assert verdict["violations"] == 0
    assert verdict["bound"]["log10"] - verdict["worst_case"]["log10"] == pytest.approx(verdict["looseness_log10"])
    assert verdict["input_shape"] == [1, 4, 4]
    assert (verdict["data"], verdict["estimates"]["n"]) == ("4 of random:4", 4)


def test_bound_and_estimate_agree_that_nothing_exceeds_the_bound():
    bound = json.loads(run("bound", *SMALL, "--seed", 3, "--json").stdout)
    found = json.loads(run("estimate", *SMALL, "--seed", 3, "--data", "random:5", "--json").stdout)
    assert {"lam", "lower", "upper", "level", "method", "status", "evaluations", "seconds"} <= set(found)
    assert (found["target"], found["data"], found["seed"], len(found["lam"])) == ("small_mlp", "5 of random:5", 3, 5)
    assert 0 < max(found["lam"]) <= bound["bound"]["value"]
    shares = [step["decades"] for step in bound["steps"] if step["decades"] is not None]
    assert sum(shares) == pytest.approx(bound["bound"]["log10"], abs=1e-9)


def test_radius_prints_one_json_object_and_draws_the_same_shares(tmp_path):
    plot = tmp_path / "curve.svg"
    done = run("radius", "zoo:digits_mlp", "--data", "digits:test", "--n", 20, "--seed", 1, "--plot", plot, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"target", "data", "seed", "bound", "norm", "status", "radius", "margin", "fisher_rao", "local", "by",
            "predicted", "median", "labels", "accuracy", "certified_accuracy"} == set(found)  # fmt: skip
    assert (found["status"], found["bound"]["status"], found["data"]) == ("certified", "certified", "20 of digits:test")
    assert all(0 < a <= m == r for a, m, r in zip(found["fisher_rao"], found["margin"], found["radius"], strict=True))
    right = [p == y for p, y in zip(found["predicted"], found["labels"], strict=True)]
    for row in found["certified_accuracy"]:
        kept = [r >= row["radius"] for r in found["radius"]]
        assert row["accuracy"] == sum(a and b for a, b in zip(right, kept, strict=True)) / 20
    assert found["accuracy"] == sum(right) / 20
    assert plot.read_text().startswith("<?xml")


def test_local_radii_join_the_others():
    command = ("radius", "zoo:digits_mlp", "--data", "digits:test", "--n", 3, "--local")
    found = json.loads(run(*command, "--json").stdout)
    assert found["by"] == ["local"] * 3
    assert found["radius"] == found["local"]
    assert all(r > m for r, m in zip(found["local"], found["margin"], strict=True))
    assert "median radius, local alone" in run(*command).stdout


def test_radius_needs_no_labels():
    found = json.loads(run("radius", *SMALL, "--data", "random:3", "--json").stdout)
    assert (len(found["radius"]), found["labels"], found["certified_accuracy"]) == (3, None, None)
    done = run("radius", *SMALL, "--data", "random:3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "certified accuracy" not in done.stdout


def test_an_input_bound_gives_assumed_values_their_numbers(tmp_path):
    builder = ft.Builder("gated")
    x = builder.add("x", layers.Input((3,)))
    product = builder.add("product", layers.Multiply(), x, builder.add("gate", layers.Sigmoid(), x))
    builder.add("head", layers.Linear(3, 2), product)
    path = tmp_path / "gated.json"
    builder.graph().save(path)
    done = run("bound", path)
    assert done.returncode == 2
    assert "--input-bound" in done.stderr
    found = json.loads(run("bound", path, "--input-bound", 2, "--json").stdout)
    assert found["bound"]["domain"] == "inputs with entries at most 2.0 in absolute value"
    assert len(found["assumptions"]) == 1
    done = run("verify", path, "--data", "random:4", "--starts", 2, "--steps", 2, "--input-bound", 100)
    assert done.returncode == 0, done.stderr
    assert "inputs with entries at most 100.0" in " ".join(done.stdout.split())
    done = run("verify", path, "--data", "random:4", "--input-bound", 0.001)
    assert done.returncode == 2
    assert "outside of the domain" in done.stderr


def test_a_number_of_inputs_draws_the_same_ones_as_the_default_of_that_number():
    target = resolve("zoo:digits_mlp", None, None)
    default, asked = (target.inputs(None, n, 3, at_most=64) for n in (None, 64))
    assert default.description == asked.description == "64 of digits:test"
    assert default.inputs.equal(asked.inputs)


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fimtheory", "--version"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert (left.value.code, capsys.readouterr().out) == (0, f"fimtheory {ft.__version__}\n")


def test_derive_saves_a_derivation_that_check_accepts_and_refuses_when_edited(tmp_path):
    path = tmp_path / "proof.json"
    assert run("derive", "ResNet", "--save", path).returncode == 0
    assert run("check", path).returncode == 0
    path.write_text(path.read_text().replace('"<="', '"=="', 1))
    refused = run("check", path, "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["results"][0]["holds"] is False


def test_rules_and_families_list_what_is_registered():
    rules = json.loads(run("rules", "--json").stdout)["rules"]
    linear = next(entry for entry in rules if entry["layer"] == ["Linear"])
    assert {"gain", "jacobian variance", "shape", "forward", "parameters"} <= set(linear["quantities"])
    targets = {entry["name"] for entry in json.loads(run("families", "--json").stdout)["targets"]}
    assert {"resnet18", "vit_b_16", "ResNet", "zoo:digits_resnet"} <= targets


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("derive", "nosuch"), "no family"),
        (("derive", "zoo:nosuch"), "no zoo model"),
        (("derive", "resnet18", "--input", "3,x"), "--input"),
        (("derive", "resnet18", "--classes", "1"), "K = 1"),
        (("derive", "resnet18", "--classes", "0"), "0"),
        (("bound", "ResNet"), "symbolic"),
        (("derive", "missing.json"), "missing.json"),
        (("derive", "model.onnx"), "no such file"),
        (("verify", "mlp", "--input", "1,4,4", "--classes", "3", "--data", "npz:nowhere.npz"), "nowhere.npz"),
        (("bound", "mlp", "--weights", "nowhere.safetensors"), "nowhere.safetensors"),
        (("bound", "mlp", "--device", "tpu"), "tpu"),
        (("derive", "mlp", "--token-variance", "-1"), "the token variance must be"),
        (("derive", "--bogus"), "bogus"),
        (("derive", "resnet18", "--save", "proof"), ".json"),
        (("derive", "MLP", "--save", "."), ".json"),
        (("derive", "MLP", "--save", "/"), ".json"),
        (("derive", "MLP", "--save", ""), ".json"),
        (("derive", "MLP", "--save", "no/such/folder.json"), "no/such is none"),
        (("verify", *SMALL, "--starts", "0"), "--starts"),
        (("verify", *SMALL, "--starts", "1000000000"), "--starts"),
        (("verify", *SMALL, "--steps", "-1"), "--steps"),
        (("verify", *SMALL, "--n", "0"), "--n"),
        (("verify", *SMALL, "--seed", "-1"), "--seed"),
        (("report", "vgg16", "--out", "/dev/null/reports"), "not a directory"),
        (("report", *PROOFS, "--weights", "w.safetensors"), "leave the options about a model out"),
        (("report", *PROOFS, "--token-variance", "0.1"), "leave --token-variance out"),
        (("estimate", "mlp", "--method", "guess"), "guess"),
        (("estimate", *SMALL, "--method", "exact", "--level", "0.9"), "method 'exact' has no level"),
        (("estimate", *SMALL, "--summary-level", "1"), "--summary-level 1.0: expected a number between 0 and 1"),
        (("radius", *SMALL, "--plot", "curve.pdf"), ".svg"),
        (("radius", *SMALL, "--plot", "no/such/curve.svg"), "no/such is no folder"),
        (("radius", *SMALL, "--plot", "curve.svg"), "labels"),
        (("radius", *SMALL, "--n", "0"), "--n"),
        (("radius", "ResNet"), "symbolic"),
    ],
)
def test_bad_input_exits_2_with_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["fimtheory", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (2, "")
    assert len(printed.err.strip().splitlines()) == 1
    assert words in printed.err
    assert list(tmp_path.iterdir()) == []


def test_a_saved_graph_is_a_target_and_a_truncated_one_is_refused(tmp_path):
    builder = ft.Builder("own")
    x = builder.add("x", layers.Input((3,)))
    x = builder.add("50%_of #1 & {more}", layers.Linear(3, 4), x)
    builder.add("head", layers.Linear(4, 2), x)
    path = tmp_path / "own.json"
    builder.graph().save(path)
    assert run("bound", path).returncode == 0
    path.write_text(path.read_text()[:-40])
    done = run("bound", path)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes"), 2),
        (RuntimeError("something that fimtheory did not foresee"), 3),
    ],
)
def test_a_lack_of_memory_is_bad_input_and_a_fault_of_the_program_is_neither_that_nor_a_violation(
    error, status, monkeypatch, capsys
):
    def broken(**options):
        raise error

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == status
    assert ("Traceback" in capsys.readouterr().err) == (status == 3)


def test_no_progress_is_drawn_where_stderr_is_no_terminal():
    done = run("verify", *SMALL, "--data", "random:4", "--starts", 4, "--steps", 3)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_semidefinite_bound_is_the_last_rung():
    usual, made = (json.loads(run("bound", "zoo:digits_mlp", *more, "--json").stdout) for more in ((), ("--sdp",)))
    assert [rung["rung"] for rung in made["ladder"]] == [
        *(rung["rung"] for rung in usual["ladder"]),
        "semidefinite programme",
    ]
    assert made["bound"]["log10"] == made["ladder"][-1]["log10"] < usual["bound"]["log10"]
    refused = run("bound", "zoo:digits_vit", "--sdp")
    assert refused.returncode == 2
    assert "no semidefinite bound for layer type" in refused.stderr


def test_a_ladder_descends_from_what_is_usually_reported():
    made = json.loads(run("bound", "zoo:digits_mlp", "--json").stdout)
    rungs = [made["baseline"]["log10"], *(rung["log10"] for rung in made["ladder"])]
    assert rungs == sorted(rungs, reverse=True)
    assert rungs[-1] == made["bound"]["log10"] < rungs[0]
    shown = run("bound", "zoo:digits_mlp", "--ladder").stdout
    assert all(rung["rung"] in shown for rung in made["ladder"])


def test_lam_is_bounded_around_inputs():
    made = json.loads(
        run("bound", "zoo:digits_mlp", "--around", "digits:test", "--eps", "0.05", "--n", "3", "--json").stdout
    )
    bounds, there = made["bound"]["lam"], made["at_centre"]["lam"]
    assert made["bound"]["status"] == "certified"
    assert made["norm"] == "l2"
    assert all(0 < lam <= bound <= 10 * lam for lam, bound in zip(there, bounds, strict=True))
    shown = run(
        "bound", "zoo:digits_mlp", "--around", "digits:test", "--eps", "0.01", "--n", "2", "--norm", "linf"
    ).stdout
    assert "within 0.01 (linf) of 2 inputs" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--eps", "0.1"), "--around DATA"),
        (("--around", "digits:test"), "--eps E"),
        (("--around", "digits:test", "--eps", "0.1", "--norm", "l1"), "expected one of l2, linf"),
        (("--around", "digits:test", "--eps", "0.1", "--ladder"), "leave out --around"),
        (("--around", "digits:test", "--eps", "0.1", "--sdp"), "leave out --around"),
        (("--around", "digits:test", "--eps", "inf"), "expected a finite number"),
    ],
)
def test_local_bounds_refuse_what_they_cannot_use(options, says):
    made = run("bound", "zoo:digits_mlp", *options)
    assert made.returncode == 2
    assert says in made.stderr
    assert made.stdout == ""


def test_theorems_in_python_files(tmp_path):
    derivations = Path(__file__).parents[1] / "derivations"
    found = json.loads(run("check", derivations, "--json").stdout)["results"]
    assert [entry["target"] for entry in found] == [str(path) for path in sorted(derivations.glob("*.py"))]
    assert all(entry["holds"] for entry in found)

    assert run("derive", derivations / "t5_head.py").stdout.startswith("Theorem T5 (Linear head)")
    refused = run("derive", derivations / "vgg.py", "--classes", 3)
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1), refused.stderr

    false = (derivations / "c2_sum.py").read_text().replace("1 + Norm(A))", "Norm(A))")
    (tmp_path / "false.py").write_text(false)
    refused = run("check", tmp_path)
    assert refused.returncode == 1
    assert "REFUSED" in refused.stdout
