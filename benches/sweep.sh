#!/bin/sh
# LeNet on 1,000 and 3,000 digits of MNIST over λ and five seeds: accuracy, test loss and κ of fc2, a table and a plot each.
#
#     benches/sweep.sh [OUT]        PYTHON=python3 FAM_ONNX=fam-onnx SEEDS=5 EPOCHS=40 THREADS=2
#
# Every run has weights of its own (drawn by its seed), 40 epochs of steps of 64, learning rate 0.02 along a cosine, momentum
# 0.9, weight decay 5e-4. Interrupted, it goes on where it was when called again.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-sweep}
fam=${FAM_ONNX:-fam-onnx}
mkdir -p "$out"
if [ ! -e "$out/lenet.fam" ]; then
    "$fam" inject "$here/fixtures/lenet/model.onnx" --layer fc2 --lambda 0.01 --estimator exact \
        --momentum 0.9 --weight-decay 5e-4 -o "$out/lenet.fam"
fi
for digits in 1000 3000; do
    if [ -e "$out/$digits" ]; then
        "$fam" train --resume "$out/$digits"
    else
        "${PYTHON:-python3}" "$here/benches/digits.py" "$digits" "$out/digits-$digits"
        "$fam" train "$out/lenet.fam" --data "$out/digits-$digits/train.npz" --val "$out/digits-$digits/test.npz" \
            --lambda-sweep 0,1e-3,1e-2,3e-2,1e-1 --seeds "${SEEDS:-5}" --init random \
            --epochs "${EPOCHS:-40}" --batch-size 64 --lr 0.02 --schedule cosine --threads "${THREADS:-2}" \
            --checkpoint-every 1000000 -o "$out/$digits"
    fi
done
