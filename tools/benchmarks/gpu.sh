#!/usr/bin/env bash
# What has to be known of one GPU, the most important first: bash tools/benchmarks/gpu.sh OUT_DIR [STAGE ...]
# Each stage has a limit of its own and writes OUT_DIR/gpu_STAGE.json, for docs/benchmarks; ten to fifteen minutes in all.
# A try without a GPU, of the small models, whose times mean nothing:
#   DEVICE=cpu BIG=64x128 SQUARE=64x64 DTYPE=float32 ROUNDS=1 LARGE=b0 bash tools/benchmarks/gpu.sh /tmp/gpu
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
: "${DEVICE:=cuda}" "${BIG:=1024x2048}" "${SQUARE:=1024x1024}" "${DTYPE:=bfloat16}" "${ROUNDS:=20}" "${LARGE:=b5}"
out=${1:?a folder for the results}
shift
wanted=$*
python=${PYTHON:-python3}
graph=() && [ "$DEVICE" = cuda ] && graph=(--graph)
presets=(none hq fast 2x2 weighted weighted-fast)
mkdir -p "$out"

stage() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  case " ${wanted:-$name} " in *" $name "*) ;; *) return ;; esac
  timeout "$limit" "$python" "$@" >"$out/gpu_$name.txt" 2>&1
  echo "$name: exit code $?, $((SECONDS - begin)) s"
  tail -n 14 "$out/gpu_$name.txt"
}

benchmark() { # NAME SECONDS ARCH OPTIONS...
  local name=$1 limit=$2 arch=$3
  shift 3
  stage "$name" "$limit" tools/benchmark.py \
    "configs/cityscapes/segformer_mit-${arch}_none_1xb4-160k_cityscapes-1024x1024.py" "$@" \
    --device "$DEVICE" --rounds "$ROUNDS" --json "$out/gpu_$name.json" \
    --cfg-options model.test_cfg.mode=whole ${options[@]+"${options[@]}"}
}
options=()

# the kernels: right at real shapes, and against what they replace; the machine's own rates
stage kernels 90 tools/benchmarks/kernels.py --device "$DEVICE" --json "$out/gpu_kernels.json"
stage tests 120 -m pytest -q tests/kernels tests/patching/test_graphs.py
# the paper's first table: one image of Cityscapes
benchmark b5_big 150 "$LARGE" --token-merging "${presets[@]}" --against mmseg "${graph[@]}" --dtype "$DTYPE" --shape "$BIG"
# its second table: training; activations kept whole, and the Mix-FFN's recomputed
benchmark b5_training 90 "$LARGE" --token-merging "${presets[@]}" --against mmseg --training --dtype "$DTYPE" \
  --shape "$SQUARE" --batch-size 4
options=(model.backbone.with_cp=conv)
benchmark b5_training_conv 60 "$LARGE" --token-merging none hq --training --dtype "$DTYPE" --shape "$SQUARE" --batch-size 4
options=()
benchmark b5_big_float32 90 "$LARGE" --token-merging "${presets[@]}" --against mmseg "${graph[@]}" --dtype float32 --shape "$BIG"
benchmark b0_big 60 b0 --token-merging "${presets[@]}" --against mmseg,tomesd "${graph[@]}" --dtype "$DTYPE" --shape "$BIG" --stages
benchmark b0_big_float32 60 b0 --token-merging "${presets[@]}" --against mmseg "${graph[@]}" --dtype float32 --shape "$BIG"
benchmark b5_batch8 90 "$LARGE" --token-merging "${presets[@]}" --against mmseg "${graph[@]}" --dtype "$DTYPE" \
  --shape "$SQUARE" --batch-size 8
options=(model.decode_head.type=SegformerLinearHead)
benchmark b0_transformers 60 b0 --token-merging none hq --against transformers,mmseg "${graph[@]}" --dtype "$DTYPE" --shape "$BIG"
options=()
benchmark b5_blocks 90 "$LARGE" --token-merging none hq --compile-blocks --dtype "$DTYPE" --shape "$BIG"
benchmark b0_compiled 150 b0 --token-merging none hq --compile "${graph[@]}" --dtype "$DTYPE" --shape "$BIG"
# plans that blocks share
benchmark shares 60 "$LARGE" --token-merging none weighted docs/gpu/shares.py "${graph[@]}" --dtype "$DTYPE" --shape "$BIG"
