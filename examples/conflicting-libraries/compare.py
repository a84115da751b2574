"""Sends the same list through both versions at once, and prints what each makes of it."""

from celery import group

from versions import sort_with_21, sort_with_25

#: pytz was released as 2004d before there were rules for versions.
VERSIONS = ["2024.1", "2004d", "1.0", "1.0.post1", "1.0rc1"]

both = group(sort_with_21.s(VERSIONS), sort_with_25.s(VERSIONS))
for found in both.apply_async().get(timeout=600):  # seconds; the first time, the images are built
    print(found["library"])
    print("  sorted ", " < ".join(found["sorted"]))
    print("  refused", "; ".join(found["refused"]) or "nothing")
