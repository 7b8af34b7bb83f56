#!/bin/sh
# Never run over SSH: there was one machine. tests/deploy runs it with a `ssh` that runs its command here.
# A cluster on machines that share a folder or a bucket, with gpuvec installed on each under the same path:
#   sh ssh.sh s3://my-bucket/shop 10.0.0.1 10.0.0.2 10.0.0.3        the first one also runs the scheduler
# Ctrl-C ends it all. HTTP pages are on port 8787 of the first machine.
set -eu
database=$1; shift
first=$1
port=${SCHEDULER_PORT:-8786}
pages=${PAGES_PORT:-8787}
started=
trap 'trap - EXIT; kill $started 2>/dev/null; wait; exit 0' EXIT INT TERM
ssh -tt "$first" gpuvec cluster start --scheduler --host "$first" --port "$port" --dashboard "$first:$pages" "$database" &
started="$started $!"
sleep "${WAIT_S:-10}"
for machine in "$@"; do
    ssh -tt "$machine" gpuvec cluster start --worker "tcp://$first:$port" --host "$machine" --name "$machine" &
    started="$started $!"
done
wait
