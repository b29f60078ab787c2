#!/bin/bash
# test-setup.sh: install what the tests use on a Debian machine: a static busybox for the test images,
# clients to look from outside (curl, ip), and the packages that examples/stack runs through rootfs:/.
#
# Root, no questions, safe to run again. Starts no service: nginx, Redis and PostgreSQL run in
# wharf's containers only. Does nothing when everything is there.
set -euo pipefail

PACKAGES=(
    apache2-utils    # htpasswd: a registry with a password
    busybox-static   # the test images
    ca-certificates
    cpio             # tests/vm: the first stage of the second kernel
    curl             # published ports, from other namespaces
    docker-registry  # images to pull, and a place to push to
    e2fsprogs        # tests/vm: its disk
    gcc libc6-dev    # the linker that cargo calls
    iproute2         # ip: lo up, foreign namespaces
    nginx-light postgresql redis-server redis-tools # examples/stack
    openssl          # certificates of test registries
    procps
    python3          # programs that attack from inside of containers
    qemu-system-x86  # tests/vm: the second kernel
    skopeo           # reads what was pushed and saved, writes what is loaded
    strace           # makes system calls of a start fail
    util-linux       # unshare, nsenter, setsid
)

say() { echo "test-setup: $*" >&2; }

missing=()
for package in "${PACKAGES[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    say "nothing to do"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    say "must be root to install: ${missing[*]}"
    exit 1
fi

# Packages ask this program whether they may start their services; 101 means no.
# A machine that has an answer of its own keeps it.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
for attempt in 1 2 3 4 5; do
    if apt-get update -qq </dev/null; then
        break
    fi
    if [ "$attempt" = 5 ]; then
        say "cannot update the package lists"
        exit 1
    fi
    say "apt-get update failed, trying again"
    sleep $((attempt * 3))
done
say "installing ${missing[*]}"
apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 \
    "${missing[@]}" </dev/null >/dev/null
say "done"
