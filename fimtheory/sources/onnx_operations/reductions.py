"""Reductions, softmax and normalisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fimtheory.errors import SourceError
from fimtheory.sources.onnx_operations.registry import Call, operation


def _reduced(call: Call, function: Callable[..., Tensor]) -> Tensor:
    """Reduce over axes: all of them where none are named."""
    value, axes, keep = call[0], call.axes(), bool(call.attribute("keepdims", 1))
    if not axes:
        if call.attribute("noop_with_empty_axes", 0):
            raise SourceError("reduces over no axes; that is not supported")
        axes = list(range(value.dim()))
    call.ignore("noop_with_empty_axes")
    return function(value, axes, keep)


@operation("ReduceMean")
def reduce_mean(call: Call) -> Tensor:
    """Mean."""
    return _reduced(call, lambda x, axes, keep: torch.mean(x, axes, keepdim=keep))


@operation("ReduceSum")
def reduce_sum(call: Call) -> Tensor:
    """Sum."""
    return _reduced(call, lambda x, axes, keep: torch.sum(x, axes, keepdim=keep))


@operation("ReduceMax")
def reduce_max(call: Call) -> Tensor:
    """Largest entry."""
    return _reduced(call, lambda x, axes, keep: torch.amax(x, axes, keepdim=keep))


@operation("ReduceMin")
def reduce_min(call: Call) -> Tensor:
    """Smallest entry."""
    return _reduced(call, lambda x, axes, keep: torch.amin(x, axes, keepdim=keep))


@operation("ReduceL2")
def reduce_l2(call: Call) -> Tensor:
    """Euclidean norm."""
    return _reduced(call, lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep))


@operation("ReduceLogSumExp")
def reduce_log_sum_exp(call: Call) -> Tensor:
    """Logarithm of the sum of exponentials."""
    call.ignore("stash_type")
    return _reduced(call, lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep))


@operation("ReduceProd")
def reduce_prod(call: Call) -> Tensor:
    """Product; over one axis, or of all entries."""

    def product(value: Tensor, axes: list[int], keep: bool) -> Tensor:
        for axis in sorted((axis % value.dim() for axis in axes), reverse=True):
            value = torch.prod(value, axis, keepdim=keep)
        return value

    return _reduced(call, product)


@operation("Softmax")
def softmax(call: Call) -> Tensor:
    """Softmax along an axis; before version 13 over all dimensions from it on."""
    return _along(call, functional.softmax)


@operation("LogSoftmax")
def log_softmax(call: Call) -> Tensor:
    """Logarithm of softmax."""
    return _along(call, functional.log_softmax)


def _along(call: Call, function: Callable[..., Tensor]) -> Tensor:
    value = call[0]
    if call.opset >= 13:
        return function(value, dim=call.attribute("axis", -1))
    axis = call.attribute("axis", 1) % value.dim()
    if axis == value.dim() - 1:
        return function(value, dim=-1)
    return function(value.flatten(axis), dim=-1).reshape(value.shape)


# ---- normalisation ----------------------------------------------------------------------------------------------


@operation("BatchNormalization")
def batch_normalization(call: Call) -> Tensor:
    """Batch norm with its stored statistics."""
    call.ignore("momentum")
    if call.attribute("training_mode", 0):
        raise SourceError("batch norm in training mode; export the model in evaluation mode")
    value, scale, bias, mean, variance = (call[place] for place in range(5))
    return functional.batch_norm(
        value, mean, variance, scale, bias, training=False, eps=call.attribute("epsilon", 1e-5)
    )


@operation("InstanceNormalization")
def instance_normalization(call: Call) -> Tensor:
    """Normalisation of each channel: group norm with one channel a group."""
    value = call[0]
    return functional.group_norm(value, value.shape[1], call[1], call[2], call.attribute("epsilon", 1e-5))


@operation("GroupNormalization")
def group_normalization(call: Call) -> Tensor:
    """Normalisation of groups of channels."""
    call.ignore("stash_type")
    eps = call.attribute("epsilon", 1e-5)
    return functional.group_norm(call[0], call.attribute("num_groups"), call[1], call[2], eps)


@operation("LayerNormalization")
def layer_normalization(call: Call) -> Tensor:
    """Normalisation over the dimensions from ``axis`` on."""
    call.ignore("stash_type")
    value = call[0]
    sizes = list(value.shape[call.attribute("axis", -1) :])
    scale, bias = _repeated(call[1], sizes), call.get(2)
    bias = bias if bias is None else _repeated(bias, sizes)
    return functional.layer_norm(value, sizes, scale, bias, call.attribute("epsilon", 1e-5))


def _repeated(value: Tensor, sizes: list[int]) -> Tensor:
    return value if list(value.shape) == sizes else value.expand(sizes)


@operation("RMSNormalization")
def rms_normalization(call: Call) -> Tensor:
    """Division by the root mean square over the dimensions from ``axis`` on."""
    call.ignore("stash_type")
    value = call[0]
    sizes = list(value.shape[call.attribute("axis", -1) :])
    return functional.rms_norm(value, sizes, _repeated(call[1], sizes), call.attribute("epsilon", 1e-5))


@operation("LRN")
def local_response_normalization(call: Call) -> Tensor:
    """Local response normalisation across channels."""
    size = call.attribute("size")
    if size % 2 == 0:
        raise SourceError(f"local response normalisation over {size} channels; expected an odd number")
    alpha, beta = call.attribute("alpha", 1e-4), call.attribute("beta", 0.75)
    return functional.local_response_norm(call[0], size, alpha, beta, call.attribute("bias", 1.0))


# ---- pooling of everything --------------------------------------------------------------------------------------


@operation("GlobalAveragePool")
def global_average_pool(call: Call) -> Tensor:
    """Mean over space."""
    value = call[0]
    return torch.mean(value, tuple(range(2, value.dim())), keepdim=True)


@operation("GlobalMaxPool")
def global_max_pool(call: Call) -> Tensor:
    """Largest entry over space."""
    value = call[0]
    return torch.amax(value, tuple(range(2, value.dim())), keepdim=True)
