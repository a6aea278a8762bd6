#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call of under 10 minutes; what it finds lands in $OUT (default runs/gpu).
#
#   bash bench/gpu.sh                      on a machine with a GPU, nvcc and torch; no network is needed
#   FASTLOSS_DRY=1 bash bench/gpu.sh       the same steps on a CPU, at tiny sizes: shows that they run, measures nothing
#
# Each step has its budget in seconds, goes on after a failure, and leaves a line in $OUT/steps.jsonl. Peers that the
# machine lacks are taken from build/gpu-wheels (bench/gpu_wheels.sh fills it) and left out if they are not there either.
# Environment: OUT, FASTLOSS_DRY, FASTLOSS_GPU_SECONDS (all of it, default 570; 230 for a dry run), PYTHON,
# TORCH_CUDA_ARCH_LIST (default 9.0), FASTLOSS_COMMIT (what the record says where there is no .git), FASTLOSS_GPU_STEPS
# (words from: smoke resident alone tests sanitizer bench; default all; "bench" alone gives the benchmark all the time).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

export OUT=${OUT:-runs/gpu} FASTLOSS_DRY=${FASTLOSS_DRY:-0}
PY=${PYTHON:-$(command -v python3)}
dry=$([ "$FASTLOSS_DRY" = 0 ] || echo 1)
LIMIT=${FASTLOSS_GPU_SECONDS:-${dry:+230}}
LIMIT=${LIMIT:-570}
STEPS=" ${FASTLOSS_GPU_STEPS:-smoke resident alone tests sanitizer bench} "
mkdir -p "$OUT"
OUT=$(realpath "$OUT")
rm -f "$OUT"/steps.jsonl "$OUT"/*.log
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
site=$scratch/site # what is installed here goes with this call
export PYTHONPATH=$PWD:$site PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin TORCHINDUCTOR_COMPILE_THREADS=1
export TORCHINDUCTOR_CACHE_DIR=$scratch/inductor TRITON_CACHE_DIR=$scratch/triton

asked() { [[ $STEPS == *" $1 "* ]]; }
left() { echo $((LIMIT - SECONDS)); }

# step NAME BUDGET LOG COMMAND…: run it for at most its budget (and what is left), note how it ended.
step() {
    local name=$1 budget=$2 log=$OUT/$3 began=$SECONDS own=$scratch/$1.out status last
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
        {"step": n, "seconds": int(s), "status": int(c), "last": w[:300]}))' "$@" >>"$OUT/steps.jsonl"
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

# suite BACKENDS FILES…: the parity tests of these backends alone, in several processes where pytest-xdist is there.
suite() {
    local backends=$1 many=()
    shift
    [ -n "$dry$alone" ] || ! "$PY" -c 'import xdist' 2>/dev/null || many=(-n 4)
    FASTLOSS_TEST_BACKENDS=$backends "$PY" -m pytest -q -ra --maxfail=60 -p no:cacheprovider -m "not slow" "${many[@]}" "$@"
}

# sanitize TOOL PATH: a small set of losses on one path under one tool of compute-sanitizer.
sanitize() {
    local words=(compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 --report-api-errors no)
    [ -z "$dry" ] || words=()
    # Without torch's cache every tensor is an allocation of its own, so that its end is known.
    FASTLOSS_CUDA_PATH=$2 PYTORCH_NO_CUDA_MEMORY_CACHING=1 "${words[@]}" \
        "$PY" -m fastloss.bench.gpu sanitize --out "$scratch"
}

export -f install_wheels build suite sanitize
export PY dry scratch site alone=
gpu() { "$PY" -m fastloss.bench.gpu "$1" --out "$OUT" --seconds "$2"; }
export -f gpu

parity=(tests/test_parity.py tests/test_edges.py tests/test_topk.py tests/test_stats.py tests/test_autograd.py
    tests/test_ops.py tests/test_determinism.py tests/test_compound.py tests/test_empty_classes.py tests/test_deep.py
    tests/test_bad_input.py)
cards=(tests/test_gpu_*.py)
exclusive="past_torch or 31_bits or never_waits" # what other processes on the GPU would disturb
if [ -n "$dry" ]; then
    parity=(tests/test_topk.py)
    backends=(cpu reference)
else
    backends=(cuda triton)
fi

nvidia-smi >"$OUT/gpu.log" 2>&1 || echo "no nvidia-smi" >"$OUT/gpu.log"
step wheels 30 gpu.log bash -c install_wheels
step build 200 gpu.log bash -c build
step environment 30 gpu.log bash -c "gpu environment 30"
! asked smoke || step smoke 60 gpu.log bash -c "gpu smoke 45"
# Before anything else is timed or tested at length: do the resident kernels keep their promise?
! asked resident || step resident 70 gpu.log bash -c "gpu resident 60"
! asked alone || alone=1 step "tests alone" 60 tests.log bash -c 'suite "$@"' - "${backends[0]},${backends[1]}" \
    tests/test_gpu_numbers.py tests/test_gpu_streams.py -k "$exclusive"

# Checks share the GPU; nothing is timed meanwhile.
checks=$(($(left) > 330 ? 120 : $(left) / 3))
if asked tests; then
    step "tests ${backends[0]}" "$checks" tests.log bash -c 'suite "$@"' - "${backends[0]}" "${parity[@]}" &
    step "tests ${backends[1]}" "$checks" tests.log bash -c 'suite "$@"' - "${backends[1]}" "${parity[@]}" &
    step "tests gpu" "$checks" tests.log bash -c 'suite "$@"' - "${backends[0]},${backends[1]}" "${cards[@]}" \
        -k "not ($exclusive)" &
fi
if asked sanitizer; then
    for pair in "memcheck resident" "memcheck shared" "memcheck split" "memcheck small" "racecheck resident" "racecheck split" "synccheck resident"; do
        [ -n "$dry" ] && [ "$pair" != "memcheck resident" ] && continue
        # shellcheck disable=SC2086
        step "$pair" "$checks" sanitizer.log bash -c 'sanitize "$@"' - $pair &
    done
fi
wait

rest=$(($(left) - 8))
if asked bench; then
    step bench "$rest" gpu.log bash -c "gpu full $((rest > 20 ? rest - 10 : rest))"
    tail -n 20 "$OUT/gpu.log"
fi
failed=$(grep -vc '"status": 0,' "$OUT/steps.jsonl" || true)
failed=$((failed - $(grep -c '"result":' "$OUT/steps.jsonl" || true)))
echo "$SECONDS s, $failed steps failed; in $OUT: $(cd "$OUT" && echo *)"
[ "$failed" -eq 0 ]
