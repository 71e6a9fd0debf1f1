"""Noise levels, what is predicted at them, and samplers for use without ComfyUI."""
