"""Tasks that are given secrets."""

import os
import sys

from cellwork import current

from .app import app

#: They are there when the module is imported.
AT_IMPORT = os.environ.get("DB_PASSWORD")


@app.task(secrets=("DB_PASSWORD",))
def tells():
    value = os.environ["DB_PASSWORD"]
    print("out", value)
    print("err", value, file=sys.stderr)
    current.update_state(state="PROGRESS", meta={"said": value})
    return {"length": len(value), "at import": value == AT_IMPORT, "value": value}


@app.task(secrets={"PGPASSWORD": "DB_PASSWORD"})
def raises():
    raise ValueError(f"cannot connect with {os.environ['PGPASSWORD']}")


@app.task(secrets={"TOKEN": "FROM_FILE"})
def waits(seconds):
    import time

    time.sleep(seconds)
    return len(os.environ["TOKEN"])


@app.task(secret_env={"PGPASSWORD": "database/db.password"})
def asks_the_cluster():
    return os.environ["PGPASSWORD"][::-1]


@app.task(secrets=("MISSING",))
def misses():
    return None
