#!/usr/bin/env bash
# Fills build/gpu-wheels with what a GPU machine without a network may lack: the peers, and what the tests and the build need.
# Neither torch nor anything of NVIDIA's: those are there or nothing runs. At most 48 MiB in all, so that it can be carried.
#
#   bash bench/gpu_wheels.sh [PYTHON_VERSION]      default 3.12, x86-64 Linux
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=${1:-3.12}
folder=build/gpu-wheels
most=$((48 << 20))
pinned=(monai segmentation-models-pytorch exacta nnunetv2 pytest hypothesis pybind11 ninja)
pure=(pluggy iniconfig packaging pygments sortedcontainers attrs pytest-xdist execnet)

rm -rf "$folder" && mkdir -p "$folder"
words=(--no-deps --disable-pip-version-check -q -c constraints.txt -d "$folder")
platforms=()
for glibc in 2_17 2_24 2_27 2_28; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
target=(--only-binary=:all: --python-version "$version" --implementation cp --platform manylinux2014_x86_64
    --platform manylinux1_x86_64 "${platforms[@]}")
for package in "${pinned[@]}" "${pure[@]}"; do
    # A package of pure Python may come as a source archive only: build its wheel here.
    ${PYTHON:-python3} -m pip download "${words[@]}" "${target[@]}" "$package" 2>/dev/null ||
        ${PYTHON:-python3} -m pip wheel "${words[@]/#-d/-w}" "$package" ||
        echo "left out: $package" >&2
done
if compgen -G "$folder/torch-*" >/dev/null || compgen -G "$folder/nvidia*" >/dev/null; then
    echo "gpu_wheels: torch or NVIDIA's packages do not belong into $folder" >&2
    exit 1
fi
bytes=$(cat "$folder"/*.whl | wc -c)
echo "$(find "$folder" -name '*.whl' | wc -l) wheels, $((bytes >> 10)) KiB in $folder"
[ "$bytes" -le "$most" ] || { echo "gpu_wheels: more than $((most >> 20)) MiB" >&2; exit 1; }
