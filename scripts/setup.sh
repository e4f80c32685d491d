#!/bin/sh
# Bring a machine that has Python and nothing else to the point where pictofs runs from this checkout.
#
#   scripts/setup.sh VENV run     what `make demo` needs: FUSE, a virtual environment, pictofs with its sandbox
#   scripts/setup.sh VENV dev     that, and the tools of `make check` and `make test`
#   scripts/setup.sh programs     the programs of others that the tests drive on the mount (rsync, exiftool, …)
#
# What is already there is left alone; only what is missing comes through apt, with sudo unless we are root.
# PYTHON names the interpreter (default python3; 3.10 or newer). Run from the top of the checkout.
set -eu

PYTHON=${PYTHON:-python3}
PROGRAMS="rsync=rsync exiftool=libimage-exiftool-perl getfattr=attr mogrify=imagemagick gio=libglib2.0-bin \
    unzip=unzip zip=zip shellcheck=shellcheck systemd-analyze=systemd"

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed, and there is no sudo, for: $*"
    fi
}

# apt_install WHY PACKAGE…  A package written a|b has two names in different releases; the first known one is taken.
apt_install() {
    why=$1
    shift
    command -v apt-get >/dev/null || die "$why; install with your system's package manager: $*"
    say "$why: installing $* with apt"
    as_root apt-get update -qq >&2 || say "apt-get update failed; going on with the package lists at hand"
    packages=""
    for names in "$@"; do
        first=${names%%|*}
        if apt-cache show "$first" >/dev/null 2>&1; then
            packages="$packages $first"
        else
            packages="$packages ${names##*|}"
        fi
    done
    # shellcheck disable=SC2086 # a list of names
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
        --no-install-recommends $packages >&2
}

ensure_python() {
    command -v "$PYTHON" >/dev/null || apt_install "there is no $PYTHON" python3 python3-venv
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "Python 3.10 or newer is needed, this is $("$PYTHON" --version); name another with PYTHON=python3.x"
    "$PYTHON" -c 'import ensurepip' 2>/dev/null ||
        apt_install "Python comes without its venv module" \
            "$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')|python3-venv"
}

has_library() { "$PYTHON" -c 'import sys; from ctypes.util import find_library; sys.exit(not find_library(sys.argv[1]))' "$1"; }

# The drive uses libfuse 3. The tests run on both bindings, so "dev" wants libfuse 2 as well.
ensure_fuse() {
    missing=""
    has_library fuse3 && command -v fusermount3 >/dev/null || missing="fuse3"
    [ "$1" = run ] || has_library fuse || missing="$missing libfuse2t64|libfuse2"
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || apt_install "FUSE is missing" $missing
    [ -e /dev/fuse ] || (as_root modprobe fuse) 2>/dev/null || true
    [ -e /dev/fuse ] || say "there is no /dev/fuse here, so nothing can be mounted (containers: --device /dev/fuse --cap-add SYS_ADMIN)"
}

ensure_venv() {
    # An environment holds absolute paths: it is useless once the checkout has moved or its interpreter is gone.
    if ! "$1/bin/python" -m pip --version >/dev/null 2>&1 ||
        [ "$(cat "$1/.made-for" 2>/dev/null || pwd)" != "$(pwd)" ]; then
        say "making the virtual environment $1"
        "$PYTHON" -m venv --clear "$1"
    fi
    pwd >"$1/.made-for"
    # --group (pip 25.1) reads [dependency-groups]; the pip that comes with the system is often older.
    "$1/bin/python" -m pip install --help | grep -q -e --group ||
        "$1/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
}

ensure_programs() {
    missing=""
    for entry in $PROGRAMS; do
        command -v "${entry%%=*}" >/dev/null || missing="$missing ${entry#*=}"
    done
    # shellcheck disable=SC2086 # a list of names
    [ -z "$missing" ] || apt_install "programs that the tests drive are missing" $missing
}

case "${2:-${1:-}}" in
run | dev)
    ensure_python
    ensure_fuse "$2"
    ensure_venv "$1"
    say "installing pictofs into $1"
    if [ "$2" = dev ]; then
        "$1/bin/python" -m pip install --quiet --editable '.[sandbox]' --group dev
    else
        "$1/bin/python" -m pip install --quiet --editable '.[sandbox]'
    fi
    ;;
programs)
    ensure_programs
    ;;
*)
    die "usage: scripts/setup.sh VENV run|dev, or scripts/setup.sh programs"
    ;;
esac
