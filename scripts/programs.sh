#!/bin/sh
# Makes the programs be there that only tests need: chromium for Flower's pages, an SSH server for engines behind one, Podman.
# Leaves those that are there alone.
set -eu

say() { echo "programs: $*" >&2; }

missing=
command -v chromium >/dev/null || missing="chromium fonts-dejavu-core"
[ -x /usr/sbin/sshd ] && command -v ssh >/dev/null || missing="$missing openssh-server openssh-client"
command -v podman >/dev/null || missing="$missing podman"
[ -n "$missing" ] || exit 0
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
say "installing Debian's $missing"
# shellcheck disable=SC2086
{ $sudo apt-get update -qq && $sudo apt-get install -y -qq --no-install-recommends $missing; } >&2 || {
    say "that failed; as root, run: apt-get install $missing"
    exit 1
}
