#!/bin/sh
#SBATCH --job-name=gpuvec
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@180
# Never run on Slurm: there was none. tests/deploy runs it with an `srun` that runs its command here.
#   sbatch slurm.sh /shared/shop        the database lies on the shared file system, or in a bucket
# The address of the cluster is the first line of gpuvec-JOB.address; connect from any node of the job:
#   gv.connect("/shared/shop", cluster=open("gpuvec-123.address").readline().strip())
set -eu
database=$1
host=${HOST_ADDRESS:-$(hostname -I | cut -d' ' -f1)}
port=${SCHEDULER_PORT:-8786}
pages=${PAGES_PORT:-8787}
started=
trap 'trap - EXIT; kill $started 2>/dev/null; wait; exit 0' EXIT INT TERM
gpuvec cluster start --scheduler --host "$host" --port "$port" --dashboard "$host:$pages" "$database" &
started="$started $!"
echo "tcp://$host:$port" > "gpuvec-${SLURM_JOB_ID:-0}.address"
sleep "${WAIT_S:-10}"
# one process of workers for each node; the node's name is theirs, so that they find what they held
srun sh -c 'exec gpuvec cluster start --worker "$0" --workers 1 --host "$(hostname -I | cut -d" " -f1)" --name "$(hostname)"' "tcp://$host:$port" &
started="$started $!"
wait
