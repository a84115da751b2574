#!/bin/sh
# The whole test run, cheapest first; it ends at the first stage that fails. Arguments go to pytest.
#
#   scripts/test.sh [-k expression] [-x] …
set -eu
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH

die() { echo "test: $*" >&2; exit 1; }

stage() {
    title=$1
    shift
    printf '\n== %s\n' "$title"
    began=$(date +%s)
    status=0
    "$@" || status=$?
    printf '== %s: %s s\n' "$title" $(($(date +%s) - began))
    [ "$status" = 0 ] || die "$title failed (exit $status)"
}

# An expression such as -k may leave nothing of one half to run; that is pytest's exit 5, and no failure then.
tests() {
    status=0
    pytest "$@" || status=$?
    if [ "$status" = 5 ] && [ "$narrowed" = yes ]; then status=0; fi
    return "$status"
}

# Two halves side by side, a file in one of them as a whole: most of what these tests do is wait.
halves() { tests -n 2 --dist loadfile --no-loadscope-reorder "$@"; }

[ -x .venv/bin/pytest ] || die "no .venv with the test tools; run: make venv"
# Half of the tests are about real containers: skipping them would call an untested project tested.
scripts/engine.sh || die "the tests need a Docker engine; as root, run: apt-get install docker.io, then scripts/engine.sh"
scripts/base-images.sh
scripts/programs.sh
narrowed=no
[ $# = 0 ] || narrowed=yes

stage 'ruff check' ruff check
stage 'ruff format' ruff format --check
stage 'mypy' mypy
stage 'import-linter' lint-imports
stage 'unit tests' halves tests/unit "$@"
stage 'tests against real engines' halves tests --ignore tests/unit "$@"
printf '\nall stages passed\n'
