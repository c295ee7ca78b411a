"""Fidelity of the images that the network sees, against torchvision's own transforms of the original."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from simplejpeg import decode_jpeg
from sklearn.datasets import load_sample_images
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

import limit
from bench import Bench
from frostline.data import augment
from frostline.data.augment import Policy
from frostline.data.pixel_form import reduced
from frostline.data.resize import CenterCrop, center_crop, resized_crop
from frostline.models import lookup
from table import Row, figures

_ENTRIES = {
    224: ("resnet50", "IMAGENET1K_V2"),
    384: ("efficientnet_v2_s", "IMAGENET1K_V1"),
    480: ("efficientnet_v2_l", "IMAGENET1K_V1"),
    518: ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1"),
}
"""Networks and weights by input size in pixels."""
_STANDARD = Policy(
    crop="random_resized", scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), padding=0.0, flip=False, color=0.0, trivial=False
)
_POLICIES = {"standard": _STANDARD, "crop_flip": replace(_STANDARD, crop="pad", padding=0.125)}
_SIZES = ((500, 375), (1000, 750), (4000, 3000))
_CROPS, _STRIPE = 60, 2.5  # crops per photograph; pixels of a stripe in images of 480


def detail(image: Tensor) -> float:
    """Return the root mean square of the Laplacian of `(3, H, W)` levels."""
    p = image.float()
    laplacian = 4 * p[:, 1:-1, 1:-1] - p[:, :-2, 1:-1] - p[:, 2:, 1:-1] - p[:, 1:-1, :-2] - p[:, 1:-1, 2:]
    return laplacian.square().mean().sqrt().item()


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB; infinite for equal images."""
    error = (ours.float() - theirs.float()).square().mean().item()
    return 10 * math.log10(255**2 / error) if error else math.inf


def photographs() -> list[Tensor]:
    """Return the two photographs of scikit-learn, `(3, 427, 640)` uint8."""
    return [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in load_sample_images().images]


def views(bench: Bench) -> Iterator[Row]:
    """Compare deterministic views with the transforms of the weights."""
    for size, (name, key) in _ENTRIES.items():
        how = CenterCrop.of(lookup.input_of(name, weights=key, image_size=None))
        transforms = get_model_weights(name)[key].transforms()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transforms.mean, transforms.std))
        kept, apart, worst = [], [], []
        for photo in photographs():
            ours = center_crop(photo[None], how)[0]
            theirs = (transforms(_image(photo)) * std + mean) * 255
            kept.append(detail(ours) / detail(theirs))
            apart.append(psnr(ours, theirs))
            worst.append(((ours.float() - theirs).abs() < 1.01).float().mean().item())
        yield bench.row(
            *("detail of a view", f"{name}, {size} pixels", fmean(kept)),
            ours=f"{figures(min(apart))} dB",
            theirs="weights.transforms()",
            note=f"of 640x427 photographs; {100 * min(worst):.2f}% of the values within 1/255; a view takes "
            f"{3 * size**2:,} bytes in the store",
        )


def crops(bench: Bench) -> Iterator[Row]:
    """Compare the median random crop of the stored image with that of the original."""
    for (name, policy), size, (width, height) in itertools.product(_POLICIES.items(), _ENTRIES, _SIZES):
        how = CenterCrop(size=size, resize=size * 256 // 224, interpolation="bilinear")
        side = augment.stored_side(policy, how)
        ((stored_width, stored_height),) = reduced([(width, height)], side)
        kept, apart = _median_crops(policy, how, height / side) if height > side else (1.0, math.inf)
        shown = "as they are" if height <= side else f"{stored_width}x{stored_height}"
        yield bench.row(
            *("detail of the median random crop", f"{name}, {size} pixels of {width}x{height}", kept),
            ours="the original's" if apart == math.inf else f"{figures(apart)} dB",
            theirs="exact",
            note=f"data.pixels=stored: images are kept {shown}, {3 * stored_width * stored_height:,} bytes each; "
            "data.pixels=exact decodes them in every epoch instead",
        )


def _median_crops(policy: Policy, how: CenterCrop, factor: float) -> tuple[float, float]:
    """Return the fraction of detail kept and the PSNR if images are reduced by `factor` before they are cropped.

    Uses photographs of 640x427 with proportionally smaller views, since no larger ones are available.
    """
    kept, apart = [], []
    random = np.random.default_rng(0)
    for photo in photographs():
        height, width = photo.shape[1:]
        view = max(16, round(how.size * height / (augment.stored_side(policy, how) * factor)))
        small = _image(photo).resize((round(width / factor), round(height / factor)), Image.Resampling.LANCZOS)
        stored = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        extent = round(height * augment.median_extent(policy, how))
        for _ in range(_CROPS):
            left, top = random.integers(0, (width - extent, height - extent))
            box = torch.tensor([[left / width, top / height, (left + extent) / width, (top + extent) / height]])
            ours = resized_crop([stored], box, view, interpolation="bilinear")[0]
            theirs = resized_crop([photo], box, view, interpolation="bilinear")[0]
            kept.append(detail(ours) / detail(theirs))
            apart.append(psnr(ours, theirs))
    return fmean(kept), fmean(apart)


def scaled(bench: Bench) -> Iterator[Row]:
    """Compare the median random crop of an image that libjpeg decodes at half size with that of the full image."""
    size = min(_ENTRIES)
    how = CenterCrop(size=size, resize=size * 256 // 224, interpolation="bilinear")
    sides = [augment.median_extent(policy, how) for policy in _POLICIES.values()]
    kept, near, share = [], [], []
    for photo, extent in itertools.product(photographs(), sides):
        file = io.BytesIO()
        _image(photo.tile(1, 4, 4)).save(file, "JPEG", quality=90)  # the detail of a photograph, and as large as one
        data = file.getvalue()
        height, width = (4 * length for length in photo.shape[1:])
        box = torch.tensor([[0.0, 0.0, extent * height / width, extent]])
        whole, half = (
            torch.from_numpy(decode_jpeg(data, "RGB", min_height=least)).permute(2, 0, 1)
            for least in (height, height // 2)
        )
        theirs, ours = (resized_crop([each], box, size, interpolation="bilinear")[0] for each in (whole, half))
        kept.append(detail(ours) / detail(theirs))
        near.append(((ours - theirs).abs() < 1.01).float().mean().item())
        long, short = (
            limit.seconds(partial(decode_jpeg, data, "RGB", min_height=least), limit.CPU, times=20)
            for least in (height, height // 2)
        )
        share.append(short / long)
    yield bench.row(
        *("detail of a crop that libjpeg decodes at half the size", f"{size} pixels of 2560x1708", fmean(kept)),
        ours="whole",
        theirs="half",
        note=f"{100 * min(near):.0f}% of the values within 1/255, in {figures(fmean(share))} of the time; not done",
    )


def tasks(bench: Bench) -> Iterator[Row]:
    """Compare the accuracy of a head on frozen features of our views with that on torchvision's views."""
    stripes, halves = _stripes(bench.scale.counts[0] // 10), _halves(bench.scale.counts[0] // 10)
    for name, (images, labels), sizes in (("stripes", stripes, (448, 518)), ("which photo and half", halves, (224,))):
        for size in sizes:
            how = CenterCrop(size=size, resize=size, interpolation="bilinear")
            seen = {
                "ours": [center_crop(image[None], how)[0] for image in images],
                "theirs": [_of_torchvision(image, size) for image in images],
                "squashed": [tv.resize(tv.resize(image, [256, 256]), [size, size]) for image in images],
            }
            score = {kind: _accuracy(views, labels) for kind, views in seen.items()}
            low, high = _wilson(score["theirs"], len(labels) // 2)
            yield bench.row(
                *(f"accuracy on {name}", f"{size} pixels", score["ours"]),
                ours=f"{100 * score['ours']:.1f}%",
                theirs=f"{100 * score['theirs']:.1f}%",
                note=f"logistic regression on features of a random ResNet-18; theirs: plain torchvision, 95% "
                f"interval {100 * low:.1f} to {100 * high:.1f} ({len(labels) // 2} test images); with images that "
                f"are squashed to 256x256 first {100 * score['squashed']:.1f}%",
            )


def _of_torchvision(image: Tensor, size: int) -> Tensor:
    return tv.center_crop(tv.resize(image, [size], InterpolationMode.BILINEAR, antialias=True), [size])


def _stripes(count: int) -> tuple[list[Tensor], list[int]]:
    """Return images of 480x480 with faint stripes on noise, rising or falling, and their labels."""
    random, found = np.random.default_rng(0), []
    across, down = np.meshgrid(np.arange(480), np.arange(480))
    for index in range(count):
        phase = (across + (1 if index % 2 else -1) * down) / (2 * _STRIPE * math.sqrt(2)) + random.random()
        levels = 128 + 20 * np.sign(np.sin(2 * math.pi * phase)) + random.normal(0, 20, (480, 480))
        found.append(torch.from_numpy(levels.clip(0, 255).astype(np.uint8)).expand(3, -1, -1))
    return found, [index % 2 for index in range(count)]


def _halves(count: int) -> tuple[list[Tensor], list[int]]:
    """Return patches of two photographs, labelled by photograph and half."""
    random, found, labels = np.random.default_rng(0), [], []
    for index in range(count):
        label, side = index % 4, int(random.integers(100, 300))
        photo = photographs()[label // 2]
        left, top = int(random.integers(0, 320 - side + 1)), int(random.integers(0, 427 - side + 1))
        left += 320 * (label % 2)
        found.append(photo[:, top : top + side, left : left + side])
        labels.append(label)
    return found, labels


@torch.inference_mode()
def _accuracy(images: list[Tensor], labels: list[int]) -> float:
    """Return the accuracy of a head on the second half of the images, trained on the first half."""
    torch.manual_seed(0)
    network = get_model("resnet18", weights=None).eval()
    network.fc = torch.nn.Identity()
    batches = torch.stack(images).split(16)
    features = torch.cat([network(F.layer_norm(batch.float(), batch.shape[1:])) for batch in batches]).numpy()
    half = len(labels) // 2
    scaler = StandardScaler().fit(features[:half])
    head = LogisticRegression(max_iter=1000).fit(scaler.transform(features[:half]), labels[:half])
    return float(head.score(scaler.transform(features[half:]), labels[half:]))


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95% interval of a proportion of `count` (Wilson 1927)."""
    z = 1.96
    middle, spread = share + z**2 / (2 * count), z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (middle - spread) / (1 + z**2 / count), (middle + spread) / (1 + z**2 / count)


def _image(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def fidelity(bench: Bench) -> Iterator[Row]:
    """Measure all of it."""
    yield from views(bench)
    yield from crops(bench)
    yield from tasks(bench)
