"""The networks: context encoder, decoder and text encoder, and their steps as CUDA graphs."""
