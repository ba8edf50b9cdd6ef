#!/bin/sh
# Installs what the test of the containers needs beside what tools/setup.sh does.
# Usage: compose/setup-test.sh
# Needs root and a Debian mirror; the base image takes some 400 MB among podman's images.
set -eu
cd "$(dirname "$0")/.."

missing=
# Command that shows that a package is there, and the package.
need_package() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

need_package podman podman
need_package podman-compose podman-compose
# Not crun, podman's first choice: it refuses systems with both versions of control groups.
need_package runc runc
need_package mmdebstrap mmdebstrap
need_package iptables iptables
# The networks and the names in them; programs that are on nobody's PATH.
[ -e /usr/lib/podman/netavark ] || missing="$missing netavark"
[ -e /usr/lib/podman/aardvark-dns ] || missing="$missing aardvark-dns"

if [ "$(id -u)" != 0 ]; then
    echo "The test publishes ports and mounts file systems with podman: run it as root." >&2
    exit 1
fi
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These Debian packages, or your system's counterparts, are missing:$missing" >&2
        exit 1
    fi
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q --yes --no-install-recommends $missing
fi
tools/setup.sh test
