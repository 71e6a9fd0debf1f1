"""What `stock/hooks.py` hooks into: the host's kinds of wrappers, and the modules of its PixArt, which lets no patch
in.
"""

from __future__ import annotations

from typing import Any

import comfy.ldm.pixart.blocks
import comfy.ldm.pixart.pixartms
import comfy.patcher_extension
from comfy_api.torch_helpers import torch_compile

wrapper_kinds: Any = comfy.patcher_extension.WrappersMP
compile_key: Any = torch_compile.COMPILE_KEY
pixart_blocks: Any = comfy.ldm.pixart.blocks
pixart_model: Any = comfy.ldm.pixart.pixartms
