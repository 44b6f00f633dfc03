#!/usr/bin/env bash
# The ten splits of a protocol as ten jobs, each on one GPU or one TPU chip (enough for what: docs/scaling.md).
#
#   cloud/ten_splits.sh slurm /shared/runs/liqe --config=configs/liqe.py --config.init_from=weights/clip
#   jiqa evaluate /shared/runs/liqe_{0..9}                 # median and mean over the splits
#   cloud/ten_splits.sh tpu gs://my-bucket/runs/liqe --config=configs/liqe.py --config.init_from=../data/clip
#
# `tpu` keeps ten spot slices until all have results (run_tpu.sh keep, with its variables); split_N.log is of split N.
set -euo pipefail

where=${1:?slurm or tpu} runs=${2:?folder of the runs, to which _0 to _9 is added}
shift 2
here=$(cd "$(dirname "$0")" && pwd)
jobs=()
for split in {0..9}; do
  flags=("$@" "--config.split=$split")
  case "$where" in
    slurm)
      sbatch --job-name="jiqa_$split" --nodes=1 --ntasks-per-node=1 --gpus-per-node=1 "$here/slurm.sbatch" \
        "${flags[@]}" "--workdir=${runs}_$split" ;;
    tpu)
      TPU="${TPU:-jiqa}-$split" ACCELERATOR="${ACCELERATOR:-v5litepod-1}" WORKDIR="${runs}_$split" \
        "$here/run_tpu.sh" keep "${flags[@]}" > "split_$split.log" 2>&1 &
      jobs+=("$!") ;;
    *) echo "ten_splits.sh: $where is neither slurm nor tpu" >&2; exit 2 ;;
  esac
done
failed=0
for split in "${!jobs[@]}"; do
  wait "${jobs[$split]}" || { echo "ten_splits.sh: split $split failed, see split_$split.log" >&2; failed=1; }
done
exit "$failed"
