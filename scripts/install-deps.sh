#!/bin/sh
# Install what the build needs; with the argument "check", what `make check` needs as well;
# with "kernels", what `make check-kernels` does.
# Runs as root on Debian 12 or Ubuntu, and does nothing when all is there.
set -eu
packages="build-essential meson ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev libjansson-dev libxxhash-dev libmnl-dev libnftables-dev libnftables1 liblz4-dev libzstd-dev zlib1g-dev nettle-dev libyaml-dev libmicrohttpd-dev libgnutls28-dev libsqlite3-dev python3"
optional=""
case "${1:-}" in
  "") ;;
  check) packages="$packages clang python3-protobuf strace tcpdump nftables iproute2 tmux lz4 zstd zsh"
    optional="criu fish golang-go default-jdk-headless nodejs nginx-light redis-server sqlite3 postgresql bindfs runc btrfs-progs xfsprogs squashfs-tools erofs-utils" ;;
  kernels) packages="$packages apparmor qemu-system-x86 busybox-static e2fsprogs zstd criu python3-protobuf" ;;
  *) echo "usage: $0 [check|kernels]" >&2; exit 2 ;;
esac

missing_of() {
  for package in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || printf '%s ' "$package"
  done
}

missing=$(missing_of $packages)
missing_optional=$(missing_of $optional)
[ -n "$missing$missing_optional" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  [ -n "$missing" ] || exit 0
  echo "$0: missing packages (run as root to install them): $missing" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
for package in $missing_optional; do
  if apt-cache policy "$package" | grep -q 'Candidate: [^(]'; then
    missing="$missing $package"
  else
    echo "$0: no package $package here, going on without it" >&2
  fi
done
[ -z "$missing" ] || apt-get install -y --no-install-recommends $missing
