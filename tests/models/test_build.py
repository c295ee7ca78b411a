"""Building networks by name: seeds, weights, inputs and refused arguments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models import get_model_weights, vision_transformer

from frostline.core.config import ModelConfig
from frostline.core.errors import UserError
from frostline.core.input_spec import InputSpec
from frostline.models import torchvision_models, weights
from frostline.models.build import Model, build, metadata, new_head
from frostline.store import hashing, tensorfile
from small import BASE

CONF = Path(__file__).parents[2] / "conf" / "model"
TINY = "shufflenet_v2_x0_5"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a weights file of frostline for 3 classes and 64 pixels."""
    path = tmp_path / "tiny.safetensors"
    model = scratch(seed=7, num_classes=3, image_size=64)
    tensorfile.save(path, model.module.state_dict(), metadata(model, ["a", "b", "c"]))
    return path


def scratch(name: str = TINY, *, seed: int = 0, num_classes: int = 3, image_size: int | None = None) -> Model:
    return build(name, weights=None, num_classes=num_classes, seed=seed, image_size=image_size)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) and t.dtype == b[name].dtype for name, t in a.items())


@pytest.mark.slow
def test_every_option_fits_the_schema() -> None:
    for path in CONF.glob("*.yaml"):
        given = OmegaConf.merge({"name": "any"} if path.stem == "timm" else {}, OmegaConf.load(path))
        whole = OmegaConf.merge(OmegaConf.structured(ModelConfig), BASE["model"], given.get("model", given))
        OmegaConf.to_object(whole)


def test_meta_network_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline.models.build.content", lambda path: pytest.fail("weights were read"))
    monkeypatch.setattr("frostline.models.torchvision_models.fetch", lambda url: pytest.fail("weights were fetched"))
    model = build("regnet_y_400mf", weights="DEFAULT", num_classes=5, seed=0, meta=True)
    assert all(tensor.is_meta for tensor in model.module.state_dict().values())
    assert model.weights_sha256 is None


def test_seed_determines_weights_without_global_generator() -> None:
    state = torch.get_rng_state()
    first = scratch(seed=3).module.state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    assert same(first, scratch(seed=3).module.state_dict())
    torch.set_rng_state(state)
    assert not same(first, scratch(seed=4).module.state_dict())


def test_new_head_does_not_depend_on_backbone_weights(saved: Path) -> None:
    new = scratch(seed=5, num_classes=9)
    transferred = build(TINY, weights=str(saved), num_classes=9, seed=5)
    assert same(transferred.module.fc.state_dict(), new.module.fc.state_dict())
    assert not torch.equal(transferred.module.conv1[0].weight, new.module.conv1[0].weight)
    before = transferred.module.fc
    assert same(new_head(transferred, 7, seed=2).state_dict(), scratch(seed=2, num_classes=7).module.fc.state_dict())
    assert transferred.module.fc is before


def test_saved_weights_restore_tensors_input_and_digest(saved: Path) -> None:
    model = build(TINY, weights=str(saved), num_classes=3, seed=1)
    assert same(model.module.state_dict(), scratch(seed=7).module.state_dict())
    assert model.input == InputSpec(size=64, resize=73, **IMAGENET)
    assert model.weights_sha256 == hashing.of_file(saved)
    assert model.module.training


def test_embedded_weights_are_read_and_fit_one_network(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline.models.lookup.GLYPHS", saved)
    monkeypatch.setattr("frostline.models.lookup.GLYPHS_SHA256", hashing.of_file(saved))
    config = yaml.safe_load((CONF / "shufflenet_glyphs.yaml").read_text())["model"]
    model = build(**config, num_classes=10, seed=0)
    assert model.input.size == 64
    assert model.weights_sha256 == hashing.of_file(saved)
    with pytest.raises(
        UserError,
        match="expected weights of resnet18 of torchvision, not of shufflenet_v2_x0_5 of torchvision",
    ):
        build("resnet18", weights="glyphs", num_classes=10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "googlenet", "squeezenet1_1", "mnasnet0_5", "swin_t"])
def test_torchvision_weights_give_torchvisions_outputs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is as torchvision's own builder saves it, with auxiliary heads."""
    path = tmp_path / "w.pth"
    torch.manual_seed(0)
    arguments = {"init_weights": False} if name == "googlenet" else {}
    theirs = torchvision.models.get_model(name, **arguments).eval()
    torch.save(theirs.state_dict(), path)
    monkeypatch.setattr("frostline.models.torchvision_models.fetch", lambda url: (path, hashing.of_file(path)))
    ours = build(name, weights="DEFAULT", num_classes=1000, seed=0).module.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def test_input_follows_weights_and_image_size() -> None:
    def spec(name: str, entry: str | None, image_size: int | None = None) -> InputSpec:
        return build(name, weights=entry, num_classes=2, seed=0, image_size=image_size, meta=True).input

    assert spec("resnet50", "DEFAULT") == spec("resnet50", None) == InputSpec(size=224, resize=232, **IMAGENET)
    assert spec("resnet50", "IMAGENET1K_V1").resize == 256
    assert spec("resnet50", "IMAGENET1K_V1", 112) == InputSpec(size=112, resize=128, **IMAGENET)
    assert spec("resnet50", None, 1).size == 1
    swag = spec("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")
    assert (swag.size, swag.interpolation) == (384, "bicubic")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_tensorflow_networks_get_their_own_normalisation(name: str) -> None:
    model = scratch(name)
    pixels = torch.rand(2, 3, 75, 75)
    view = get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values)[:, None, None] for values in (view.mean, view.std))
    theirs = model.module._transform_input  # a no-op unless the flag is set
    assert not model.module.transform_input
    model.module.transform_input = True
    expected = theirs((pixels - mean) / std)
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.input.mean, model.input.std))
    torch.testing.assert_close((pixels - mean) / std, expected)


def test_positions_that_cannot_be_resized_stay_as_they_are() -> None:
    architecture = torchvision_models.architecture("vit_b_16")
    module = vision_transformer.VisionTransformer(
        image_size=32, patch_size=8, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4
    )
    for odd in (torch.zeros(1, 10, 4, dtype=torch.int8), torch.zeros(1, 1, 4), torch.zeros(10, 4)):
        found = architecture.adapt(module, {"encoder.pos_embedding": odd})
        assert found["encoder.pos_embedding"] is odd


@pytest.mark.slow
def test_position_embedding_is_resized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vision_transformer._vision_transformer
    few = {"num_layers": 4, "mlp_dim": 32}
    monkeypatch.setattr(vision_transformer, "_vision_transformer", lambda **how: whole(**{**how, **few}))
    small = scratch("vit_b_32", image_size=64)
    tensorfile.save(tmp_path / "w.safetensors", small.module.state_dict(), metadata(small, ["a", "b", "c"]))
    large = build("vit_b_32", weights=str(tmp_path / "w.safetensors"), num_classes=3, seed=1, image_size=128)
    assert large.module.encoder.pos_embedding.shape == (1, 1 + 4 * 4, 768)
    assert torch.equal(large.module.encoder.pos_embedding[:, 0], small.module.encoder.pos_embedding[:, 0])
    assert large.module.eval()(torch.zeros(1, 3, 128, 128)).shape == (1, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet5"}, "model.name=resnet5: expected one of torchvision's 80 .* of timm; did you mean resnet50"),
        ({"weights": "IMAGENET1K_V3"}, "model.weights=IMAGENET1K_V3: expected .*; did you mean imagenet1k_v"),
        (
            {"name": "resnet50", "weights": "glyphs"},
            "^model.weights=glyphs: expected weights of resnet50 .*; model=resnet50 names the model and its own",
        ),
        ({"weights": "gone.pth"}, "model.weights=gone.pth: expected a file, and there is none at /"),
        ({"name": "vgg16", "weights": "IMAGENET1K_FEATURES"}, "model.weights=IMAGENET1K_FEATURES: expected"),
        ({"name": "inception_v3", "image_size": 32}, "model.image_size=32: expected at least 75 pixels"),
        ({"name": "vit_b_16", "image_size": 100}, "model.image_size=100: expected a size that suits vit_b_16"),
        ({"name": "maxvit_t", "image_size": 100}, "model.image_size=100: expected a size that suits maxvit_t"),
    ],
)
@pytest.mark.parametrize("meta", [True, False])
def test_wrong_arguments_are_refused(changes: dict[str, object], message: str, meta: bool) -> None:
    arguments: dict[str, object] = {"name": "resnet50", "weights": None, "num_classes": 2, "seed": 0} | changes
    with pytest.raises(UserError, match=message) as caught:
        build(**arguments, meta=meta)
    assert "\n" not in str(caught.value)


def test_head_is_kept_only_for_the_same_classes(tmp_path):
    trained = build("squeezenet1_1", weights=None, num_classes=2, seed=0)
    path = tmp_path / "cats_and_dogs.safetensors"
    tensorfile.save(path, trained.module.state_dict(), metadata(trained, ["cat", "dog"]))
    arguments = {"weights": str(path), "num_classes": 2, "seed": 1}
    same = build("squeezenet1_1", classes=["cat", "dog"], **arguments)
    other = build("squeezenet1_1", classes=["car", "bus"], **arguments)
    known = [(model.new_head, model.trained_for) for model in (trained, same, other)]
    assert known == [(True, None), (False, ("cat", "dog")), (True, ("cat", "dog"))]
    theirs, same, other = (model.module.state_dict() for model in (trained, same, other))
    assert torch.equal(same["classifier.1.weight"], theirs["classifier.1.weight"])
    assert not torch.equal(other["classifier.1.weight"], theirs["classifier.1.weight"])
    assert torch.equal(other["features.0.weight"], theirs["features.0.weight"])


def test_only_one_linear_head_with_a_bias_can_be_solved() -> None:
    model, conv = (build(name, weights=None, num_classes=3, seed=0, meta=True) for name in (TINY, "squeezenet1_1"))
    assert model.linear_head is model.module.fc and conv.linear_head is None
    two = replace(model, structure=replace(model.structure, heads=("fc", "conv5.0")))
    assert two.linear_head is None
    model.module.fc = nn.Linear(2, 3, bias=False)
    assert model.linear_head is None


def test_embedded_weights_match_their_hash() -> None:
    assert hashing.of_file(weights.GLYPHS) == weights.GLYPHS_SHA256
    assert weights.GLYPHS.stat().st_size <= 1_500_000
    assert build("shufflenet_v2_x0_5", weights="glyphs", num_classes=10, seed=0).input.size == 64


def test_changed_embedded_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "glyphs.safetensors"
    changed.write_bytes(weights.GLYPHS.read_bytes()[:-1] + b"!")
    monkeypatch.setattr("frostline.models.lookup.GLYPHS", changed)
    with pytest.raises(UserError, match="expected the sha256 of"):
        build("shufflenet_v2_x0_5", weights="glyphs", num_classes=10, seed=0)
