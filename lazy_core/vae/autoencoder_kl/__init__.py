"""Decoding the holes of a VAE that sees its whole picture at once (SD, SDXL, Flux), with a record of an earlier full
decode.
"""
