#!/bin/sh
# Builds fastconv, checks it and times it on this machine's GPU, within nine minutes and without a
# network: bench/accept_gpu.sh [--out FOLDER] [--only STEP,...] [--dry-run]. Before, without a GPU:
# bench/accept_gpu.sh --rehearse, and with the other machine's Python --prepare. See bench/accept/.
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/accept" "$@"
