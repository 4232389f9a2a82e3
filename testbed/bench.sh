#!/bin/sh
# Installs what the bench compares against and measures with, says so, builds adit with --release, and runs the bench.
#
#   testbed/bench.sh [flag of the bench ...]      (--help lists them)
set -eu

cd "$(dirname "$0")/.."
PEERS=$PWD/.cache/peers
BORINGTUN=0.7.1
GOTATUN=0.10.2

say() { echo "bench: $*"; }
die() { echo "bench: $*" >&2; exit 1; }

testbed/setup.sh packages

missing=""
for pair in iperf3:iperf3 wg:wireguard-tools; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null 2>&1 || die "missing programs of the packages$missing, and no apt-get to install them with"
    say "installing the Debian packages that are missing:$missing"
    apt-get update -q >/dev/null || die "apt-get update failed"
    # Without recommended packages: those of wireguard-tools are a kernel.
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >/dev/null ||
        die "apt-get install failed:$missing"
fi

peer() { # crate, version, program
    "$PEERS/bin/$3" --version 2>/dev/null | grep -qF "$2" && return
    say "building $1 $2 from crates.io into $PEERS (a minute or two)"
    cargo install --quiet --locked --root "$PEERS" --target-dir target/peers "$1@$2" || die "cargo install $1 failed"
}
peer boringtun-cli "$BORINGTUN" boringtun-cli
peer gotatun-cli "$GOTATUN" gotatun

cargo build --quiet --release --locked --package adit --package adit-testbed --bin adit --bin bench --bin bench-control
"${CARGO_TARGET_DIR:-target}/release/bench-control"
exec "${CARGO_TARGET_DIR:-target}/release/bench" \
    --boringtun "$PEERS/bin/boringtun-cli" --gotatun "$PEERS/bin/gotatun" "$@"
