"""Train the zoo: ``python -m fimtheory.zoo.train [--out FOLDER] [NAME ...]``.

One recipe for all models: AdamW with a one-cycle learning rate on the training digits in [0, 1].  Adversarial
training replaces each batch by l2 PGD examples of the current model.  On one machine and one version of torch the
seed determines the weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from fimtheory import zoo
from fimtheory.data import Data, load_data
from fimtheory.files import write_json
from fimtheory.forward import Forward
from fimtheory.graph import LayerGraph
from fimtheory.instantiation import GraphModule, graph_parameters, random_weights
from fimtheory.layers import BatchNorm2d
from fimtheory.weights import write_weights
from fimtheory.zoo.attack import pgd

__all__ = ["EPSILON", "TrainableModule", "accuracy", "robust_accuracy", "train"]

SEED = 0
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.3
EPSILON = 0.5
"""Radius of the l2 ball of adversarial training and of the robust accuracy."""
TRAINING_STEPS = 5
TEST_STEPS = 40


class TrainableModule(GraphModule):
    """A graph that has a training mode, in which batch norm uses and records the statistics of the batch."""

    def train(self, mode: bool = True) -> TrainableModule:
        """Choose between training and evaluation."""
        nn.Module.train(self, mode)
        return self

    def forward_of(self, node: str) -> Forward:
        """Return the function of a node, in both modes."""
        layer, evaluated = self.graph.layer(node), super().forward_of(node)
        if not isinstance(layer, BatchNorm2d):
            return evaluated

        def forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            if not self.training:
                return evaluated(tensors, x)
            tensors["num_batches_tracked"].add_(1)
            mean, variance = tensors["running_mean"], tensors["running_var"]
            return F.batch_norm(x, mean, variance, tensors["weight"], tensors["bias"], training=True, eps=layer.eps)

        return forward


def train(
    graph: LayerGraph, data: Data, *, adversarial: bool, seed: int, epochs: int, progress: Progress
) -> GraphModule:
    """Return a trained model of ``graph``; progress shows one tick per epoch."""
    generator = torch.Generator().manual_seed(seed)
    model = TrainableModule(graph, random_weights(graph, seed))
    inputs, labels = data.inputs, _labels(data)
    batches = -(-len(data) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * batches)
    task = progress.add_task(graph.name, total=epochs)
    for _ in range(epochs):
        for chosen in torch.randperm(len(data), generator=generator).split(BATCH):
            x, y = inputs[chosen], labels[chosen]
            if adversarial:
                x = pgd(model.eval(), x, y, epsilon=EPSILON, steps=TRAINING_STEPS, generator=generator)
            loss = F.cross_entropy(model.train()(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        progress.advance(task)
    return GraphModule(graph, {key: tensor.detach() for key, tensor in model.state_dict().items()})


@torch.no_grad()
def accuracy(model: nn.Module, data: Data) -> float:
    """Return the share of inputs that ``model`` classifies as labelled."""
    return (model(data.inputs).argmax(1) == _labels(data)).double().mean().item()


def robust_accuracy(model: nn.Module, data: Data, *, epsilon: float = EPSILON, steps: int = TEST_STEPS) -> float:
    """Return the accuracy on PGD examples, which is an upper bound on the accuracy under the best attack."""
    generator = torch.Generator().manual_seed(SEED)
    labels = _labels(data)
    attacked = pgd(model, data.inputs, labels, epsilon=epsilon, steps=steps, generator=generator)
    return accuracy(model, Data(attacked, labels, ""))


def _labels(data: Data) -> Tensor:
    assert data.labels is not None
    return data.labels


def _card(name: str, model: GraphModule, test: Data, trained_on: int) -> dict[str, object]:
    tensors = graph_parameters(model.graph)
    return {
        "name": name,
        "data": "scikit-learn digits, pixels / 16",
        "split": "test: every fifth image, starting with the first; training: the others",
        "training_images": trained_on,
        "test_images": len(test),
        "training": "adversarial" if name.endswith("_adv") else "normal",
        "seed": SEED,
        "epochs": EPOCHS,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY,
        "parameters": sum(p.numel() for p in model.parameters()),
        "tensors": len(tensors),
        "attack": {"norm": "l2", "epsilon": EPSILON, "training_steps": TRAINING_STEPS, "test_steps": TEST_STEPS},
        "test_accuracy": round(accuracy(model, test), 4),
        "test_robust_accuracy": round(robust_accuracy(model, test), 4),
        "torch": torch.__version__,
    }


def main() -> None:
    """Train the models named on the command line, or all, and write weights and cards."""
    parser = argparse.ArgumentParser(prog="python -m fimtheory.zoo.train", description="Train the models of the zoo.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(zoo.names())}; default: all")
    parser.add_argument("--out", type=Path, default=Path(zoo.__file__).parent, help="where weights and cards go")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(zoo.names()))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    options.out.mkdir(parents=True, exist_ok=True)
    training, test = (load_data(f"digits:{part}", (1, 8, 8)) for part in ("train", "test"))
    with Progress() as progress:
        for name in options.names or zoo.names():
            adversarial = name.endswith("_adv")
            model = train(
                zoo.graph(name), training, adversarial=adversarial, seed=SEED, epochs=EPOCHS, progress=progress
            )
            card = _card(name, model, test, len(training))
            write_weights(model.state_dict(), options.out / f"{name}.safetensors", {"card": json.dumps(card)})
            write_json(card, options.out / f"{name}.json")
            clean, robust = card["test_accuracy"], card["test_robust_accuracy"]
            progress.console.print(f"{name}: test accuracy {clean}, under attack {robust}")


if __name__ == "__main__":
    main()
