#!/bin/bash
# One training on all hosts of a Cloud TPU slice:  launch/tpu.sh NAME ZONE FOLDER model=gemma3_4b
# FOLDER is a checkout with its .venv at the same place of every host, on a disk that all of them mount (Filestore, NFS).
# One host alone may have a disk of its own; training.mirror=gs://BUCKET/FOLDER lets the same command go on with another.
set -euo pipefail
name=$1 zone=$2 folder=$3
shift 3

printf -v words ' %q' "$@"
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd $(printf %q "$folder") && .venv/bin/python run_training.py device=tpu$words"
