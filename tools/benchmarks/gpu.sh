#!/usr/bin/env bash
# All rows of a GPU for docs/benchmarks.md, as JSON: bash tools/benchmarks/gpu.sh [OUT_DIR]
# Inference in bfloat16 (batch 1 and 8, eager and compiled) and training memory (B5, batch 4).
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${1:-docs/benchmarks}
config() { echo "configs/cityscapes/segformer_mit-$1_none_1xb4-160k_cityscapes-1024x1024.py"; }
benchmark() { python tools/benchmark.py "$@" --device cuda --shape 1024x1024; }

mkdir -p "$out"
for arch in b0 b2 b5; do
  benchmark "$(config "$arch")" --token-merging none hq fast 2x2 --against mmseg,tomesd \
    --dtype bfloat16 --batch-size 1 8 --compile --stages --peak --rounds 20 --warmup 5 \
    --json "$out/gpu_${arch}_bfloat16.json" --cfg-options model.test_cfg.mode=whole
done
benchmark "$(config b5)" --token-merging none hq fast 2x2 --against mmseg --training \
  --dtype bfloat16 --batch-size 4 --rounds 10 --json "$out/gpu_b5_training.json"
