#!/bin/sh
# Writes compose/requirements.txt anew: what the worker's image installs, every version pinned by its hashes.
# Run it after a change of the dependencies in pyproject.toml, and to take newer versions.
set -eu
cd "$(dirname "$0")/.."
tool=$(mktemp -d)
trap 'rm -rf "$tool"' EXIT
.venv/bin/pip install --quiet --disable-pip-version-check --target "$tool" uv
"$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --custom-compile-command scripts/lock.sh --extra docker --extra kubernetes --extra flower --extra cli --extra otel \
    pyproject.toml --output-file compose/requirements.txt
"$tool/bin/uv" pip compile --quiet --universal --python-version 3.11 --no-annotate \
    --custom-compile-command scripts/lock.sh - --output-file compose/build-constraints.txt <<BUILD
hatchling>=1.27
BUILD
