#!/bin/sh
# bundle.sh [DIR]: puts what all.sh needs into DIR (build-gpu): the programs, and of the libraries those that a machine may lack. Nothing of NVIDIA's, and
# nothing of the C library: where that is older than here, build there.
set -eu
cd "$(dirname "$0")/../.."
to=${1:-build-gpu}
rm -rf "$to"
mkdir -p "$to/src/cli" "$to/tests/gpu" "$to/lib"
cp build/src/cli/fermata "$to/src/cli/"
cp build/tests/gpu/gpu_device "$to/tests/gpu/"
strip "$to/src/cli/fermata" "$to/tests/gpu/gpu_device"
ldd build/src/cli/fermata | awk '$3 ~ /^\// && $1 !~ /^(libc|libm|libdl|libpthread|librt|libresolv|ld-linux.*)\.so/ { print $3 }' | while read -r library; do
  cp -L "$library" "$to/lib/"
done
du -sh "$to"
