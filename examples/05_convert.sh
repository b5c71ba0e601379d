#!/bin/sh
# Convert a checkpoint folder, look at the result, run it.
#
#     sh examples/05_convert.sh CHECKPOINT_FOLDER OUT.gguf
#
# The folder holds config.json, model.safetensors and tokenizer.json.
set -eu
checkpoint=$1
out=$2

# What would be written, and how large it gets.
edge-convert "$checkpoint" "$out" --type q4_0 --dry-run

# q8_0: nearly lossless. The report says what the quantization changed.
edge-convert "$checkpoint" "$out" --type q8_0 --set edge.task=sudoku --report "$out.json"

edge show -m "$out"
edge run -m "$out" --steps 8 \
    .15..2.7.....7.4..3..4...19..9.37...1...2.6.725......3..4..1...5.834976..61.58..4
