"""Export a trained network, preprocessing included, to ONNX, torch.export's or other formats; verify the file."""

from __future__ import annotations

import copy
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frostline.core.errors import UserError, one_line, user_error
from frostline.core.randomness import generator
from frostline.models import build, weights
from frostline.runs import export_formats, predict
from frostline.runs.portable import Portable
from frostline.runs.predict import Predictor
from frostline.store import tensorfile

TOLERANCE = 1e-4
"""Largest difference of a probability that float32 arithmetic in another order can explain."""
SAMPLES = ((1, 8, 8), (2, 70, 33), (3, 224, 224), (1, 200, 301))
"""Number, height and width of the images in each batch on which an exported network is compared."""

_FACTS = "frostline.json"  # name of the metadata in a file of torch
_LARGE = 1_900_000_000  # bytes; protobuf, and so a single ONNX file, is limited to 2 GiB
_Run = Callable[[Tensor], Tensor]


class Disagreement(UserError):
    """The exported network's probabilities differ from the original's."""


def export(network: Predictor, kind: str, output: Path) -> float:
    """Write `network`, in float32 for the CPU, to `output` as a format of `export_formats.SUFFIXES`.

    Read the file again and return the largest difference between its probabilities and the original's over `SAMPLES`;
    raises `Disagreement` if that exceeds `TOLERANCE`, and leaves no file then. UserError if a package is missing, the
    format cannot hold the network, or the suffix is of another format.
    """
    export_formats.check_suffix(output, kind)
    module, cpu = network.model.module, torch.device("cpu")
    model = replace(network.model, module=module if network.device == cpu else copy.deepcopy(module).to(cpu))
    network = replace(network, model=model, device=cpu, config=replace(network.config, precision="fp32"))
    portable = Portable(network.model.module, network.model.input, several=network.multi_label).eval()
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export") as folder, torch.inference_mode():
        file = Path(folder) / output.name
        with warnings.catch_warnings(action="ignore"):  # every call of TorchScript warns of its deprecation
            try:
                write, read = _FORMATS[kind]
                write(network, portable, file)
                run = read(file)
            except ImportError as error:
                raise user_error("kind", kind, f"the packages onnx, onnxscript and onnxruntime ({error})") from None
            except (RuntimeError, ValueError, TypeError) as error:
                expected = f"a format that can hold {network.model.name} ({one_line(error)})"
                raise user_error("kind", kind, expected) from error
            each = [_difference(network, run, images) for images in samples()]
            worst = float(torch.stack(each).max())  # NaN if any is
        if not worst <= TOLERANCE:
            raise Disagreement(f"{kind} differs from the original by {worst:.1e}, more than {TOLERANCE:.0e}")
        for part in Path(folder).iterdir():  # a large ONNX file has its weights beside it
            part.replace(output.parent / part.name)
    return worst


def samples() -> list[Tensor]:
    """Return batches of images `(N, 3, H, W)` uint8, half noise and half gradients, with the sizes of `SAMPLES`."""
    random, batches = generator("export"), []
    for count, height, width in SAMPLES:
        noise = torch.rand(count, 3, height, width, generator=random)
        shades = torch.linspace(0, 1, width) * torch.rand(count, 3, height, 1, generator=random)
        batches.append(((noise + shades) * 127.5).byte())
    return batches


def facts(network: Predictor) -> dict[str, Any]:
    """Return the JSON-serialisable metadata that a program needs to use the network; `build.build` reads it, too."""
    return {
        **build.metadata(network.model, network.classes),
        "levels": asdict(network.levels),
        **({"multi_label": True} if network.multi_label else {}),
        "input": "images: uint8 (N, 3, H, W), RGB, any height and width",
        "output": "probabilities: float32 (N, classes)",
        "preprocessing": f"resize to {network.center.resized}, antialiased, 8 bits; centre crop to size; normalise",
    }


def _difference(network: Predictor, run: _Run, images: Tensor) -> Tensor:
    views = torch.stack([predict.view(network, image) for image in images])
    return (run(images) - predict.probabilities_of(network, predict.logits(network, views))).abs().max()


def _write_onnx(network: Predictor, portable: nn.Module, file: Path) -> None:
    import onnxscript  # noqa: F401 (torch needs it, and would say so in many lines)

    program = torch.onnx.export(
        portable,
        (samples()[1],),
        dynamo=True,
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes=_any_size(),
        verbose=False,
    )
    assert program is not None
    for key, value in facts(network).items():
        program.model.metadata_props[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    size = sum(tensor.numel() * tensor.element_size() for tensor in portable.state_dict().values())
    program.save(str(file), external_data=size > _LARGE)


def _any_size() -> dict[str, Any]:
    """Return the sizes of the input that an exported graph leaves open."""
    from torch.export import Dim

    return {"images": {0: Dim("images"), 2: Dim("height"), 3: Dim("width")}}


def _read_onnx(file: Path) -> _Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_pt2(network: Predictor, portable: nn.Module, file: Path) -> None:
    program = torch.export.export(portable, (samples()[1],), dynamic_shapes=_any_size(), strict=False)
    whole = io.BytesIO()  # torch aborts the process when the disk is full
    torch.export.save(program, whole, extra_files={_FACTS: json.dumps(facts(network))})
    file.write_bytes(whole.getvalue())  # not getbuffer: Python 3.12.1 crashes when it collects one of a failed write


def _read_pt2(file: Path) -> _Run:
    return torch.export.load(file).module()


def _write_torchscript(network: Predictor, portable: nn.Module, file: Path) -> None:
    traced = torch.jit.trace(portable, samples()[1], check_trace=False)  # `export` compares on more samples
    with file.open("wb") as stream:  # given a name, torch aborts the process when the disk is full
        torch.jit.save(traced, stream, _extra_files={_FACTS: json.dumps(facts(network))})


def _read_torchscript(file: Path) -> _Run:
    script: _Run = torch.jit.load(str(file), map_location="cpu")
    return script


def _write_safetensors(network: Predictor, portable: nn.Module, file: Path) -> None:
    tensorfile.save(file, network.model.module.state_dict(), facts(network))


def _read_safetensors(file: Path) -> _Run:
    said = weights.metadata_of(file)
    model = build.trained(file, said["model"], said["library"])
    return Portable(model.module, model.input, several=said.get("multi_label") is True).eval()


_FORMATS: dict[str, tuple[Callable[[Predictor, nn.Module, Path], None], Callable[[Path], _Run]]] = {
    "onnx": (_write_onnx, _read_onnx),
    "pt2": (_write_pt2, _read_pt2),
    "torchscript": (_write_torchscript, _read_torchscript),
    "safetensors": (_write_safetensors, _read_safetensors),
}
