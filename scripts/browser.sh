#!/bin/sh
# Makes Debian's chromium be there, for the tests of Flower's pages; leaves one that is there alone.
set -eu

say() { echo "browser: $*" >&2; }

if command -v chromium >/dev/null; then exit 0; fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
say "no chromium, installing Debian's"
{ $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >&2 || {
    say "that failed; as root, run: apt-get install chromium"
    exit 1
}
