"""Sends the three steps, and prints where each goes."""

from training import prepare, report, train

result = (prepare.s(2000) | train.s() | report.s()).apply_async()
print(result.get(timeout=3600))
