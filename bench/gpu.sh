#!/usr/bin/env bash
# What needs an NVIDIA GPU, in calls of under 6 minutes each; what they find lands in $OUT (default runs/gpu).
#
#   bash bench/gpu.sh checks    build, a look at every backend and path, the test suites, compute-sanitizer
#   bash bench/gpu.sh bench     build, the rows that stand for all, the targets
#   bash bench/gpu.sh more      build, the other rows; under 10 minutes
#   FASTLOSS_DRY=1 bash bench/gpu.sh MODE      the same on a CPU, at tiny sizes: shows that it runs, measures nothing
#
# What follows `bench` or `more` goes to `fastloss bench --gpu` (--cases dice, --peers smp,monai). It needs nvcc, torch
# and no network. Each step has its budget in seconds, goes on after a failure, and leaves a line in $OUT/MODE.jsonl.
# Peers that the machine lacks are taken from build/gpu-wheels (bench/gpu_wheels.sh fills it) and left out if they are
# not there either. What Triton and Inductor compile stays in build/gpu-cache for the next call.
# Environment: OUT, FASTLOSS_DRY, FASTLOSS_GPU_SECONDS (all of a call), PYTHON, TORCH_CUDA_ARCH_LIST (default 9.0),
# FASTLOSS_COMMIT (what the record says where there is no .git).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

mode=${1:-}
case $mode in
checks | bench) LIMIT=350 ;;
more) LIMIT=590 ;;
*)
    echo "usage: bash bench/gpu.sh checks | bench | more" >&2
    exit 2
    ;;
esac
shift
export OUT=${OUT:-runs/gpu} FASTLOSS_DRY=${FASTLOSS_DRY:-0}
PY=${PYTHON:-$(command -v python3)}
dry=$([ "$FASTLOSS_DRY" = 0 ] || echo 1)
LIMIT=${FASTLOSS_GPU_SECONDS:-$LIMIT}
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
rm -f "$OUT/$mode.jsonl" "$OUT/$mode"*.log
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
site=$scratch/site # what is installed here goes with this call
export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
export TORCHINDUCTOR_CACHE_DIR=$PWD/build/gpu-cache/inductor TRITON_CACHE_DIR=$PWD/build/gpu-cache/triton

left() { echo $((LIMIT - SECONDS)); }

# step NAME BUDGET LOG COMMAND…: run it for at most its budget (and what is left), note how it ended.
step() {
    local name=$1 budget=$2 log=$OUT/$mode-$3.log began=$SECONDS own=$scratch/$1.out status last
    shift 3
    [ "$budget" -le "$(left)" ] || budget=$(left)
    if [ "$budget" -lt 3 ]; then
        note "$name" 0 -1 "no time left"
        return
    fi
    timeout -k 5 "$budget" "$@" >"$own" 2>&1
    status=$?
    { echo "=== $name ($((SECONDS - began)) s of $budget, status $status)"; cat "$own"; } >>"$log"
    last=$(grep -v '^[[:space:]]*$' "$own" | tail -n 1)
    [ "$status" != 124 ] || last="stopped after $budget s: $last"
    note "$name" $((SECONDS - began)) "$status" "$last"
}

# note NAME SECONDS STATUS WORDS: a line of JSON and one for the eye.
note() {
    "$PY" -c 'import json, sys; n, s, c, w = sys.argv[1:]; print(json.dumps(
        {"step": n, "seconds": int(s), "status": int(c), "last": w[:300]}))' "$@" >>"$OUT/$mode.jsonl"
    printf '%4d s  %-18s status %-3s %4d s  %s\n' "$SECONDS" "$1" "$3" "$2" "${4:0:120}"
}

install_wheels() {
    local wanted=() wheel
    shopt -s nullglob
    for wheel in build/gpu-wheels/*.whl; do
        "$PY" -c 'import importlib.metadata as m, sys; m.version(sys.argv[1])' "$(basename "$wheel" | cut -d- -f1)" \
            2>/dev/null || wanted+=("$wheel")
    done
    [ ${#wanted[@]} -gt 0 ] || { echo "no wheels needed or none in build/gpu-wheels"; return 0; }
    for wheel in "${wanted[@]}"; do # one by one: a wheel that does not fit here costs only itself
        "$PY" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$wheel" ||
            echo "left out: ${wheel##*/}"
    done
    echo "carried: ${wanted[*]##*/}"
}

build() {
    if [ -n "$dry" ]; then # the extension that is there will do
        "$PY" -c 'from fastloss import _library; raise SystemExit(_library.reason() and 1)' && echo "already built" && return
        FASTLOSS_CUDA=0 "$PY" setup.py -q build_ext --inplace
        return
    fi
    export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
    FASTLOSS_CUDA=1 "$PY" setup.py -q build_ext --inplace && echo "built for $TORCH_CUDA_ARCH_LIST" && return
    echo "without CUDA kernels, so that the rest can run:"
    FASTLOSS_CUDA=0 "$PY" setup.py -q build_ext --inplace
    return 1
}

# suite PROCESSES BACKENDS FILES…: the tests of these backends alone; a failure is printed when it happens.
suite() {
    local many=() backends=$2
    [ "$1" = 1 ] || ! "$PY" -c 'import xdist' 2>/dev/null || many=(-n "$1")
    shift 2
    FASTLOSS_TEST_BACKENDS=$backends FASTLOSS_TEST_SHOW=1 "$PY" -m pytest -q --tb=short --maxfail=60 \
        -p no:cacheprovider -m "not slow" "${many[@]}" "$@"
}

# sanitize TOOL PATH: a small set of losses on one path under one tool of compute-sanitizer.
sanitize() {
    local words=(compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 --report-api-errors no)
    [ -z "$dry" ] || words=()
    # Without torch's cache every tensor is an allocation of its own, so that its end is known.
    FASTLOSS_CUDA_PATH=$2 PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${words[@]}" \
        "$PY" -m fastloss.bench.checks sanitize --out "$scratch"
}

checks() {
    local exclusive="past_torch or 31_bits or never_waits" # what other processes on the GPU would disturb
    local backends=(cuda triton) parity=(tests/*/test_{parity,edges,topk,stats,autograd,ops,determinism,compound,empty_classes,deep,bad_input}.py)
    local triton=(tests/*/test_{topk,determinism,empty_classes}.py) # Triton compiles for too long for all of them
    local paths=("memcheck resident" "memcheck split" "racecheck resident" "racecheck split" "synccheck resident")
    local many=4 pair
    [ -z "$dry" ] || { backends=(cpu reference) parity=(tests/core/test_topk.py) triton=(tests/core/test_topk.py) paths=("memcheck resident") many=1; }
    step smoke 75 run "$PY" -m fastloss.bench.checks smoke --out "$OUT" --seconds 50
    step "tests alone" 80 tests bash -c 'suite "$@"' - 1 "${backends[0]},${backends[1]}" \
        tests/backends/test_gpu_numbers.py tests/backends/test_gpu_streams.py -k "$exclusive"
    local rest=$(($(left) - 5)) # the others share the GPU
    step "tests ${backends[0]}" "$rest" tests-0 bash -c 'suite "$@"' - "$many" "${backends[0]}" "${parity[@]}" &
    step "tests ${backends[1]}" "$rest" tests-1 bash -c 'suite "$@"' - "$many" "${backends[1]}" "${triton[@]}" &
    step "tests gpu" "$rest" tests-gpu bash -c 'suite "$@"' - "$many" "${backends[0]},${backends[1]}" \
        tests/backends/test_gpu_*.py -k "not ($exclusive)" &
    for pair in "${paths[@]}"; do
        # shellcheck disable=SC2086
        step "$pair" "$rest" sanitizer bash -c 'sanitize "$@"' - $pair &
    done
    wait
}

export -f install_wheels build suite sanitize
export PY dry scratch site

nvidia-smi >"$OUT/$mode-run.log" 2>&1 || echo "no nvidia-smi" >"$OUT/$mode-run.log"
step wheels 30 run bash -c install_wheels
step build 200 run bash -c build
step environment 60 run "$PY" -m fastloss.bench.checks environment --out "$OUT"
if [ "$mode" = checks ]; then
    checks
else
    rest=$(($(left) - 8))
    full=()
    [ "$mode" = bench ] || full=(--full)
    step "$mode" "$rest" run "$PY" -m fastloss bench --gpu --out "$OUT" --seconds $((rest > 30 ? rest - 10 : 20)) "${full[@]}" "$@"
    tail -n 30 "$OUT/$mode-run.log"
fi
failed=$(grep -vc '"status": 0,' "$OUT/$mode.jsonl" || true)
echo "$SECONDS s, $failed steps failed; in $OUT: $(cd "$OUT" && echo *)"
[ "$failed" -eq 0 ]
