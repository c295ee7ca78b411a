"""Networks of timm: stages, heads, inputs, weights and the cut."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from torchvision.models import resnet50

import small
from frostline.commands import models as command
from frostline.core.errors import UserError
from frostline.core.input_spec import InputSpec
from frostline.models import adapters, cut, freeze_guard, fuse, timm_models, weights
from frostline.models.build import Model, build, metadata
from frostline.store import tensorfile
from frostline.training.evaluation import evaluating

CONF = small.CONF / "model"
TINY = ("test_vit", "test_vit2", "test_resnet", "test_efficientnet", "test_convnext", "test_byobnet", "test_nfnet")
"""timm's test networks: one per family, with at most half a million parameters."""


def timm_network(name: str, *, source: str | Path | None = None, num_classes: int = 7, **options: Any) -> Model:
    return build(
        name, library="timm", weights=source and str(source), num_classes=num_classes, **{"seed": 0, **options}
    )


def image(model: Model, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, model.input.size, model.input.size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TINY)
def test_halves_equal_the_whole_network_at_every_border(name: str) -> None:
    model = timm_network(name)
    module, structure, images = model.module.eval(), model.structure, image(model)
    theirs = timm.create_model(name, num_classes=7)
    assert [(key, p.shape) for key, p in module.named_parameters()] == [
        (key, p.shape) for key, p in theirs.named_parameters()
    ]
    with torch.inference_mode():
        whole = module(images)
        for border in range(1, len(structure.stages)):
            below = structure.stages[:border]
            assert cut.cuttable(module, structure, below) == below
            lower, upper = cut.halves(module, structure, below)
            features = lower(images)
            assert torch.equal(upper(features), whole)
            owners = {id(p): structure.stage_of(key) for key, p in module.named_parameters()}
            assert {owners[id(p)] for p in lower.parameters()} <= set(below)
        assert torch.equal(features, module.forward_head(module.forward_features(images), pre_logits=True))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vit_tiny_patch16_224", {"pos_embed": "stem", "blocks.2": "stage1", "blocks.3": "stage2", "norm": "stage4"}),
        ("vit_base_patch16_clip_224", {"norm_pre": "stem", "blocks.11": "stage4", "head": "head"}),
        ("vit_base_patch16_siglip_224", {"blocks.0": "stage1", "attn_pool": "stage4", "head": "head"}),
        ("vit_base_patch16_rope_mixed_224", {"rope": "stem", "blocks.0": "stage1", "blocks.11": "stage4"}),
        ("resnet50", {"conv1": "stem", "layer1": "stage1", "layer4": "stage4", "fc": "head"}),
        ("swinv2_tiny_window8_256", {"patch_embed": "stem", "layers.0": "stage1", "layers.3": "stage4"}),
        ("efficientnet_b0", {"conv_stem": "stem", "blocks.0": "stage1", "blocks.3": "stage4", "conv_head": "stage5"}),
        ("deit_tiny_distilled_patch16_224", {"blocks.11": "stage4", "head": "head", "head_dist": "head"}),
        ("volo_d1_224", {"head": "head", "aux_head": "head"}),
        (
            "rdnet_tiny",
            {"stem": "stem", "dense_stages.1": "stage2", "dense_stages.2": "stage3", "dense_stages.6": "stage4"},
        ),
        ("crossvit_tiny_240", {"patch_embed": "stem", "blocks.0": "stage1", "blocks.2": "stage3", "norm": "stage3"}),
        ("coat_tiny", {"patch_embed1": "stem", "serial_blocks1": "stage1", "parallel_blocks": "stage2"}),
        ("poolformer_s12", {"stem": "stem", "stages.0": "stage1", "stages.3": "stage4", "head.fc": "head"}),
    ],
)
def test_layers_are_in_the_expected_stages(name: str, stages: dict[str, str]) -> None:
    model = timm_network(name, meta=True)
    tensors = [key for key, _ in model.module.named_parameters()]
    assert {model.structure.stage_of(key) for key in tensors} == {*model.structure.stages}
    for place, stage in stages.items():
        inside = {model.structure.stage_of(key) for key in tensors if key == place or key.startswith(f"{place}.")}
        assert inside == {stage}, place


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "xcit_nano_12_p8_224", "levit_128s"])
def test_networks_that_read_shapes_can_be_cut(name: str) -> None:
    model = timm_network(name, meta=True)
    assert cut.cuttable(model.module, model.structure, model.structure.stages[:3]) == model.structure.stages[:3]


def test_dropout_that_is_registered_after_the_head_belongs_to_it() -> None:
    model = timm_network("inception_next_atto", meta=True)
    below = model.structure.stages[:-1]
    assert model.structure.stage_of("head.drop") == "head"
    assert cut.cuttable(model.module, model.structure, below) == below


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_fast_copy_gives_the_same_features(name: str) -> None:
    model = timm_network(name)
    lower, _ = cut.halves(model.module.eval(), model.structure, model.structure.stages[:-1])
    images = image(model, 1).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        features = lower(images)
        plain = fuse.fast_copy(lower, torch.float32, torch.device("cpu"), torch.channels_last)(images)
        short = fuse.fast_copy(lower, torch.bfloat16, torch.device("cpu"), torch.channels_last)(images.bfloat16())
    torch.testing.assert_close(plain, features)
    assert (short.float() - features).abs().max() < 0.05 * features.abs().max()


def test_network_with_parallel_branches_is_not_cut() -> None:
    model = timm_network("crossvit_tiny_240", meta=True)
    assert cut.cuttable(model.module, model.structure, model.structure.stages[:-1]) == ()


def test_timm_resnet50_equals_torchvisions(tmp_path: Path) -> None:
    theirs = resnet50().eval()
    save_file(theirs.state_dict(), tmp_path / "resnet50.safetensors")
    ours = timm_network("resnet50.tv_in1k", source=tmp_path / "resnet50.safetensors", num_classes=1000)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours.module.eval()(images), theirs(images))
    assert ours.loaded == "head fc taken"


def test_input_follows_the_weights_tag() -> None:
    half = (0.5, 0.5, 0.5)
    assert timm_network("vit_tiny_patch16_224.augreg_in21k", meta=True).input == InputSpec(
        224, 248, half, half, "bicubic"
    )
    plain = timm_network("resnet50.tv_in1k", source="DEFAULT", meta=True).input
    assert plain == build("resnet50", weights="IMAGENET1K_V1", num_classes=2, seed=0, meta=True).input
    assert timm_network("resnet50.tv_in1k", source="a1_in1k", meta=True).input.interpolation == "bicubic"
    assert timm_network("vit_base_patch16_clip_384.openai_ft_in12k_in1k", meta=True).input == InputSpec(
        *(384, 404, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic", "squash")
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["levit_128s", "vit_small_patch16_dinov3"])
def test_buffers_outside_the_state_dict_are_initialised(name: str, tmp_path: Path) -> None:
    first, path, classes = timm_network(name, image_size=224), tmp_path / "w.safetensors", list("abcdefg")
    tensorfile.save(path, first.module.state_dict(), metadata(first, classes))
    loaded = timm_network(name, source=path, classes=classes, seed=1)
    bare = timm_network(name, source=path, meta=True)
    bare.module.load_state_dict(weights.read(path), assign=True)
    images = image(first, 1)
    with torch.inference_mode():
        whole = first.module.eval()(images)
        assert torch.equal(loaded.module.eval()(images), whole)
        torch.testing.assert_close(bare.module.eval()(images), whole)


def test_cached_attention_biases_follow_the_weights() -> None:
    model = timm_network("levit_128s")
    images = image(model, 1)
    biases = [p for name, p in model.module.named_parameters() if name.endswith("attention_biases")]
    with torch.no_grad():
        with evaluating(model.module):
            before = model.module(images)
        for bias in biases:
            bias.add_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
        with evaluating(model.module):
            after = model.module(images)
            assert not torch.equal(after, before)


def test_forward_pass_of_convit_replaces_no_frozen_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, embed_dim=12, depth=2, local_up_to_layer=1))
    model = timm_network("convit_tiny", image_size=48)
    theirs = timm.create_model("convit_tiny", num_classes=7, img_size=48)
    theirs.load_state_dict(model.module.state_dict())
    guard = freeze_guard.Guard(model.module.eval().requires_grad_(False))
    guard.watch()
    with torch.inference_mode():
        assert torch.equal(model.module(image(model)), theirs.eval()(image(model)))
    guard.check_if_written()


def test_position_embedding_is_resized(tmp_path: Path) -> None:
    small_one, path = timm_network("test_vit"), tmp_path / "w.safetensors"
    save_file(small_one.module.state_dict(), path)
    large = timm_network("test_vit", source=path, image_size=192)
    assert large.module.pos_embed.shape[1] == 1 + 12 * 12
    assert large.module.eval()(image(large)).shape == (2, 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet50.tv_in1"}, r"model\.name=resnet50\.tv_in1: .* of timm's .*; did you mean resnet50\.tv_in1k"),
        ({"name": "hf-hub:timm/test_vit.r160_in1k"}, r"^model\.name=hf-hub:.* did you mean test_vit\.r160_in1k\?$"),
        ({"name": "resnet50."}, r"model\.name=resnet50\.: expected one of timm's .*; did you mean resnet50"),
        ({"name": "tv_resnet34"}, r"model\.name=tv_resnet34: .*; timm calls it resnet34\.tv_in1k now"),
        ({"name": "vit_smal_patch16_224"}, "did you mean vit_small_patch16_224?"),
        ({"weights": "r160_in1"}, r"model\.weights=r160_in1: expected .* did you mean r160_in1k?"),
        ({"weights": "glyphs"}, "expected weights of test_vit of timm, not of shufflenet_v2_x0_5 of torchvi"),
        ({"name": "vgg16", "image_size": 16, "meta": True}, r"model\.image_size=16: expected a size that suits vgg16"),
        ({"name": "levit_128s", "image_size": 9}, r"model\.image_size=9: expected a size that suits"),
        (
            {"name": "test_maxvit", "image_size": 16, "meta": True},
            r"16: .* suits test_maxvit \((integer modulo|division) by zero\)$",  # in Python 3.14 the latter
        ),
        ({"name": "mvitv2_tiny", "image_size": 16, "meta": True}, r"16: .* suits mvitv2_tiny \(.*[Dd]imension"),
        ({"name": "mvitv2_tiny", "image_size": 33, "meta": True}, r"33: .* suits mvitv2_tiny \(index 7 is out of"),
        ({"name": "vit_huge_patch14_gap_224", "weights": "in1k_ijepa"}, "timm has none for http"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"name": "test_vit", "weights": None, "num_classes": 2, "seed": 0, **changes}
    with pytest.raises(UserError, match=message) as caught:
        build(library="timm", **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_options_state_parameters_and_image_size() -> None:
    options = [path for path in CONF.glob("*.yaml") if "library: timm" in path.read_text() and path.stem != "timm"]
    assert len(options) > 20
    for path in options:
        text = path.read_text()
        given = yaml.safe_load(text)
        size = given.get("image_size")
        model = timm_network(given["name"], source="DEFAULT", num_classes=1000, image_size=size, meta=True)
        count = sum(parameter.numel() for parameter in model.module.parameters())
        assert f": {count:,} parameters with 1,000 classes, {model.input.size} pixels." in text, path


def test_models_command_finds_networks_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["*small*dinov2*"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 3 and "model=timm model.name=vit_small_patch14_dinov2 " in rows[1]
    assert rows[1].split()[2:] == ["22,441,192", "518", "px", "lvd142m"]
    assert command.main(["vit*dino*"]) == 0
    many = capsys.readouterr().out.splitlines()
    assert many[-1] == f"Parameters are counted for up to 12 networks, and {len(many) - 2} match the pattern."
    assert command.main(["resnet18", "--library", "torchvision"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("model=resnet18 ")
    with pytest.raises(UserError, match="did you mean vit_small"):
        command.main(["vit_smal_patch99"])


def test_every_timm_tag_is_listed() -> None:
    assert {f"{name}.{tag}" for name, tags in timm_models.names().items() for tag in tags} == set(
        timm.list_pretrained()
    )


@torch.no_grad()
def test_shared_layers_are_adapted_merged_and_saved_once(tmp_path: Path) -> None:
    twice = ("cpe1.proj.weight", "serial_blocks1.1.cpe.proj.weight")
    model, plain = (timm_network("coat_lite_tiny", image_size=32) for _ in range(2))
    module, images = model.module.eval(), image(model)
    adapters.insert(module, model.structure, small.mode("ssf").adapter, seed=0, side=32)
    assert torch.equal(module(images), plain.module.eval()(images))
    module.get_submodule("cpe1.proj.adapter").get_parameter("scale").mul_(2)
    expected, still = module(images), freeze_guard.frozen_tensors(module.requires_grad_(False)).keys()
    assert still == module.state_dict().keys() and {*twice} <= adapters.merge_targets(module)
    assert adapters.without(module).keys() == plain.module.state_dict().keys()
    assert {*twice} <= adapters.merge(module).keys()
    tensorfile.save(tmp_path / "w.safetensors", module.state_dict(), {})
    plain.module.load_state_dict(tensorfile.tensors_of(tmp_path / "w.safetensors"))
    torch.testing.assert_close(plain.module(images), expected, rtol=1e-4, atol=1e-5)
