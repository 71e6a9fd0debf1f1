"""Lazy edits with the checkpoints people already have: stock transformers denoise hole tokens alone."""
