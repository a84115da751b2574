#!/bin/sh
# Runs a compose command on compose/compose.yaml with whichever compose this machine has: v2, or docker-compose from 1.29 on.
# Where there is none, Debian's is installed.
#
#   scripts/compose.sh up --detach
set -eu
file=$(cd "$(dirname "$0")/.." && pwd)/compose/compose.yaml

if ! docker compose version >/dev/null 2>&1 && ! command -v docker-compose >/dev/null; then
    command -v apt-get >/dev/null || { echo 'compose: none here; install the compose plugin of Docker' >&2; exit 1; }
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    echo "compose: none here, installing Debian's" >&2
    { $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends docker-compose; } >&2
fi
if docker compose version >/dev/null 2>&1; then
    exec docker compose --file "$file" "$@"
fi
exec docker-compose --file "$file" "$@"
