"""A network with its preprocessing inside sees what the evaluation sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from frostline import portable, predictor
from frostline.pixels import squash
from frostline.portable import Portable

SIDES = st.integers(1, 90)


def noise(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(1, 40))
def test_the_squash_is_that_of_the_evaluation_bit_for_bit(height, width, size):
    pixels = noise(1, 3, height, width)
    lines = portable._pixels(pixels[0, 0, :, 0]), portable._pixels(pixels[0, 0, 0, :])
    ours = portable._squash(pixels.float(), *lines, torch.arange(size) + 0.5)
    assert torch.equal(ours[0], squash(Image.fromarray(pixels[0].permute(1, 2, 0).numpy()), size).float())


@pytest.mark.parametrize("decode_size", [None, 20, 48])
@pytest.mark.parametrize(("size", "resize"), [(32, 32), (32, 37), (40, 32)])
@pytest.mark.parametrize("shape", [(8, 8), (31, 64), (70, 90)])
def test_probabilities_are_those_of_the_evaluation(trained, decode_size, size, resize, shape):
    network = predictor.load(trained.folder / "0", device="cpu")
    data = replace(network.config.data, decode_size=decode_size)
    spec = replace(network.model.input, size=size, resize=resize)
    network = replace(network, config=replace(network.config, data=data), model=replace(network.model, input=spec))
    pictures = noise(2, 3, *shape)
    shown = [Image.fromarray(pixels.permute(1, 2, 0).numpy()) for pixels in pictures]
    views = torch.stack([predictor.view(network, picture) for picture in shown])
    with torch.inference_mode():
        ours = Portable(network.model.module, spec, decode_size).eval()(pictures)
    assert torch.allclose(ours, predictor.logits(network, views).softmax(1), atol=1e-5)
