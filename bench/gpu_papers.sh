#!/usr/bin/env bash
# Both papers' rows on phantom data at preset short, on a GPU machine without network, in calls of under ten minutes.
#
#   bench/gpu_papers.sh wheels   where there is a network: the packages that the machine lacks, into build/wheels
#   bench/gpu_papers.sh          on the machine, again and again: exit status 75 asks for another call, 0 says done
#
# If the machine is given back between two calls, copy what came back in OUT to runs/gpu and carry that: finished trainings
# stay finished (their checkpoints do not travel; what would begin from one is trained from its first epoch).
#
# FASTLOSS_DRY=1 rehearses it on a CPU with tiny settings. LIMIT: seconds of a call (540). RUNS: where the runs continue
# (runs/gpu). OUT: where logs and report are copied ($RUNS/out); small files, meant for bench/results/.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-540} RUNS=${RUNS:-runs/gpu} DRY=${FASTLOSS_DRY:-0}
OUT=${OUT:-$RUNS/out}
WHEELS=build/wheels
NEEDED=(lightning_fabric monai segmentation_models_pytorch timm huggingface_hub httpx2 httpcore2 einops nibabel h5py scipy
        matplotlib jinja2 rich PIL)
PACKAGES=(lightning-fabric lightning-utilities monai segmentation-models-pytorch nibabel h5py scipy matplotlib rich
          contourpy cycler fonttools kiwisolver pyparsing python-dateutil six markdown-it-py mdurl pygments importlib-resources
          einops timm huggingface-hub hf-xet httpx2 httpcore2 anyio h11 idna truststore click)
SECONDS=0

if [ "${1:-}" = wheels ]; then
  exec "$PYTHON" -m pip download --no-deps --only-binary :all: -c constraints.txt -d "$WHEELS" "${PACKAGES[@]}"
fi

missing=$("$PYTHON" - "${NEEDED[@]}" <<'END'
import importlib.util
import sys
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
END
)
if [ -n "$missing" ]; then
  [ -d "$WHEELS" ] || { echo "missing: $missing; make $WHEELS with \`bench/gpu_papers.sh wheels\` and carry it" >&2; exit 2; }
  "$PYTHON" -m pip install -q --no-deps --no-index --find-links "$WHEELS" "$WHEELS"/*.whl
fi
ls fastloss/_C*.so >/dev/null 2>&1 || "$PYTHON" setup.py -q build_ext --inplace
mkdir -p "$RUNS" "$OUT"
RUNS=$(realpath "$RUNS") OUT=$(realpath "$OUT")
export FASTLOSS_CACHE=${FASTLOSS_CACHE:-$RUNS/cache}
"$PYTHON" -m fastloss doctor | tee "$OUT/doctor.txt"

size=(--preset short --data phantom) peers=smp,monai,compiled
if [ "$DRY" = 1 ]; then
  size=(--preset smoke --model monai-unet --size 32 --set size=32 --patients 5 --batch 4 --valid-batch 4
        --train-limit 8 --valid-limit 4 --device cpu --threads 1)
  peers=smp,monai
fi

keep() { # logs and results, without weights
  (cd "$RUNS" && find . -path ./cache -prune -o -path ./out -prune -o \( -name '*.csv' -o -name '*.json' -o -name '*.npz' \) \
    -print0 | xargs -0 -r cp --parents -t "$OUT")
}

# step NAME WORDS…: one reproduction, continued; ends the call when its time is up.
step() {
  local name=$1 left=$((LIMIT - SECONDS)) resume=() status=0
  shift
  [ -f "$RUNS/$name/reproduction.json" ] && resume=(--resume)
  if [ "$left" -gt 20 ]; then
    timeout --foreground -s INT -k 20 "$left" "$PYTHON" -m fastloss reproduce "$@" "${size[@]}" --out "$RUNS/$name" \
      "${resume[@]}" 2>&1 | tee -a "$OUT/$name.log" || status=$?
  else
    status=124
  fi
  case $status in
    0) ;;
    124 | 130 | 137) keep; echo "time is up in $name; call again"; exit 75 ;;
    *) keep; exit "$status" ;;
  esac
}

rows=()
[ "$DRY" = 1 ] && rows=(--rows iou,iou-to-bce,iou+bce,bce --folds 2)
step paper2 paper2 "${rows[@]}"
for dataset in synapse acdc uwmgi; do
  table=()
  [ "$DRY" = 1 ] && table=(--rows table2)
  step "paper1-$dataset" paper1 --dataset "$dataset" "${table[@]}"
done
rows=(--rows table2)
[ "$DRY" = 1 ] && rows=(--rows iou+bce --folds 2)
step paper2 paper2 "${rows[@]}" --compare "$peers"
step paper1-synapse paper1 --dataset synapse --rows table2 --compare "$peers"
"$PYTHON" -m fastloss report "$RUNS/paper2" "$RUNS"/paper1-{synapse,acdc,uwmgi} --out "$OUT/report"
keep
echo "all done: $OUT"
