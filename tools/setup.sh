#!/bin/sh
# Makes the virtual environment and installs what is missing. Usage: setup.sh demo|test|lab
# Needs nothing but a Debian or Ubuntu with Python 3.11 or later; other systems get told what to do.
set -eu

purpose=${1:?usage: setup.sh demo|test|lab}
python=${PYTHON:-python3}
venv=${VENV:-.venv}

# Command that shows that a package is there, and the package.
need_package() {
    command -v "$1" >/dev/null 2>&1 && return 0
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1 && return 0
    missing="${missing-} $2"
}

install_missing() {
    [ -n "${missing-}" ] || return 0
    set -- $missing
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "These Debian packages, or your system's counterparts, are missing: $*" >&2
        exit 1
    fi
    if [ "$(id -u)" = 0 ]; then
        sudo=
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        sudo=sudo
    else
        echo "Missing packages. Run this, then try again:" >&2
        echo "  sudo apt-get install --yes --no-install-recommends $*" >&2
        exit 1
    fi
    $sudo apt-get update -q
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q --yes --no-install-recommends "$@"
}

need_package "$python" python3
need_package mkfs.ext4 e2fsprogs
if [ "$purpose" != demo ]; then
    need_package unshare util-linux
    need_package cmp diffutils
    need_package git git
    need_package qemu-nbd qemu-utils
    need_package mkfs.xfs xfsprogs
    need_package losetup mount
    need_package tshark tshark
    need_package etcd etcd-server
    need_package etcdctl etcd-client
    # Tests start servers of their own; one that Debian's package starts stands in nobody's way.
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="${missing-} postgresql"
    need_package setpriv util-linux
    # The peers of the bench, which starts daemons of its own, with keys of its own.
    need_package ip iproute2
    need_package sshd openssh-server
    need_package ssh openssh-client
    need_package rsync rsync
    need_package casync casync
    need_package zstd zstd
    need_package openssl openssl
    need_package gzip gzip
    need_package swanctl strongswan-swanctl
    [ -e /usr/lib/ipsec/charon ] || missing="${missing-} strongswan-charon libcharon-extra-plugins"
    [ -e /usr/lib/ipsec/charon ] || missing="$missing libstrongswan-standard-plugins"
fi
# Packages without units: libvirt's daemon is there, and nothing starts it.
if [ "$purpose" = lab ]; then
    need_package qemu-system-x86_64 qemu-system-x86
    need_package libvirtd libvirt-daemon
    need_package virsh libvirt-clients
    [ -e /usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so ] ||
        missing="${missing-} libvirt-daemon-driver-qemu"
    need_package swtpm swtpm
    need_package swtpm_setup swtpm-tools
    [ -e /usr/share/OVMF/OVMF_CODE_4M.fd ] || missing="${missing-} ovmf"
    need_package nsenter util-linux
    need_package ps procps
    # What libvirt's Python module is built with, and the guests' program.
    need_package gcc gcc
    need_package pkg-config pkg-config
    [ -e /usr/include/libvirt/libvirt.h ] || missing="${missing-} libvirt-dev"
    [ -e /usr/include/stdio.h ] || missing="${missing-} libc6-dev"
    headers="import os, sysconfig; open(sysconfig.get_path('include') + '/Python.h')"
    "$python" -c "$headers" 2>/dev/null || missing="${missing-} python3-dev"
fi
# Debian splits venv from Python; without ensurepip a virtual environment cannot be made.
if command -v "$python" >/dev/null 2>&1 && ! "$python" -c 'import ensurepip' 2>/dev/null; then
    missing="${missing-} python3-venv"
fi
install_missing

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Watari needs Python 3.11 or later; $python is $("$python" --version)." >&2
    echo "Name another one: make PYTHON=python3.12 ..." >&2
    exit 1
fi

# Installed again only when the project's requirements or the purpose have changed.
stamp="$venv/.installed-$purpose"
[ "$stamp" -nt pyproject.toml ] && exit 0
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
extra=
[ "$purpose" = test ] && extra='[dev]'
[ "$purpose" = lab ] && extra='[dev,libvirt]'
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".$extra"
touch "$stamp"
