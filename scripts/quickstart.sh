#!/usr/bin/env bash
# The whole path, on a small drawn dataset, on any machine: set up, train both networks, generate, measure.
# Run again, it goes on where it stopped and keeps what is done. It all lies in work/demo.
set -eu -o pipefail
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
DEMO=$ROOT/work/demo
. "$ROOT/scripts/setup_env.sh"

times=
stage() { # stage TITLE COMMAND...
    title=$1
    shift
    echo
    echo "== $title"
    start=$(date +%s)
    "$@"
    times="$times$(printf '  %-27s %4d s' "$title" $(($(date +%s) - start)))
"
}

train() { # train large|small
    CONFIG=$ROOT/configs/demo_$1.yml DATA_DIR=$DEMO/data WORK_DIR=$DEMO/$1 \
        NUM_DEFECT= SEPERATE_CHANNEL_LOSS= sh "$ROOT/train_$1.sh" --resume auto
}

generate() {
    LARGE_RECEP=$DEMO/large SMALL_RECEP=$DEMO/small LARGE_RECEP_CONFIG= SMALL_RECEP_CONFIG= \
        NUM_DEFECT= SAMPLE_DIR=$DEMO/samples NUM_SAMPLES=64 \
        sh "$ROOT/inference.sh" --spacing uniform # after so short a training, many steps at low t do harm
}

measure() { # the last line says in words what the figures mean
    "$PYTHON" "$ROOT/scripts/draw_demo_data.py" "$DEMO/held_out" --num_images 200 --seed 1
    "$PYTHON" "$ROOT/scripts/evaluate.py" quality --real "$DEMO/held_out" --train "$DEMO/data" \
        --samples "$DEMO/samples" --no_agreement | tail -n 1
}

stage "Set up Python" setup_env requirements.txt requirements-eval.txt
stage "Draw the data" "$PYTHON" "$ROOT/scripts/draw_demo_data.py" "$DEMO/data"
stage "Train the large network" train large
stage "Train the small network" train small
stage "Generate 64 samples" generate
stage "Compare with fresh plates" measure

cat <<EOF

$times
Done. Look at the generated images, beside each the outlines of its mask:
  $DEMO/samples/contact_sheet.png

Next, in $ROOT:
  more samples    LARGE_RECEP=work/demo/large SMALL_RECEP=work/demo/small SAMPLE_DIR=work/demo/samples \\
                  NUM_SAMPLES=100 sh inference.sh --spacing uniform
  your own data   see README.md; python scripts/prepare_data.py SOURCE data makes it ready for sh train_large.sh
  start afresh    delete work/demo
EOF
