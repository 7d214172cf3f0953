#!/bin/sh
# Train the small (patch-level) network: it draws the detail, from the hand-off to the finished image.
#
#   sh train_small.sh                                 with the values below
#   DATA_DIR=my/data NUM_DEFECT=3 sh train_small.sh   the environment wins over them
#   sh train_small.sh --resume none --seed 1          further flags go to scripts/train.py, and win
#   GPUS=4 sh train_small.sh                          one process per GPU; for several machines see scripts/launch.sh
#   mpiexec -n 4 sh train_small.sh                    the same with MPI
#
# Stopped with Ctrl-C or cut off: the same command goes on from the last checkpoint.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)

# ---- to edit: the value after := (empty: not passed, so the configuration file decides) ----
: "${CONFIG:=$ROOT/configs/small_recep.yml}"
: "${DATA_DIR:=$ROOT/data}"           # labelled images
: "${WORK_DIR:=$ROOT/work/small}"     # checkpoints, previews and logs
: "${NUM_DEFECT:=}"                   # number of defect types
: "${SEPERATE_CHANNEL_LOSS:=}"        # 1: mean squared error on RGB, cross-entropy on the mask; 0: one loss
: "${GPUS:=1}"
# ---------------------------------------------------------------------------------------------

. "$ROOT/scripts/launch.sh"
launch scripts/train.py --network small --config "$CONFIG" --data_dir "$DATA_DIR" --work_dir "$WORK_DIR" \
    ${NUM_DEFECT:+--num_defect "$NUM_DEFECT"} \
    ${SEPERATE_CHANNEL_LOSS:+--seperate_channel_loss "$SEPERATE_CHANNEL_LOSS"} \
    "$@"
