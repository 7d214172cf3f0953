#!/bin/sh
# Generate labelled defect images with the two trained networks.
#
#   sh inference.sh                                       with the values below
#   NUM_SAMPLES=200 SAMPLE_DIR=my/samples sh inference.sh the environment wins over them
#   sh inference.sh --sampler ddim --num_steps 50         further flags go to scripts/inference.py, and win
#   GPUS=4 sh inference.sh                                the samples are divided among the GPUs
#   mpiexec -n 4 sh inference.sh                          the same with MPI
#
# Cut off, or asked for more samples: the same command adds what is missing.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)

# ---- to edit: the value after := (empty: not passed) ------------------------------------------
: "${LARGE_RECEP:=$ROOT/work/large}"   # a checkpoint, or a work dir, whose latest checkpoint is taken
: "${SMALL_RECEP:=$ROOT/work/small}"
: "${LARGE_RECEP_CONFIG:=}"            # only for checkpoints that do not carry their configuration
: "${SMALL_RECEP_CONFIG:=}"
: "${NUM_DEFECT:=}"                    # likewise
: "${STEP_INFERENCE:=400}"             # the small network denoises below this timestep, 0..1000
: "${SAMPLE_DIR:=$ROOT/work/samples}"
: "${NUM_SAMPLES:=}"
: "${GPUS:=1}"
# -----------------------------------------------------------------------------------------------

. "$ROOT/scripts/launch.sh"
launch scripts/inference.py --step_inference "$STEP_INFERENCE" --sample_dir "$SAMPLE_DIR" \
    --large_recep "$LARGE_RECEP" --small_recep "$SMALL_RECEP" \
    ${LARGE_RECEP_CONFIG:+--large_recep_config "$LARGE_RECEP_CONFIG"} \
    ${SMALL_RECEP_CONFIG:+--small_recep_config "$SMALL_RECEP_CONFIG"} \
    ${NUM_DEFECT:+--num_defect "$NUM_DEFECT"} \
    ${NUM_SAMPLES:+--num_samples "$NUM_SAMPLES"} \
    "$@"
