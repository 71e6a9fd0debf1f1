"""Autoencoders: our own, and whatever decodes or encodes windows instead of whole canvases."""
