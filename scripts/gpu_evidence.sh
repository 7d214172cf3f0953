#!/usr/bin/env bash
# The evidence on steel (docs/evidence.md, NEU-Seg) on one GPU, at 128 px, in at most eight minutes: train both networks,
# generate 300 samples, measure them against held-out photographs, and what they add to a segmenter.
#
#   bash scripts/gpu_evidence.sh OUT        leaves eight files in OUT, whatever of them is there when time is up
#   TINY=1 bash scripts/gpu_evidence.sh OUT the same lines on a CPU, too small to mean anything
#
# Needs requirements-eval.txt. The environment wins over the values below.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/launch.sh"
choose_python
OUT=${1:?give the folder for the results}
: "${DATA:=$ROOT/../shared/data/neu_seg}" # train_a and dev
: "${WORK:=$ROOT/work/gpu_evidence}"
if [ "${TINY:-}" ]; then # masks are given, as networks that learn nothing draw none
    : "${GENERATE:=--masks bank --bank_data $WORK/train_a}"
    : "${TRAIN_SECONDS:=600}" "${TOTAL_SECONDS:=3600}" "${STEPS:=4}" "${PROBE:=2}" "${SAMPLES:=10}" "${BATCHES:=2 2}"
    : "${WIDTHS:=16 16}" "${RESOLUTION:=32}" "${RATIOS:=0.5}" "${LIFT_STEPS:=2}" "${SEEDS:=1 2}" "${QUALITY:=--no_agreement}"
    : "${IMAGES:=10}"
fi
: "${TRAIN_SECONDS:=240}" # of both networks, which train at the same time
: "${TOTAL_SECONDS:=465}" # no measurement lasts longer
: "${STEPS:=}"            # of each; empty: as many as the probe says go into TRAIN_SECONDS
: "${PROBE:=150}"         # steps that measure the speed; the training goes on from there
: "${SAMPLES:=300}" "${RESOLUTION:=128}" "${RATIOS:=1,12.5}" "${LIFT_STEPS:=600}" "${SEEDS:=1 3}" "${QUALITY:=}"
: "${IMAGES:=1000}" # of each set at most
# Width 48 and 96 give 7.8 and 6.8 M parameters, so that in bf16 each checkpoint stays under 16 MiB. The patch-level
# network sees 69 of 128 px.
: "${WIDTHS:=48 96}" "${BATCHES:=32 16}" # large small
: "${FLAGS:=}" "${GENERATE:=}"           # further ones of train.py, such as --set train.compile=on, and inference.py

began=$(date +%s)
left() { # left SECONDS: of those since the start, at least one
    rest=$(($1 - $(date +%s) + began))
    echo $((rest > 1 ? rest : 1))
}
mkdir -p "$OUT" "$WORK"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
keep() { # copies what is there; also when a stage fails or is ended
    for file in samples/contact_sheet.png quality/quality.json quality/quality.md lift/lift.json lift/lift.md; do
        [ ! -e "$WORK/$file" ] || cp "$WORK/$file" "$OUT"
    done
    tail -n 400 "$WORK"/*.log "$WORK"/*/progress.csv >"$OUT/log.txt" 2>/dev/null || true
}
trap keep EXIT
trap 'exit 143' TERM INT
stage() { echo "== $1 ($(($(date +%s) - began)) s)"; }
both() { # both COMMAND...: for large and small at the same time, each with a log of its own
    "$@" large >>"$WORK/large.log" 2>&1 &
    first=$!
    "$@" small >>"$WORK/small.log" 2>&1 &
    wait $! || fail "small: $(tail -n 1 "$WORK/small.log")"
    wait $first || fail "large: $(tail -n 1 "$WORK/large.log")"
}

prepare() { # prepare train_a|dev: its first $IMAGES images
    [ ! -e "$WORK/$1/dataset.json" ] || return 0
    mkdir -p "$WORK/raw/$1/images" "$WORK/raw/$1/masks"
    for image in $(ls "$DATA/$1/images" | head -n "$IMAGES"); do
        cp "$DATA/$1/images/$image" "$WORK/raw/$1/images"
        cp "$DATA/$1/masks/${image%.*}".* "$WORK/raw/$1/masks"
    done
    "$PYTHON" "$ROOT/scripts/prepare_data.py" "$WORK/raw/$1" "$WORK/$1" --label_map inclusion,patches,scratches
}

# As the configurations say for a GPU, but for 128 px and what the comments above and below give as reasons.
train() { # train STEPS|all large|small
    case $2 in
        large) set -- "$1" "$2" "${WIDTHS% *}" "${BATCHES% *}" '[1,1,2,2,4]' 1 ;;
        small) set -- "$1" "$2" "${WIDTHS#* }" "${BATCHES#* }" '[1,2]' 2 ;;
    esac
    steps=$1
    if [ "$steps" = all ]; then
        speed=$(awk -F, 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == "steps_per_s") at = i } END { print $at }' \
            "$WORK/$2/progress.csv")
        steps=${STEPS:-$(awk "BEGIN { print int($PROBE + 0.8 * $speed * ($TRAIN_SECONDS - 12)) }")}
        echo "$speed steps per second, $steps steps"
    fi
    # A checkpoint is saved at SIGTERM too. The learning rate suits the width, between the configurations' 0.001 at 32
    # and 0.0001 at 128 and 192.
    timeout -s TERM "$TRAIN_SECONDS" "$PYTHON" "$ROOT/scripts/train.py" --config "$ROOT/configs/neu_seg_$2.yml" \
        --data_dir "$WORK/train_a" --work_dir "$WORK/$2" --set data.resolution="$RESOLUTION" \
        --set model.model_channels="$3" --set data.bs_per_gpu="$4" --set model.channel_mult="$5" \
        --set model.num_res_blocks="$6" --set "model.attention_downsample=[8,16]" --set optimizer.lr=0.0005 \
        --set train.iterations="$steps" --set train.ema_decay=0.999 --set train.keep_last=1 --set train.eval_interval=50 \
        --set train.save_ckpt_interval=100000 --set train.log_image_interval=0 $FLAGS ||
        [ $? -eq 124 ] # time is up
}

lift() { # more seeds from run to run; segmenters that are trained already are used again
    for seeds in $SEEDS; do
        timeout -s TERM "$(left "$TOTAL_SECONDS")" "$PYTHON" "$ROOT/scripts/evaluate.py" lift --train "$WORK/train_a" \
            --val "$WORK/dev" --samples "$WORK/samples" --out "$WORK/lift" --ratios "$RATIOS" --seeds "$seeds" \
            --steps "$LIFT_STEPS" || return 0
        keep
    done
}

stage "prepare"
prepare train_a >"$WORK/prepare.log" 2>&1
prepare dev >>"$WORK/prepare.log" 2>&1
# Both at a time: thousands of small kernels a step keep a host thread busy, so one training alone leaves the GPU idle.
stage "probe, $PROBE steps of both networks"
both train "$PROBE"
stage "train both networks"
both train all
stage "weights of the EMA alone, as generation in bf16 takes them"
"$PYTHON" - "$WORK" "$OUT" <<'EOF'
import sys

import torch

from guided_diffusion.training.checkpoint import FORMAT_VERSION, load_checkpoint

for size in ("large", "small"):
    found = load_checkpoint(f"{sys.argv[1]}/{size}", size)
    weights = {name: value.bfloat16() if value.ndim > 1 else value for name, value in found.ema.items()}
    about = {"config": found.config.to_dict(), "step": found.step, "format_version": FORMAT_VERSION}
    torch.save({"model": weights, **about}, f"{sys.argv[2]}/{size}.pt")
    print(f"{size}: step {found.step}, {sum(value.nbytes for value in weights.values()) / 2**20:.1f} MiB")
EOF
stage "generate $SAMPLES samples"
"$PYTHON" "$ROOT/scripts/inference.py" --large_recep "$OUT/large.pt" --small_recep "$OUT/small.pt" \
    --sample_dir "$WORK/samples" --num_samples "$SAMPLES" $GENERATE >"$WORK/generate.log" 2>&1
keep
stage "measure: quality and lift at the same time"
lift >"$WORK/lift.log" 2>&1 &
timeout -s TERM "$(left "$TOTAL_SECONDS")" "$PYTHON" "$ROOT/scripts/evaluate.py" quality --real "$WORK/dev" \
    --train "$WORK/train_a" --samples "$WORK/samples" --out "$WORK/quality" $QUALITY >"$WORK/quality.log" 2>&1 || true
wait $!
for table in quality lift; do
    cat "$WORK/$table/$table.md" 2>/dev/null || echo "no $table: $(tail -n 1 "$WORK/$table.log")"
done
stage "done"
