"""A small network of every family of torchvision: the family's kinds of layers and stages, with few operations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig
from torchvision.models.googlenet import Inception
from torchvision.models.inception import (
    BasicConv2d,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.vgg import make_layers

from frostline.core.input_spec import InputSpec
from frostline.models import pooling
from frostline.models.build import Model
from frostline.models.stages import structure_of

CLASSES = 7
_VGG: list[str | int] = [8, "M", 8, "M", 16, "M", 16, 16, "M", 32, "M"]
_SWIN = ([4, 4], 8, [2, 1, 1, 1], [1, 1, 2, 2], [7, 7])
"""Patch size in pixels; channels; blocks and heads of each stage; window size in patches."""


def _alexnet() -> nn.Module:
    return _narrow(lambda: models.AlexNet(), inputs=256 * 6 * 6)


def _vgg(batch_norm: bool) -> nn.Module:
    network = _narrow(lambda: models.VGG(nn.Sequential(), init_weights=False), inputs=32 * 7 * 7)
    network.features = make_layers(_VGG, batch_norm)
    return network


def _narrow(build: Callable[[], nn.Module], inputs: int) -> nn.Module:
    """Return a network with hidden layers of width 16 instead of a hundred megabytes of weights."""
    with torch.device("meta"):
        network = build()
    classifier = network.get_submodule("classifier")
    linear = [name for name, layer in classifier.named_children() if isinstance(layer, nn.Linear)]
    for name, width, outputs in zip(linear, (inputs, 16, 16), (16, 16, CLASSES), strict=True):
        setattr(classifier, name, nn.Linear(width, outputs))
    for layer in network.to_empty(device="cpu").modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return network


def _thin(inputs: int, outputs: int, **how: Any) -> nn.Module:
    """Return the basic block of Inception networks with an eighth of its channels."""
    return BasicConv2d(inputs if inputs == 3 else inputs // 8, outputs // 8, **how)


def _inception() -> nn.Module:
    kinds = (InceptionA, InceptionB, InceptionC, InceptionD, InceptionE)
    blocks = [_thin, *(partial(kind, conv_block=_thin) for kind in kinds), InceptionAux]
    network = models.Inception3(CLASSES, aux_logits=False, init_weights=False, inception_blocks=blocks)
    network.fc = nn.Linear(2048 // 8, CLASSES)
    return network


def _googlenet() -> nn.Module:
    blocks = [_thin, partial(Inception, conv_block=_thin), InceptionAux]
    network = models.GoogLeNet(CLASSES, aux_logits=False, init_weights=False, blocks=blocks)
    network.fc = nn.Linear(1024 // 8, CLASSES)
    return network


def _efficientnet() -> nn.Module:
    blocks = (
        FusedMBConvConfig(1, 3, 1, 8, 8, 1),
        FusedMBConvConfig(4, 3, 2, 8, 16, 2),
        MBConvConfig(4, 5, 2, 16, 24, 2),
    )
    return models.EfficientNet(blocks, dropout=0.2, last_channel=32, num_classes=CLASSES)


def _mobilenet_v3() -> nn.Module:
    blocks = [(8, 3, 8, 8, True, "RE", 2), (8, 3, 16, 16, False, "RE", 2), (16, 5, 32, 16, True, "HS", 1)]
    return models.MobileNetV3([InvertedResidualConfig(*one, 1, 1.0) for one in blocks], 32, num_classes=CLASSES)


def _regnet() -> nn.Module:
    return models.RegNet(
        BlockParams([1] * 4, [8, 16, 24, 32], [8] * 4, [1.0] * 4, [2] * 4, 0.25), CLASSES, stem_width=8
    )


MEMBERS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": _alexnet,
    "convnext": lambda: models.ConvNeXt(
        [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 1), CNBlockConfig(32, None, 1)],
        layer_scale=0.5,
        num_classes=CLASSES,
    ),
    "densenet": lambda: models.DenseNet(4, (2, 2, 2, 2), num_init_features=8, bn_size=2, num_classes=CLASSES),
    "efficientnet": _efficientnet,
    "googlenet": _googlenet,
    "inception": _inception,
    "maxvit": lambda: models.MaxVit((64, 64), 8, 2, [8, 8, 16, 16], [1] * 4, 8, 0.0, num_classes=CLASSES),
    "mnasnet": lambda: models.MNASNet(0.1, CLASSES),
    "mobilenet_v2": lambda: models.MobileNetV2(
        CLASSES, 0.5, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 64, 1, 2]]
    ),
    "mobilenet_v3": _mobilenet_v3,
    "regnet": _regnet,
    "resnet": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], CLASSES),
    "shufflenet": lambda: models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 64, 32], CLASSES),
    "squeezenet": lambda: models.SqueezeNet("1_1", CLASSES),
    "swin": lambda: models.SwinTransformer(*_SWIN, num_classes=CLASSES),
    "swin_v2": lambda: models.SwinTransformer(
        *_SWIN, num_classes=CLASSES, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "vgg": lambda: _vgg(batch_norm=False),
    "vgg_bn": lambda: _vgg(batch_norm=True),
    "vit": lambda: models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=CLASSES),
}
_SIDES = {"inception": 75, "vit": 32, "alexnet": 80}


def member(name: str) -> Model:
    """Return a network of `MEMBERS` in training mode, with reproducible random weights."""
    torch.manual_seed(0)
    module, side = MEMBERS[name](), _SIDES.get(name, 64)
    pooling.replace_pools(module)  # as a build does
    structure = structure_of(module)
    for head in structure.heads:  # a vision transformer's is zero at first, and would hide the layers below it
        cast(nn.Linear, module.get_submodule(head)).reset_parameters()
    spec = InputSpec(side, side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    return Model(name, "torchvision", module, structure, spec, None, None, new_head=True)
