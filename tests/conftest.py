"""What all tests share: one thread, so that they run beside each other and give the same bits anywhere."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
