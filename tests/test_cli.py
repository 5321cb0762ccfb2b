"""The command line as a user types it: exit statuses, JSON on stdout, one line for bad input, no partial files."""

import json
import subprocess
import sys

import pytest

import fimtheory as ft
from fimtheory import layers

SMALL = ("mlp", "--input", "1,4,4", "--classes", "3")


def run(*arguments, cwd=None):
    command = [sys.executable, "-c", "from fimtheory.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, check=False)


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


def test_bound_and_estimate_agree_that_nothing_exceeds_the_bound():
    bound = json.loads(run("bound", *SMALL, "--seed", 3, "--json").stdout)
    found = json.loads(run("estimate", *SMALL, "--seed", 3, "--data", "random:5", "--json").stdout)
    assert {"lam", "lower", "upper", "level", "method", "status", "evaluations", "seconds"} <= set(found)
    assert len(found["lam"]) == 5
    assert 0 < max(found["lam"]) <= bound["bound"]["value"]
    shares = [step["decades"] for step in bound["steps"] if step["decades"] is not None]
    assert sum(shares) == pytest.approx(bound["bound"]["log10"], abs=1e-9)


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
        (("derive", "model.onnx"), "not part of this version"),
        (("verify", "mlp", "--input", "1,4,4", "--classes", "3", "--data", "npz:nowhere.npz"), "nowhere.npz"),
        (("bound", "mlp", "--weights", "nowhere.safetensors"), "nowhere.safetensors"),
        (("bound", "mlp", "--device", "tpu"), "tpu"),
        (("derive", "mlp", "--token-variance", "-1"), "token_variance"),
        (("derive", "--bogus"), "bogus"),
        (("estimate", "mlp", "--method", "guess"), "guess"),
    ],
)
def test_bad_input_exits_2_with_one_line(arguments, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
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


def test_nothing_is_left_behind_when_a_file_cannot_be_written(tmp_path):
    done = run("derive", "MLP", "--save", tmp_path / "no" / "such" / "folder.json")
    assert done.returncode == 2
    assert list(tmp_path.iterdir()) == []
