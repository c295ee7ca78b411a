"""A network with its preprocessing inside gets the same views as the evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frostline.core.input_spec import CROPS, InputSpec
from frostline.data.resize import CenterCrop, center_crop
from frostline.runs import predict
from frostline.runs.portable import Portable

SIDES = st.integers(1, 90)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


@settings(max_examples=60, deadline=None)
@given(
    *(SIDES, SIDES, st.integers(10, 40), st.integers(0, 9)),
    *(st.sampled_from(["bilinear", "bicubic"]), st.sampled_from(CROPS)),
)
def test_view_equals_that_of_the_evaluation(height, width, size, more, interpolation, crop):
    images = noise(1, 3, height, width)
    spec = InputSpec(size, size + more, (0.1, 0.485, 1), (1, 1, 1), interpolation, crop)
    found = Portable(nn.Identity(), spec).view(images)
    expected = center_crop(images, CenterCrop.of(spec)).float()
    # Only the centre of a very long image is resized, which may differ by one or two levels if noise is enlarged.
    long = crop == "center" and max(height, width) * (size + more) // min(height, width) > 16 * size
    assert (found - expected).abs().max() <= (2 if long else 0)


@pytest.mark.parametrize(("size", "resize"), [(32, 32), (32, 37)])
@pytest.mark.parametrize("shape", [(8, 8), (31, 64), (70, 90)])
def test_probabilities_equal_those_of_the_evaluation(trained, size, resize, shape):
    network = predict.load(trained.folder / "0", device="cpu")
    spec = replace(network.model.input, size=size, resize=resize)
    network = replace(network, model=replace(network.model, input=spec))
    images = noise(2, 3, *shape)
    views = torch.stack([predict.view(network, image) for image in images])
    with torch.inference_mode():
        found = Portable(network.model.module, spec).eval()(images)
    assert torch.allclose(found, predict.logits(network, views).softmax(1), atol=1e-5)
