"""Sends the pipeline: one extract, a transform for each region, one load when all of them are done.

python pipeline.py [REGION…]
"""

import sys

from celery import group

from zones import alert, extract, load, transform

REGIONS = ["Africa", "America", "Antarctica", "Asia", "Australia", "Europe", "Pacific"]


def main(regions):
    pipeline = extract.s() | group(transform.s(region) for region in regions) | load.s()
    result = pipeline.on_error(alert.s()).apply_async()
    found = result.get(timeout=600, propagate=False)  # seconds; the first time, an image is built
    if result.failed():
        return f"the pipeline failed: {found}"
    for row in found:
        print(f"{row['region']:12} {row['zones']:3} zones, southernmost {row['southernmost']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or REGIONS))
