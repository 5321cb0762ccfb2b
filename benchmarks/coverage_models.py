"""Models of the coverage table: one small member of every family, with weights from a seed.

A model is named ``library:member``.  ``build`` returns it in evaluation mode with an example input; constants that a
fresh model holds in place of trained numbers (zero heads and biases, unit scales, statistics of batch norms) are drawn
from the seed, since a dropped bias would not be seen where the bias is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from fimtheory.sources.callables import torchvision_operators

__all__ = ["MODELS", "Model", "build", "torchvision_module"]

TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vit_b_16",
    "wide_resnet50_2",
)  # fmt: skip

LARGER = {"inception_v3": 299}
"""Sides of the images of torchvision's models that do not take 224."""

TIMM = (
    "resnet10t", "vit_tiny_patch16_224", "deit_tiny_patch16_224", "convnext_atto", "convnextv2_atto", "mixer_s16_224",
    "resmlp_12_224", "gmlp_ti16_224", "cait_xxs24_224", "xcit_nano_12_p16_224", "beit_base_patch16_224",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224", "levit_128s", "efficientformer_l1",
    "efficientformerv2_s0", "efficientnet_lite0", "mobilenetv3_small_050", "mobilenetv4_conv_small", "ghostnet_050",
    "ghostnetv2_100", "ghostnetv3_050", "hrnet_w18_small", "dla34", "dpn48b", "res2net50_26w_4s", "resnest14d",
    "skresnet18", "seresnet18", "ecaresnet26t", "resnetaa34d", "resnetblur18", "resnet50_gn", "nf_resnet26",
    "nf_regnet_b0", "dm_nfnet_f0", "resnetv2_18", "regnetx_002", "regnety_002", "repvgg_a0", "repghostnet_050",
    "repvit_m0_9", "fastvit_t8", "fasternet_t0", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050",
    "mobileone_s0", "poolformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18", "pvt_v2_b0",
    "twins_pcpvt_small", "twins_svt_small", "tnt_s_patch16_224", "visformer_tiny", "volo_d1_224", "coat_lite_tiny",
    "coatnet_nano_rw_224", "crossvit_tiny_240", "convit_tiny", "convmixer_768_32", "inception_next_atto", "lcnet_035",
    "lcnetv2_small", "tinynet_e", "mixnet_s", "semnasnet_050", "fbnetc_100", "hardcorenas_a", "cspresnet50",
    "cs3darknet_s", "cspnext_tiny", "darknet17", "ese_vovnet19b_dw", "vovnet39a", "xception41", "legacy_xception",
    "legacy_seresnet18", "inception_v4", "inception_resnet_v2", "selecsls42", "rexnet_100", "davit_tiny",
    "focalnet_tiny_srf", "gcvit_xxtiny", "maxvit_nano_rw_256", "mvitv2_tiny", "nest_tiny", "nextvit_small",
    "eva02_tiny_patch14_224", "vit_small_patch16_rope_224", "vit_relpos_small_patch16_224", "vit_tiny_r_s16_p8_224",
    "flexivit_small", "samvit_base_patch16", "vitamin_small_224", "naflexvit_base_patch16_gap", "hgnet_tiny",
    "hgnetv2_b0", "starnet_s050", "shvit_s1", "swiftformer_xs", "efficientvit_b0", "efficientvit_m0", "efficientvim_m1",
    "cpubone_nano", "lowformer_b0", "iformer_t", "mambaout_femto", "rdnet_tiny", "sequencer2d_s", "hiera_tiny_224",
    "pit_ti_224", "tiny_vit_5m_224", "tresnet_m", "csatv2", "gernet_s", "gcresnext26ts", "bat_resnext26ts",
    "botnet26t_256", "halonet26t", "lambda_resnet26t", "vgg11", "densenet121", "nasnetalarge", "pnasnet5large",
)  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Model:
    """A model of the table: how it is made, and its example input for one image or sentence."""

    make: Callable[[], nn.Module]
    example: Callable[[nn.Module], Any]
    arguments: Mapping[str, str] = field(default_factory=dict)


def build(name: str, seed: int = 0) -> tuple[nn.Module, Any, Mapping[str, str]]:
    """Return a model in evaluation mode, its example input, and the names of its input and its logits where needed."""
    torch.manual_seed(seed)
    model = MODELS[name]
    module = model.make().eval()
    _draw_constants(module)
    return module, model.example(module), model.arguments


@torch.no_grad()
def _draw_constants(module: nn.Module) -> None:
    """Draw what an untrained model holds constant, near where it is."""
    for parameter in module.parameters():
        if parameter.is_floating_point() and bool((parameter == parameter.flatten()[0]).all()):
            parameter += (0.1 if parameter.squeeze().dim() < 2 else 0.02) * torch.randn(parameter.shape)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn(buffer.shape)
        elif name.endswith("running_var"):
            buffer *= 0.5 + torch.rand(buffer.shape)


def _image(size: int, _: nn.Module) -> Tensor:
    return torch.randn(1, 3, size, size)


# ---- torchvision ------------------------------------------------------------------------------------------------


def torchvision_module(name: str, **options: Any) -> nn.Module:
    """Return a model of torchvision with random weights; ``options`` are those of its builder."""
    torchvision_operators()
    import torchvision

    more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **more, **options)


# ---- timm -------------------------------------------------------------------------------------------------------


def _timm_module(name: str) -> nn.Module:
    torchvision_operators()
    import timm

    return timm.create_model(name, pretrained=False)


def _timm_example(module: nn.Module) -> Tensor:
    configuration = cast(Any, module).default_cfg
    return torch.randn(1, *configuration["input_size"])


# ---- transformers -----------------------------------------------------------------------------------------------

_SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "num_labels": 10,
}  # fmt: skip
_PATCHES = {**_SIZES, "image_size": 32, "patch_size": 8}
_WORDS = {**_SIZES, "vocab_size": 99, "max_position_embeddings": 40}
_STAGES = {"num_labels": 10, "hidden_sizes": [16, 32], "depths": [1, 1]}

IMAGE_CLASSIFIERS: dict[str, dict[str, Any]] = {
    "ViT": _PATCHES,
    "DeiT": _PATCHES,
    "Beit": _PATCHES,
    "Dinov2": _PATCHES,
    "Data2VecVision": _PATCHES,
    "Swin": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
             "window_size": 4, "num_labels": 10},
    "Swinv2": {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4],
               "window_size": 4, "num_labels": 10},
    "ConvNext": {**_STAGES, "num_stages": 2},
    "ConvNextV2": {**_STAGES, "num_stages": 2},
    "ResNet": {**_STAGES, "embedding_size": 16},
    "RegNet": {**_STAGES, "embedding_size": 16, "groups_width": 8},
    "MobileNetV1": {"num_labels": 10, "depth_multiplier": 0.25, "min_depth": 8},
    "MobileNetV2": {"num_labels": 10, "depth_multiplier": 0.25, "min_depth": 8},
    "PoolFormer": {"num_labels": 10, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "Segformer": {"num_labels": 10, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    "Bit": {**_STAGES, "embedding_size": 32, "num_groups": 4},
}  # fmt: skip

TEXT_CLASSIFIERS: dict[str, dict[str, Any]] = {
    "Bert": _WORDS,
    "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "num_labels": 10, "vocab_size": 99},
    "Roberta": _WORDS,
    "Albert": {**_WORDS, "embedding_size": 32},
    "Electra": {**_WORDS, "embedding_size": 32},
    "MPNet": _WORDS,
    "FNet": _WORDS,
    "Deberta": _WORDS,
    "Llama": {**_WORDS, "num_key_value_heads": 2, "pad_token_id": 0, "use_cache": False},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 40, "num_labels": 10,
             "pad_token_id": 0, "use_cache": False},
}  # fmt: skip


def _transformers_module(family: str, kind: str, sizes: Mapping[str, Any]) -> nn.Module:
    torchvision_operators()
    import transformers

    configuration = getattr(transformers, f"{family}Config")(**sizes)
    return getattr(transformers, f"{family}For{kind}Classification")(configuration)


def _sentence(_: nn.Module) -> dict[str, Tensor]:
    return {"input_ids": torch.arange(2, 10)[None]}


def _pixels(_: nn.Module) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(1, 3, 32, 32)}


# ---- all of them ------------------------------------------------------------------------------------------------

MODELS: dict[str, Model] = {
    **{
        f"torchvision:{name}": Model(partial(torchvision_module, name), partial(_image, LARGER.get(name, 224)))
        for name in TORCHVISION
    },
    **{
        f"transformers:{family}": Model(partial(_transformers_module, family, "Image", sizes), _pixels)
        for family, sizes in IMAGE_CLASSIFIERS.items()
    },
    **{
        f"transformers:{family}": Model(partial(_transformers_module, family, "Sequence", sizes), _sentence)
        for family, sizes in TEXT_CLASSIFIERS.items()
    },
    **{f"timm:{name}": Model(partial(_timm_module, name), _timm_example) for name in TIMM},
}
"""Every model of the table by name."""
