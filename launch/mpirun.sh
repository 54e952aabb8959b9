#!/usr/bin/env bash
# Train by Open MPI's mpirun, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/mpirun.sh experiment=demo run_dir=runs/demo    # this host
#   HOSTFILE=hosts bash launch/mpirun.sh experiment=...        # from the first of the hosts: launch/hostfile.example
#
# The hosts are reached by ssh (OMPI_MCA_plm_rsh_args="-p 3022" for another port) and have this folder at the same place.
# NPROC        ranks without a host file: a rank a card, or one on the CPU
# CORES        of each rank: its share of this host's
# MASTER_ADDR  rank 0's host: the first one.  MASTER_PORT  there: a free one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

if [ -n "${HOSTFILE:-}" ]; then
  ranks=$(hosts "$HOSTFILE" | awk '{ sum += $2 } END { print sum }')
  read -r first each < <(hosts "$HOSTFILE")
  where=(-n "$ranks" --hostfile "$HOSTFILE")
else
  first=127.0.0.1 each=${NPROC:-$(ranks_here)}
  where=(-n "$each" --host "localhost:$each")
fi
cores=${CORES:-$(cores_each "$each")}
if [ "$(gaudi_cards)" != 0 ]; then # the vendor's binding: the ranks of a host side by side, each on cores of its own
  where+=(--bind-to core --map-by "socket:PE=$cores" --rank-by slot --report-bindings)
else
  where+=(--bind-to none)
fi
if [ "$(id -u)" = 0 ]; then
  where+=(--allow-run-as-root)
fi
if [ -n "${MPI_ROOT:-}" ]; then # as the vendor's images have it, beside the path that ssh gives
  where+=(--prefix "$MPI_ROOT")
fi

export MASTER_ADDR=${MASTER_ADDR:-$first} MASTER_PORT=${MASTER_PORT:-$(free_port)} OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cores}
for name in $(travelling); do
  where+=(-x "$name")
done

# SIGTERM and SIGINT would make mpirun kill the ranks within seconds; SIGUSR1 it hands on, and they save and leave.
setsid mpirun "${where[@]}" bash "$here/rank.sh" "$@" &
job=$!
trap 'kill -USR1 "$job"' TERM INT
while kill -0 "$job" 2>/dev/null; do
  wait "$job" || true # which a signal cuts short
done
wait "$job"
