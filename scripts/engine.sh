#!/bin/sh
# Makes a Docker engine answer on this machine; leaves one that already answers alone.
#
#   scripts/engine.sh          start an engine if none answers (installs Debian's docker.io if there is none)
#   scripts/engine.sh answers  say by the exit status whether one answers; changes nothing
#   scripts/engine.sh stop     stop the engine that this script started, and no other
set -eu

say() { echo "engine: $*" >&2; }
die() { say "$@"; exit 1; }

if [ "$(id -u)" = 0 ]; then
    state=/var/log/cellwork
    sudo=
else
    state=${XDG_STATE_HOME:-$HOME/.local/state}/cellwork
    sudo=sudo
fi
log=$state/dockerd.log
pidfile=$state/dockerd.pid
enginepid=/var/run/docker.pid
socket=/var/run/docker.sock
address=${DOCKER_HOST:-unix://$socket}

# The engine is asked through its own API, so that a machine without the docker command is served too.
# Only an address curl cannot speak to (ssh://, TLS) needs the command.
answers() {
    case $address in
        unix://*)
            if command -v curl >/dev/null; then
                [ "$(curl --silent --max-time 5 --unix-socket "${address#unix://}" http://engine/_ping)" = OK ]
                return
            fi ;;
    esac
    docker version >/dev/null 2>&1
}

as_root() {
    if [ -z "$sudo" ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root, and there is no sudo; as root, run: apt-get install docker.io, then $0"
    fi
}

# A pid may have been given to another process since it was written down; the name says whether it still is an engine.
running() {
    [ -r "$1" ] && pid=$(cat "$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]
}

install_engine() {
    command -v apt-get >/dev/null ||
        die "no dockerd on this machine and no apt-get to install it with; install Docker, or on Debian: apt-get install docker.io"
    say "no dockerd on this machine, installing Debian's docker.io"
    # From Debian 13 on, docker.io only recommends the docker command.
    { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends docker.io iptables ca-certificates \
        $(apt-cache --names-only search '^docker-cli$' | cut -d ' ' -f 1); } >&2 ||
        die "could not install Docker; as root, run: apt-get install docker.io"
}

start() {
    ! answers || exit 0
    [ "$address" = "unix://$socket" ] ||
        die "no engine answers at DOCKER_HOST=$address; start it, or unset DOCKER_HOST: then Debian's docker.io is installed here"
    # dockerd lives in sbin, which is not on every user's PATH.
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    command -v dockerd >/dev/null || install_engine
    if [ -S "$socket" ] && [ ! -w "$socket" ]; then
        die "$socket refuses $(id -un); run: sudo usermod -aG docker $(id -un), then log in again"
    fi
    mkdir -p "$state"
    began=$(date +%s)
    # Installing the package may have started one, which then only needs a moment.
    if ! running "$enginepid"; then
        # A password is asked for here, where there is still a terminal.
        [ -z "$sudo" ] || as_root true
        say "starting dockerd, log in $log"
        # A session of its own: the engine outlives this shell, its terminal and a Ctrl-C meant for another. And nothing of
        # this shell's stays open in it, or whoever reads this script through a pipe would wait for the engine's end.
        # A user who needed sudo also needs a socket they may open.
        (
            exec </dev/null >"$log" 2>&1
            exec $sudo setsid dockerd ${sudo:+--group "$(id -gn)"}
        ) &
        launched=$!
    fi
    # Not kill -0: what sudo runs is root's, and may not be signalled by who called it.
    until answers; do
        if [ $(($(date +%s) - began)) -ge 60 ] || { [ -n "${launched:-}" ] && ! [ -e "/proc/$launched" ]; }; then
            grep -v module=grpc "$log" | tail -n 10 >&2
            die "dockerd does not answer (see above and $log); docker.io is installed, so try it by hand: dockerd --debug"
        fi
        sleep 0.2
    done
    # The engine's own note of its pid: under sudo, the one this shell knows is sudo's.
    [ -z "${launched:-}" ] || cat "$enginepid" >"$pidfile"
    say "answers after $(($(date +%s) - began)) s"
}

stop() {
    running "$pidfile" || { say "no engine that this script started is running"; exit 0; }
    # The shell's own: Debian's smallest systems have no command of that name.
    as_root sh -c 'kill "$1"' sh "$pid"
    waited=0
    while running "$pidfile"; do
        [ "$waited" -lt 300 ] || die "dockerd (pid $pid) still runs after 30 s; see $log"
        waited=$((waited + 1))
        sleep 0.1
    done
    rm -f "$pidfile"
    say "stopped"
}

case ${1:-start} in
    start) start ;;
    answers) answers ;;
    stop) stop ;;
    *) die "usage: $0 [start|answers|stop]" ;;
esac
