"""Exceptions of the shop's own."""


class OutOfStock(Exception):
    """With an initializer that does not take what `args` holds."""

    def __init__(self, article, left=0):
        super().__init__(f"{article}: {left} left")
        self.article = article


class Busy(Exception):
    """Worth a retry."""
