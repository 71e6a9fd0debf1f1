"""Lazy edits of stock transformers: when keys and values are computed, and where they are kept."""
