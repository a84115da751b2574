#!/usr/bin/env bash
# Makes sure the base images of the tests and the demo are on this machine's engine. Under a second when they are.
#
#   scripts/base-images.sh [python] [other] [busybox] [redis]      all of them by default
#
#   cellwork/python:base     Python with pip
#   cellwork/python:other    another minor version of Python: worker and image need not agree
#   cellwork/busybox:base    a shell and small tools, no Python inside
#   cellwork/redis:base      the broker of compose/
#
# Each is the official image where a registry answers; elsewhere it is a stand-in made of Debian packages.
set -euo pipefail

say() { echo "base-images: $* (${SECONDS} s)" >&2; }
die() { echo "base-images: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root to run $1, and there is no sudo; run $0 once as root"
    fi
}

# Runs a command whose output matters only when it fails.
quietly() {
    local output
    output=$(mktemp -p "$work")
    "$@" >"$output" 2>&1 || { tail -n 20 "$output" >&2; return 1; }
}

# A slow download is fine, a registry that does not answer is not worth waiting for: ten seconds until the first sign.
pull() {
    local output began=$SECONDS
    output=$(mktemp -p "$work")
    docker pull "$1" >"$output" 2>&1 &
    while kill -0 $! 2>/dev/null; do
        if ! grep -q 'Pulling from' "$output" && [ $((SECONDS - began)) -ge 10 ]; then
            kill $!
            echo 'no answer from the registry in 10 s' >>"$output"
            break
        fi
        sleep 0.1
    done
    if wait $!; then return; fi
    reason=$(tail -n 1 "$output")
    return 1
}

# obtain IMAGE OFFICIAL STAND_IN…: pulled where possible, else made by the given command.
obtain() {
    local image=$1 official=$2 reason
    shift 2
    if pull "$official"; then
        docker tag "$official" "$image"
        say "$image: pulled $official"
    else
        say "$image: making a stand-in from Debian packages, because $official cannot be pulled: $reason"
        "$@" "$image" || die "$image: no stand-in either; pull or build an image like $official and tag it $image"
        say "$image: stand-in made"
    fi
}

# The machine's own Debian mirror: the one that is known to answer from here.
mirror() {
    local found
    found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
        sed -nE 's|^[^#]*(https?://[^ ]+/debian)/?( .*)?$|\1|p' | head -n 1)
    echo "${found:-http://deb.debian.org/debian}"
}

# Needs no root, changes nothing on the machine, and apt checks the signature.
debian_package() {
    local directory
    # Where this function is a condition, `set -e` is off; without the folder, the package would land in the checkout.
    directory=$(mktemp -d -p "$work") || return
    (cd "$directory" && quietly apt-get download "$1" && dpkg-deb -x ./*.deb "$2")
}

# A Debian of before a release knows that release's keys only after an update of the keyring package.
keyring() {
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! [ -e "/usr/share/keyrings/debian-archive-$1-stable.gpg" ]; then
        debian_package debian-archive-keyring "$work/keyring-$1"
        keys=$work/keyring-$1$keys
    fi
    echo "$keys"
}

debian() {
    local suite=$1 packages=$2 image=$3 root=$work/$1
    as_root mkdir "$root"
    quietly as_root debootstrap --variant=minbase --keyring="$(keyring "$suite")" --include="$packages" \
        "$suite" "$root" "$(mirror)" || return
    # As in the official image, pip installs into the one Python there is, and that is called `python` too.
    as_root sh -c "rm -f '$root'/usr/lib/python3*/EXTERNALLY-MANAGED; ln -s ../../bin/python3 '$root/usr/local/bin/python'" ||
        return
    as_root tar -C "$root" -c --exclude='./var/lib/apt/lists/*' --exclude='./var/cache/*' --exclude='./var/log/*' \
        --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' . |
        quietly docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$image"
}

# Behind a proxy that opens TLS, the machine trusts authorities of its own, and `pip install` in a container must too.
# pip brings its own list and therefore has to be told.
trust_local_authorities() {
    local image=$1 context=$work/authorities
    compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null || return 0
    mkdir "$context"
    cp /usr/local/share/ca-certificates/*.crt "$context"
    quietly docker build --network none --tag "$image" --file - "$context" <<DOCKERFILE
FROM $image
COPY *.crt /usr/local/share/ca-certificates/
RUN update-ca-certificates && printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >/etc/pip.conf
DOCKERFILE
    say "$image: and it trusts this machine's own certificate authorities"
}

busybox_tree() {
    local image=$1 root=$work/busybox applet
    debian_package busybox-static "$work/busybox-static" || return
    mkdir -p "$root"/{bin,etc,root,tmp}
    chmod 1777 "$root/tmp"
    cp "$work"/busybox-static/{,usr/}bin/busybox "$root/bin/" 2>/dev/null || [ -x "$root/bin/busybox" ] || return
    for applet in $("$root/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh nobody:x:65534:65534:nobody:/:/bin/false >"$root/etc/passwd"
    printf '%s\n' root:x:0: nogroup:x:65534: >"$root/etc/group"
    tar -C "$root" -c --owner=0 --group=0 . | quietly docker import --change 'CMD ["sh"]' - "$image"
}

# As in the official image, user 999 owns the data.
redis_layer() {
    [ -n "$(docker images --quiet cellwork/python:base)" ] || "$0" python || return
    quietly docker build --tag "$1" - <<DOCKERFILE
FROM cellwork/python:base
RUN apt-get update && apt-get install -y --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/* && \\
    install -d -o 999 -g 999 /data
DOCKERFILE
}

# Under a second name until it is complete: a run that was cut short must not look finished to the next.
ensure_python() {
    local draft=cellwork/python:draft
    obtain "$draft" python:3.12-slim debian bookworm python3,python3-pip,ca-certificates
    trust_local_authorities "$draft"
    docker tag "$draft" cellwork/python:base
    quietly docker rmi "$draft"
}
ensure_other() { obtain cellwork/python:other python:3.9-slim debian trixie python3; }
ensure_busybox() { obtain cellwork/busybox:base busybox:stable busybox_tree; }

ensure_redis() { obtain cellwork/redis:base redis:7.2-alpine redis_layer; }

image_of() {
    case $1 in
        python) echo cellwork/python:base ;;
        other) echo cellwork/python:other ;;
        busybox) echo cellwork/busybox:base ;;
        redis) echo cellwork/redis:base ;;
        *) die "no base image is called '$1'; there are: python other busybox redis" ;;
    esac
}

# Two builds at once share one apt, so what they need of it is there before they start.
prepare_apt() {
    command -v apt-get >/dev/null || return 0
    local wanted=()
    command -v debootstrap >/dev/null || wanted+=(debootstrap)
    if [ ${#wanted[@]} -gt 0 ] || ! apt-cache show busybox-static >/dev/null 2>&1; then
        quietly as_root apt-get update -qq || true
    fi
    [ ${#wanted[@]} -eq 0 ] || quietly as_root apt-get install -y -qq --no-install-recommends "${wanted[@]}"
}

# Its functions alone, for whoever reads this file with `source`.
[ "${BASH_SOURCE[0]}" = "$0" ] || return 0

PATH=$PATH:/usr/sbin:/sbin
[ $# -gt 0 ] || set -- python other busybox redis
missing=()
for name; do
    image=$(image_of "$name")
    docker image inspect "$image" >/dev/null 2>&1 || missing+=("$name")
done
[ ${#missing[@]} -gt 0 ] || exit 0
docker version >/dev/null 2>&1 || die "no Docker engine answers; start one: scripts/engine.sh"

# /tmp is often mounted nodev, where debootstrap cannot make devices.
work=$(mktemp -d -p /var/tmp cellwork-images.XXXXXX)
builds=()
clean_up() {
    for build in "${builds[@]}"; do kill -- "-$build" 2>/dev/null || true; done
    # debootstrap mounts /proc in what it builds, and may have been cut short.
    as_root rm -rf --one-file-system "$work"
}
trap clean_up EXIT
chmod 755 "$work"
prepare_apt

# Each build gets a process group, so that an interrupt ends all of it.
set -m
for name in "${missing[@]}"; do
    # Its stand-in is a layer on Python's.
    [ "$name" != redis ] || continue
    "ensure_$name" &
    builds+=($!)
done
failed=0
for build in "${builds[@]}"; do wait "$build" || failed=1; done
if [[ " ${missing[*]} " = *" redis "* ]]; then ensure_redis || failed=1; fi
exit "$failed"
