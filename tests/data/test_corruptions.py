"""Corruptions: effect, severity, agreement with references, independence of the batch."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from frostline.core.randomness import generator
from frostline.data.corruptions import corrupt, strengths

NAMES = tuple(strengths(224))
SIDES = (32, 64, 224)
IDENTITY = {"noise": 0.0, "blur": 1e-3, "contrast": 1.0, "pixelate": 1.0, "jpeg": 100}
"""Strengths at which images stay the same (JPEG: nearly)."""


def images(count, side):
    """Return noisy waves, `(count, 3, side, side)` whole numbers in 0..255, and ids."""
    random = generator("images", side)
    waves = torch.rand(count, 3, 8, 3, generator=random)[..., None, None]
    place = torch.linspace(0, 1, side)
    phase = 2 * torch.pi * (12 * waves[..., 0, :, :] * place + 12 * waves[..., 1, :, :] * place[:, None])
    smooth = (phase + 2 * torch.pi * waves[..., 2, :, :]).sin().mean(2)
    noise = torch.rand(count, 3, side, side, generator=random)
    return (127 + 200 * smooth + 20 * noise).clamp(0, 255).round(), torch.arange(count) + 7


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", NAMES)
def test_higher_severity_changes_images_more(name, side):
    clean, ids = images(3, side)
    changes = [(corrupt(name, strength, clean, ids) - clean).abs().mean() for strength in strengths(side)[name]]
    assert all(less < more for less, more in pairwise(changes)), changes
    assert changes[0] > 0


@pytest.mark.parametrize("name", NAMES)
def test_results_are_whole_numbers_from_0_to_255(name):
    clean, ids = images(2, 32)
    for strength in strengths(32)[name]:
        found = corrupt(name, strength, clean + 0.3, ids)
        assert found.shape == clean.shape and found.dtype == torch.float32
        assert torch.equal(found, found.round().clamp(0, 255))


@pytest.mark.parametrize("name", NAMES)
def test_zero_strength_changes_nothing(name):
    clean, ids = images(2, 64)
    if name == "jpeg":
        clean = clean[:, :1].repeat(1, 3, 1, 1)  # JPEG halves the resolution of colour at any quality
    difference = (corrupt(name, IDENTITY[name], clean, ids) - clean).abs()
    assert difference.max() <= 2 if name == "jpeg" else difference.max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_result_does_not_depend_on_the_batch(name):
    clean, ids = images(20, 32)
    strength = strengths(32)[name][4]
    together = corrupt(name, strength, clean, ids)
    order = torch.randperm(20, generator=generator("order"))
    apart = torch.cat([corrupt(name, strength, clean[part], ids[part]) for part in order.split(3)])
    assert (together[order] - apart).abs().max() <= (1 if name == "blur" else 0)  # sum order


def test_noise_has_its_scale_and_differs_between_images():
    grey = torch.full((40, 3, 32, 32), 127.0)
    noise = corrupt("noise", 0.1, grey, torch.arange(40)) - grey
    assert noise.std().item() == pytest.approx(25.5, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.3)
    flat = noise.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(40)
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("sigma", [0.4, 1.0, 6.0])
def test_blur_agrees_with_scipy(sigma):
    clean, ids = images(1, 32)
    expected = gaussian_filter(clean[0].numpy().astype(np.float64), (0, sigma, sigma), mode="nearest")
    assert np.abs(corrupt("blur", sigma, clean, ids)[0].numpy() - expected).max() < 0.51


def test_contrast_agrees_with_the_paper():
    clean, ids = images(2, 32)
    x = clean.numpy().transpose(0, 2, 3, 1) / 255
    mean = x.mean((1, 2), keepdims=True)
    expected = np.clip((x - mean) * 0.15 + mean, 0, 1) * 255
    assert np.abs(corrupt("contrast", 0.15, clean, ids).numpy().transpose(0, 2, 3, 1) - expected).max() < 0.51


@pytest.mark.parametrize("side", SIDES)
def test_pixelate_agrees_with_pillow(side):
    clean, ids = images(1, side)
    image = Image.fromarray(clean[0].byte().permute(1, 2, 0).numpy())
    for factor in strengths(side)["pixelate"]:
        small = image.resize((int(side * factor),) * 2, Image.Resampling.BOX)
        expected = np.asarray(small.resize(image.size, Image.Resampling.BOX)).astype(np.float32)
        found = corrupt("pixelate", factor, clean, ids)[0].permute(1, 2, 0).numpy()
        assert np.abs(found - expected).max() <= 1  # Pillow rounds after each step


def test_jpeg_agrees_with_pillow():
    clean, ids = images(2, 32)
    buffer = io.BytesIO()
    Image.fromarray(clean[1].byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=40)
    found = corrupt("jpeg", 40, clean, ids)[1].permute(1, 2, 0).numpy()
    assert (found == np.asarray(Image.open(buffer))).all()


def test_strengths_are_those_of_the_nearest_published_side():
    assert strengths(28) == strengths(32) != strengths(64) == strengths(96)
    assert strengths(128) == strengths(224) == strengths(600)
