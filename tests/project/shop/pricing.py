"""A helper module: it must travel with the tasks."""

from decimal import Decimal

RATE = Decimal("1.19")


def gross(net):
    return (Decimal(net) * RATE).quantize(Decimal("0.01"))
