#!/bin/sh
# Builds fastconv, checks it and times it on this machine's GPU, within nine minutes and without a
# network: bench/accept_gpu.sh [--out FOLDER] [--only STEP,...] [--dry-run]. See bench/accept/.
here=$(cd "$(dirname "$0")" && pwd)
exec "${PYTHON:-python3}" "$here/accept" "$@"
