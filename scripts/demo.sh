#!/bin/sh
# The demo from a checkout: makes an engine and base images where there are none, then runs `cellwork demo`.
# Without an engine the demo still runs, in plain processes, and says so.
set -eu
cd "$(dirname "$0")/.."
if scripts/engine.sh && scripts/base-images.sh python busybox; then
    export CELLWORK_BASE_IMAGE=cellwork/python:base DEMO_BUSYBOX=cellwork/busybox:base
fi
exec .venv/bin/python -m cellwork demo "$@"
