"""The zoo: its trained models against their cards, and the training that made them."""

import sys
from pathlib import Path

import pytest
import torch
from rich.progress import Progress
from safetensors.torch import load_file
from torch import nn

from fimtheory import layers, zoo
from fimtheory.data import Data, load_data
from fimtheory.errors import TargetError, WeightsError
from fimtheory.graph import Builder
from fimtheory.instantiation import GraphModule, graph_parameters, instantiate, random_weights
from fimtheory.zoo import train as training
from fimtheory.zoo.attack import pgd

FOLDER = Path(zoo.__file__).parent
TEST = load_data("digits:test", (1, 8, 8))


# ---- what is shipped --------------------------------------------------------------------------------------------


def test_ten_models():
    kinds = ("mlp", "vgg", "resnet", "densenet", "vit")
    assert zoo.names() == tuple(f"digits_{kind}{suffix}" for kind in kinds for suffix in ("", "_adv"))
    files = list(FOLDER.glob("*.safetensors"))
    assert {file.stem for file in files} == set(zoo.names()) == {file.stem for file in FOLDER.glob("*.json")}
    assert sum(file.stat().st_size for file in files) < 5e6


@pytest.mark.parametrize("name", zoo.names())
def test_accuracies_on_the_card_are_those_of_the_model(name):
    card, model = zoo.card(name), zoo.load(name)
    assert training.accuracy(model, TEST) == pytest.approx(card["test_accuracy"], abs=1e-3)
    assert card["test_accuracy"] >= 0.95
    robust = training.robust_accuracy(model, TEST, steps=10)  # a quarter of the card's
    assert -0.01 < robust - card["test_robust_accuracy"] < 0.05
    assert card["test_images"] == len(TEST)
    assert card["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", zoo.names()[::2])
def test_adversarial_training_made_the_model_more_robust(name):
    normal, adversarial = zoo.load(name), zoo.load(f"{name}_adv")
    some = Data(TEST.inputs[::2], TEST.labels[::2], "")
    radii = (training.EPSILON / 2, training.EPSILON)
    accuracies = [
        [training.accuracy(m, some), *(training.robust_accuracy(m, some, epsilon=e, steps=5) for e in radii)]
        for m in (normal, adversarial)
    ]
    assert all(a[0] > a[1] > a[2] for a in accuracies)
    assert accuracies[1][1] > accuracies[0][1]
    assert accuracies[1][2] > accuracies[0][2] + 0.1


@pytest.mark.parametrize("name", zoo.names())
def test_weights_have_exactly_the_tensors_of_the_graph(name):
    expected = graph_parameters(zoo.graph(name))
    stored = load_file(FOLDER / f"{name}.safetensors")
    assert {key: tuple(t.shape) for key, t in stored.items()} == {key: p.shape for key, p in expected.items()}
    assert zoo.graph(name).name == name


def test_unknown_models():
    for function in (zoo.graph, zoo.load, zoo.card):
        with pytest.raises(TargetError, match="no zoo model 'digits_lenet'; there are digits_mlp, digits_mlp_adv"):
            function("digits_lenet")


def test_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    with pytest.raises(WeightsError, match=r"digits_mlp\.safetensors: cannot be read"):
        zoo.load("digits_mlp")


# ---- how it was made --------------------------------------------------------------------------------------------


def test_training_mode_is_that_of_torch():
    """One training step of a graph and of the same torch modules: outputs, gradients and batch statistics."""
    builder = Builder("small")
    x = builder.add("0", layers.Conv2d(1, 3, (3, 3)), builder.add("x", layers.Input((1, 8, 8))))
    x = builder.add("1", layers.BatchNorm2d(3, 1e-4), x)
    x = builder.add("2", layers.ReLU(), x)
    x = builder.add("3", layers.Flatten(), x)
    builder.add("4", layers.Linear(108, 10), x)
    weights = random_weights(builder.graph(), 1)
    ours = training.TrainableModule(builder.graph(), weights)
    theirs = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, 1e-4), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))
    theirs.load_state_dict(weights)
    assert not ours.training
    inputs, labels = TEST.inputs[:50], TEST.labels[:50]
    for mode in (True, False):
        outputs = [model.train(mode)(inputs) for model in (ours, theirs)]
        torch.testing.assert_close(*outputs)
        for model, output in zip((ours, theirs), outputs, strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(output, labels).backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for (key, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, msg=key)
    assert ours.state_dict()["1.num_batches_tracked"] == 1
    torch.testing.assert_close(GraphModule(ours.graph, ours.state_dict())(inputs), theirs(inputs))


def run(data, seed, adversarial, epochs):
    with Progress(disable=True) as progress:
        graph = zoo.graph("digits_resnet")
        return training.train(graph, data, adversarial=adversarial, seed=seed, epochs=epochs, progress=progress)


def test_seed_determines_the_weights():
    some = Data(TEST.inputs[:100], TEST.labels[:100], "")
    first, again, other = (run(some, seed, adversarial=True, epochs=1).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_training_learns():
    before = training.accuracy(instantiate(zoo.graph("digits_resnet"), seed=0), TEST)
    after = training.accuracy(run(TEST, 0, adversarial=False, epochs=4), TEST)
    assert before < 0.3
    assert after > 0.8


def test_attack_finds_the_worst_point_of_a_linear_model():
    """Of logits (w x, 0) the worst change of length epsilon is -epsilon w / ||w||, if the pixel range allows it."""
    model = nn.Linear(20, 2)
    model.weight.data[1] = 0
    inputs, labels = torch.full((30, 20), 0.5), torch.zeros(30, dtype=torch.int64)
    attacked = pgd(model, inputs, labels, epsilon=0.4, steps=40, generator=torch.Generator().manual_seed(0))
    change = attacked - inputs
    torch.testing.assert_close(change.norm(dim=1), torch.full((30,), 0.4))
    assert nn.functional.cosine_similarity(change, -model.weight[0].detach()).min() > 0.95


def test_attack_stays_in_the_ball_and_in_the_pixel_range():
    model = zoo.load("digits_vit")
    generator = torch.Generator().manual_seed(0)
    for steps in (0, 1, 7):
        attacked = pgd(model, TEST.inputs, TEST.labels, epsilon=1.5, steps=steps, generator=generator)
        lengths = (attacked - TEST.inputs).flatten(1).norm(dim=1)
        assert 0.2 < lengths.max() <= 1.5 + 1e-5
        assert attacked.min() >= 0
        assert attacked.max() <= 1
        assert not attacked.requires_grad


def test_command_line_writes_weights_and_cards(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "EPOCHS", 1)
    monkeypatch.setattr(sys, "argv", ["train", "digits_mlp", "--out", str(tmp_path / "new")])
    training.main()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["digits_mlp.json", "digits_mlp.safetensors"]
    assert "digits_mlp: test accuracy" in capsys.readouterr().out
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path / "new")
    assert zoo.card("digits_mlp")["epochs"] == 1
    assert training.accuracy(zoo.load("digits_mlp"), TEST) == pytest.approx(
        zoo.card("digits_mlp")["test_accuracy"], abs=1e-4
    )


def test_command_line_refuses_unknown_names(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "digits_lenet"])
    with pytest.raises(SystemExit):
        training.main()
    assert "no such model: digits_lenet" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_mlp", "digits_resnet"])
def test_recipe_gives_the_accuracies_on_the_card(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", name, "--out", str(tmp_path)])
    training.main()
    expected = zoo.card(name)
    monkeypatch.setattr(zoo, "_FOLDER", tmp_path)
    made = zoo.card(name)
    assert made["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.02)
    assert made["test_robust_accuracy"] == pytest.approx(expected["test_robust_accuracy"], abs=0.1)
