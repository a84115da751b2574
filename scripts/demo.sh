#!/bin/sh
# The demo from a checkout: makes an engine and base images where there are none, then runs `cellwork demo`.
# Without an engine the demo still runs, in plain processes, and says so. An engine that was started here ends with it.
set -eu
cd "$(dirname "$0")/.."
started=no
scripts/engine.sh answers || started=yes
if scripts/engine.sh && scripts/base-images.sh python busybox; then
    export CELLWORK_BASE_IMAGE=cellwork/python:base DEMO_BUSYBOX=cellwork/busybox:base
fi
# Ctrl-C is the demo's to answer; what comes after it is ours.
trap : INT
status=0
.venv/bin/python -m cellwork demo "$@" || status=$?
[ "$started" = no ] || scripts/engine.sh stop
exit "$status"
