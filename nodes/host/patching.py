"""What `stock/hooks.py` hooks into: the host's kinds of wrappers, and modules of transformers that let no patch in."""

from __future__ import annotations

import sys
from typing import Any

import comfy.ldm.pixart.pixartms
import comfy.patcher_extension
from comfy_api.torch_helpers import torch_compile

wrapper_kinds: Any = comfy.patcher_extension.WrappersMP
compile_key: Any = torch_compile.COMPILE_KEY
pixart_model: Any = comfy.ldm.pixart.pixartms


def module_of(layer: Any) -> Any:
    """Return the module that a layer's class is written in."""
    return sys.modules[type(layer).__module__]
