"""The steps of one lemma: bound the gain and the Jacobian's growth of a block, node by node."""

from __future__ import annotations

import sympy

from fimtheory import inference
from fimtheory.centring import branch_at, centred_claim
from fimtheory.chains import chain_at, chain_claim
from fimtheory.claims import VALUE_BOUNDS, Claim, Quantity
from fimtheory.derivation import Step
from fimtheory.graph import LayerGraph
from fimtheory.layers import Add, Concat
from fimtheory.regions import elementary
from fimtheory.registry import Site, find_rule, require_rule
from fimtheory.symmetry import flips

__all__ = ["BlockSteps"]

_LONGEST_RUN = 4


class BlockSteps:
    """Derives the steps of one block.

    ``body`` is the block as a graph of its own; every node is bounded as a function of the body's input, so nothing
    but single entry is needed of its structure.  With ``fold``, runs of layers that have a rule of their own, and
    chains, are taken as one map.
    """

    def __init__(
        self,
        body: LayerGraph,
        letter: str,
        index: sympy.Symbol | None,
        token_variance: sympy.Expr | None,
        *,
        fold: bool,
    ) -> None:
        self._body = body
        self._letter = letter
        self._index = index
        self._token_variance = token_variance
        self._fold = fold
        self._flips = flips(body)
        self._found: dict[tuple[Quantity, str, str], int] = {}
        self._entry = body.input
        self.steps: list[Step] = []

    def conclude(self, quantity: Quantity) -> int:
        """Bound ``quantity`` of the whole block and return the position of the concluding step.

        Every region between separating nodes is bounded as a function of its own entry, so that the conclusion is a
        product over regions.
        """
        inside = self._inside_runs(quantity)
        done: int | None = None
        for entry, members in elementary(self._body):
            end = members[-1]
            if end in inside:
                continue
            folded = self._run_ending_at(end, quantity)
            self._entry = entry if len(members) > 1 else self._body.inputs(folded[0])[0]
            for node in members:
                if node not in inside:
                    self._found[quantity, self._entry, node] = self._bound(quantity, node)
            own = self._found[quantity, self._entry, end]
            done = own if done is None else self._compose(quantity, end, "series", (done, own))
        assert done is not None, "a block has at least one layer"
        return done

    def _inside_runs(self, quantity: Quantity) -> set[str]:
        """Return the nodes that a run passes; runs are found from the last, and what one passes ends no other."""
        inside: set[str] = set()
        for node in reversed(self._body.order[1:]):
            if node not in inside:
                inside.update(self._run_ending_at(node, quantity)[:-1])
        return inside

    def _run_ending_at(self, node: str, quantity: Quantity) -> tuple[str, ...]:
        """Return the chain that ends at ``node``, else the longest run of layers that has a rule of its own."""
        chain = self._chain_ending_at(node, quantity)
        if chain is not None:
            return chain
        run = longest = (node,)
        while self._fold and quantity is Quantity.GAIN and len(run) < _LONGEST_RUN:
            sources = self._body.inputs(run[0])
            if len(sources) != 1 or sources[0] == self._body.input or self._body.digraph.out_degree(sources[0]) != 1:
                break
            run = (sources[0], *run)
            if find_rule(tuple(type(self._body.layer(m)) for m in run), quantity) is not None:
                longest = run
        return longest

    def _chain_ending_at(self, node: str, quantity: Quantity) -> tuple[str, ...] | None:
        return chain_at(self._body, node) if self._fold and quantity is Quantity.GAIN else None

    def _bound(self, quantity: Quantity, node: str) -> int:
        layer = self._body.layer(node)
        if isinstance(layer, Add | Concat):
            return self._join(quantity, node)
        if type(layer).arity != 1:
            return self._joint_step(quantity, node)
        run = self._run_ending_at(node, quantity)
        source = self._body.inputs(run[0])[0]
        own = self._layer_step(quantity, run) if self._chain_ending_at(node, quantity) is None else self._chain(run)
        if source == self._entry:
            return own
        return self._compose(quantity, node, "series", (self._found[quantity, self._entry, source], own))

    def _layer_step(self, quantity: Quantity, run: tuple[str, ...]) -> int:
        """Append the step that applies a layer rule to a run of nodes."""
        layers = tuple(self._body.layer(m) for m in run)
        found = find_rule(tuple(type(each) for each in layers), quantity) or require_rule(layers[0], quantity, run[0])
        (source,) = self._body.inputs(run[0])
        premises = tuple(self._premise(need.quantity, source) for need in found.needs)
        site = Site(
            layers=layers,
            nodes=run,
            inputs=self._body.input_shapes(run[0]),
            output=self._body.shapes[run[-1]],
            letter=self._letter,
            index=self._index,
            symmetric=bool(self._flips[source]),
            premises=tuple(self.steps[p].name for p in premises),
            token_variance=self._token_variance,
        )
        start = run[-1] if quantity in VALUE_BOUNDS else source
        return self._append(quantity, start, run[-1], found.name, premises, found.claim(site), scope="layer")

    def _chain(self, nodes: tuple[str, ...]) -> int:
        """Append the step that bounds a chain."""
        claim = chain_claim(self._body, nodes, self._letter, self._index, self._token_variance)
        (source,) = self._body.inputs(nodes[0])
        return self._append(Quantity.GAIN, source, nodes[-1], "chain", (), claim, scope="layer")

    def _joint_step(self, quantity: Quantity, node: str) -> int:
        """Append the step that applies the rule of a layer with several inputs."""
        layer, sources = self._body.layer(node), self._body.inputs(node)
        found = require_rule(layer, quantity, node)
        gains = self._of_inputs(quantity, node)
        values = tuple(self._premise(need.quantity, sources[need.slot]) for need in found.needs)
        site = Site(
            layers=(layer,),
            nodes=(node,),
            inputs=self._body.input_shapes(node),
            output=self._body.shapes[node],
            letter=self._letter,
            index=self._index,
            premises=tuple(self.steps[p].name for p in values),
            gains=tuple(self.steps[p].name for p in gains),
            token_variance=self._token_variance,
        )
        return self._append(quantity, self._entry, node, found.name, (*gains, *values), found.claim(site))

    def _premise(self, need: Quantity, node: str) -> int:
        """Return the position of a step that bounds ``need`` at ``node``, by rule or else by assumption."""
        if (need, node, node) not in self._found:
            kind = type(self._body.layer(node))
            if node != self._body.input and kind.arity == 1 and find_rule((kind,), need) is not None:
                self._found[need, node, node] = self._layer_step(need, (node,))
            else:
                claim = inference.assumed(need, self._letter, self._index, node)
                self._found[need, node, node] = self._append(need, node, node, "assumption", (), claim, scope="layer")
        return self._found[need, node, node]

    def _of_inputs(self, quantity: Quantity, node: str) -> tuple[int, ...]:
        """Positions of the steps that bound ``quantity`` from the region's entry to each input of ``node``."""
        return tuple(
            self._identity(quantity) if source == self._entry else self._found[quantity, self._entry, source]
            for source in self._body.inputs(node)
        )

    def _join(self, quantity: Quantity, node: str) -> int:
        premises = self._of_inputs(quantity, node)
        rule = inference.join_rule(self._body, self._flips, quantity, node)
        branch = branch_at(self._body, node) if self._fold and quantity is Quantity.GAIN else None
        if branch is None or branch.entry != self._entry:
            return self._compose(quantity, node, rule, premises)
        claim = centred_claim(self._body, node, branch, self._letter, self._index)
        usual = self._compose(quantity, node, rule, premises, scope="sum")
        centred = self._append(quantity, self._entry, node, "centred residual", (), claim, scope="centred")
        return self._compose(quantity, node, "minimum", (usual, centred))

    def _identity(self, quantity: Quantity) -> int:
        key = quantity, self._entry, self._entry
        if key not in self._found:
            claim = inference.composed(quantity, sympy.Integer(1))
            self._found[key] = self._append(quantity, self._entry, self._entry, "identity", (), claim)
        return self._found[key]

    def _compose(
        self, quantity: Quantity, node: str, rule: str, premises: tuple[int, ...], scope: str | None = None
    ) -> int:
        combine = inference.COMPOSITIONS[quantity, rule]
        claim = inference.composed(quantity, combine([self.steps[p].name for p in premises]))
        return self._append(quantity, self.steps[premises[0]].source, node, rule, premises, claim, scope=scope)

    def _append(
        self,
        quantity: Quantity,
        source: str,
        target: str,
        rule: str,
        premises: tuple[int, ...],
        claim: Claim,
        *,
        scope: str | None = None,
    ) -> int:
        scope = scope or inference.scope_of(source, target, self._body.input)
        name = inference.step_name(quantity, scope, self._letter, target, self._index)
        self.steps.append(Step(name, quantity, source, target, rule, premises, claim))
        return len(self.steps) - 1
