#!/bin/sh
# Installs what the bench needs beside what tools/setup.sh does. Usage: bench/setup.sh
# Needs root, /dev/net/tun and a Debian mirror; the images take some 4 GB in the cache.
set -eu
cd "$(dirname "$0")/.."

missing=
# Command that shows that a package is there, and the package.
need_package() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

# The peers are installed by tools/setup.sh: tests run them too.
need_package mmdebstrap mmdebstrap

if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These Debian packages, or your system's counterparts, are missing:$missing" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        echo "Missing packages. Run this, then try again:" >&2
        echo "  sudo apt-get install --yes --no-install-recommends$missing" >&2
        exit 1
    fi
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends $missing
fi

if [ "$(id -u)" != 0 ] || [ ! -c /dev/net/tun ]; then
    echo "The bench makes network namespaces and TUN devices: run it as root, with /dev/net/tun." >&2
    exit 1
fi
tools/setup.sh test
