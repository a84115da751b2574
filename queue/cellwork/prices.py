"""What the use of a sandbox costs, by a table of prices. Pure."""

from pathlib import Path

import msgspec

#: Digits and letters of an ISO 4217 code, or a sign; it is printed.
_CURRENCY_LENGTH = 10

_HOUR, _GIB = 3600.0, float(1 << 30)


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """Of some runs together."""

    runs: int = 0
    #: Processor-seconds that were used.
    cpu_seconds: float = 0.0
    #: Seconds times GiB of memory limit, and times GPUs: what was kept from others.
    memory_gib_seconds: float = 0.0
    gpu_seconds: float = 0.0
    #: Received and sent.
    network_bytes: float = 0.0


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the command ``cellwork usage --prices``: what is not named costs nothing."""

    currency: str = ""
    #: An hour of one processor; of a GiB of memory limit; of one GPU.
    cpu_hour: float = 0.0
    memory_gib_hour: float = 0.0
    gpu_hour: float = 0.0
    #: A GiB received or sent.
    network_gib: float = 0.0
    #: One sandbox.
    run: float = 0.0

    def cost(self, use: Use) -> float:
        """In the table's currency."""
        return (
            use.runs * self.run
            + use.cpu_seconds / _HOUR * self.cpu_hour
            + use.memory_gib_seconds / _HOUR * self.memory_gib_hour
            + use.gpu_seconds / _HOUR * self.gpu_hour
            + use.network_bytes / _GIB * self.network_gib
        )


def read(file: Path) -> Prices:
    """A table in TOML.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such table; says which field, and what is accepted.
    """
    try:
        prices = msgspec.toml.decode(file.read_bytes(), type=Prices)
    except msgspec.DecodeError as error:
        accepted = ", ".join(name for name in Prices.__struct_fields__ if name != "currency")
        raise ValueError(f"{file}: {error}. It may have currency, a text, and numbers: {accepted}") from error
    if len(prices.currency) > _CURRENCY_LENGTH:
        raise ValueError(f"{file}: currency has at most {_CURRENCY_LENGTH} characters")
    return prices
