"""Checks of settings that many mixers have; each raises ConfigError, naming the mixer's setting and the mend."""

from wren.errors import ConfigError


def check_counts(mixer: str, config: object, *names: str) -> None:
    """That the settings of these names are at least 1, where they are not None."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{mixer}.{name} is {value}; it must be at least 1.")


def check_conv_size(mixer: str, conv_size: int | None) -> None:
    """That a short convolution, where there is one, sees some past."""
    if conv_size is not None and conv_size < 2:
        raise ConfigError(f"{mixer}.conv_size is {conv_size}; use 2 or more, or none.")


def check_split(mixer: str, dim: int, num_heads: int, head_dim: int | None) -> None:
    """That heads without a width of their own divide the model's."""
    if head_dim is None and dim % num_heads:
        raise ConfigError(
            f"A width of {dim} cannot be split over {num_heads} {mixer} heads; "
            "choose num_heads that divides it, or set head_dim."
        )
