"""A model with the parts that a newer config has beyond its own."""

from __future__ import annotations

from lazy_core.config import LazyConfig
from lazy_core.model import LazyDiffusion, initialise


def extended(model: LazyDiffusion, config: LazyConfig) -> LazyDiffusion:
    """The model with the parts that `config` has beyond its own (edge maps, fill, styles). They start at zero: it
    computes what it did.

    A reader of styles is different: it takes the place of the head that named them, and starts as a copy of the context
    encoder. Raises ValueError where the model names another number of styles.
    """
    if 0 < model.config.styles != config.styles:
        raise ValueError(
            f"--init knows {model.config.styles} styles, expected {config.styles} as in the data. Choose an --init and"
            " --data that agree."
        )
    if config == model.config:
        return model
    larger = LazyDiffusion(config)
    initialise(larger)
    weights = larger.state_dict()
    weights |= {name: value for name, value in model.state_dict().items() if name in weights}
    encoder = "transformer.context_encoder."
    if config.style_depth and not model.config.style_depth:
        reader = f"{encoder}naming.reader."
        own = {name: f"{encoder}{name.removeprefix(reader)}" for name in weights if name.startswith(reader)}
        weights |= {name: weights[source].clone() for name, source in own.items() if source in weights}
    larger.load_state_dict(weights)
    return larger
