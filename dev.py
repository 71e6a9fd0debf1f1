#!/usr/bin/env python3
"""ComfyUI-LazyDiffusion on a machine that has only Python (3.10 or newer).

python dev.py demo [--json]         run a real edit in a real ComfyUI; pictures go to output/demo/
python dev.py test [ARGUMENTS]      format, lint, types and all tests; with arguments: pytest with these
python dev.py serve                 ComfyUI with the pack, until Ctrl-C; prints its address
python dev.py bench [--quick]       what an edit costs, against regenerating the whole image or a crop (--help)
python dev.py run -- COMMAND ...    any command inside the environment, for example: python -m training.train

The first run makes an environment (about 12 GB while it installs) in the user's cache folder; LAZYDIFFUSION_HOME moves
it. COMFYUI_PATH uses an existing ComfyUI folder instead of the pinned one. Nothing outside the cache folder and output/
is touched.
"""

import sys

# This file must parse on every old Python, so that its user reads a sentence and not a SyntaxError: no f-strings, no
# annotations.
if sys.version_info < (3, 10):
    sys.stderr.write(
        "dev.py needs Python 3.10 or newer, but this is Python %d.%d: run it with a newer one.\n" % sys.version_info[:2]
    )
    sys.exit(1)

from devtools.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
