#!/usr/bin/env bash
# Builds the kernel tests for AArch64 and runs them with the NEON and the scalar
# kernels under QEMU. Exits with 77 (skipped, for ctest) where a tool is missing.
#   run_under_qemu.sh BUILD_DIRECTORY [arguments of the test binary]
set -euo pipefail
build=$1
shift
compiler=aarch64-linux-gnu-g++
for tool in "$compiler" qemu-aarch64 cmake ninja; do
  if ! command -v "$tool" > /dev/null; then
    echo "skipped: no $tool (Debian: apt install g++-aarch64-linux-gnu qemu-user cmake ninja-build)"
    exit 77
  fi
done
launcher=()
if command -v ccache > /dev/null; then launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
cmake -G Ninja -S "$(dirname "${BASH_SOURCE[0]}")" -B "$build" "${launcher[@]}" \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_EXE_LINKER_FLAGS=-static
cmake --build "$build" --target quash_kernel_tests -j "$(nproc)"
for isa in neon scalar; do
  QUASH_ISA=$isa qemu-aarch64 "$build/tests/quash_kernel_tests" "$@"
done
