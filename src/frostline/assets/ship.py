"""Make the embedded weights from a run of `experiment=pretrain_glyphs`: its best weights without their head.

`python -m frostline.assets.ship <folder of the run>/best.safetensors`, as `make weights` does.
"""

import sys
from pathlib import Path

from frostline.models import weights
from frostline.store import tensorfile


def main() -> None:
    """Write the file named on the command line without its head, and print the sha256 of the result."""
    source = Path(sys.argv[1])
    backbone = {name: tensor for name, tensor in weights.read(source).items() if not name.startswith("fc.")}
    print(tensorfile.save(weights.GLYPHS, backbone, weights.metadata_of(source)))


if __name__ == "__main__":
    main()
