"""What knows ComfyUI's insides: everything else in `nodes/` uses public node API only.

Written against ComfyUI 0.3.75; later hosts are handled where noted.
"""
