"""LazyDiffusion (arXiv 2404.12382) in PyTorch: local image edits whose cost follows the mask. Imports no ComfyUI."""
