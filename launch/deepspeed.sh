#!/usr/bin/env bash
# Train with DeepSpeed's launcher, on one host or several. The arguments are Hydra overrides.
#
#   bash launch/deepspeed.sh engine=zero2 experiment=demo run_dir=runs/demo    # this host
#   HOSTFILE=hosts bash launch/deepspeed.sh engine=zero2 experiment=...        # from the first of the hosts: launch/hostfile.example
#
# The hosts, including this one, are reached by pdsh and ssh (into bash), and have this folder and Python under the same paths.
# The variables listed in launch/common.sh are forwarded; more can be set in .deepspeed_env, here or in the home folder. They lie
# in a temporary file on each host, readable by its owner alone, until the end of the run.
# NPROC        ranks without a host file; default: one per card, or one on the CPU
# CORES        threads per rank; default: an equal share of this host's cores
# SSH_PORT     ssh port of the hosts; default: 22.  PDSH_SSH_ARGS_APPEND  more options for ssh, such as "-i key"
# MASTER_ADDR  rank 0's host; default: the first one.  MASTER_PORT  its port; default: a free one
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
. "$here/common.sh"

check_numbers NPROC CORES SSH_PORT MASTER_PORT
if [ -n "${HOSTFILE:-}" ]; then
  lines=$(hosts "$HOSTFILE")
else
  lines="localhost ${NPROC:-$(ranks_here)}"
fi
python -m bridgetower_train train "$@" --cfg job >/dev/null # report a wrong key here, not on every rank
read -r first each <<<"$lines"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${CORES:-$(cores_each "$each")}}

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
awk '{ print $1, "slots=" $2 }' <<<"$lines" >"$folder/hosts"
export BRIDGETOWER_RANK_0="$folder/rank_0" # where launch/rank.sh writes its process id
export BRIDGETOWER_PRELOAD=${LD_PRELOAD:-}

# Run the command $1 on all hosts, with the standard input $2.
on_all_hosts() {
  local options host job jobs=()
  read -ra options <<<"${SSH_PORT:+-p $SSH_PORT} ${PDSH_SSH_ARGS_APPEND:-}"
  while read -r host _; do
    ssh -a -x "${options[@]}" "$host" "$1" <<<"$2" &
    jobs+=($!)
  done <<<"$lines"
  for job in "${jobs[@]}"; do
    wait "$job"
  done
}

if [ "$(wc -l <<<"$lines")" = 1 ]; then
  export BRIDGETOWER_LAUNCHER=$$ # killed, DeepSpeed's runner would leave the process that starts the ranks
else
  # Values travel by ssh's standard input into a file that only this user can read: DeepSpeed would put them into arguments and
  # its log. It makes `export NAME="VALUE";` of each line of DS_ENV_FILE.
  variables=$(
    { cat ~/.deepspeed_env .deepspeed_env 2>/dev/null || true; } | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=\(.*\)/export \1="\2"/p'
    for name in $(variables_to_forward); do
      printf "export %s='%s'\n" "$name" "${!name//\'/\'\\\'\'}"
    done
  )
  trap 'on_all_hosts "rm -rf $folder" "" || true; rm -rf "$folder"' EXIT
  on_all_hosts "umask 077; mkdir -p $folder && [ -O $folder ] && cat >$folder/variables" "$variables"
  export DS_ENV_FILE="$folder/.deepspeed_env"
  sed -n "s!^export \([A-Za-z_][A-Za-z0-9_]*\)=.*!\1=\$(. $folder/variables; printenv \1)!p" <<<"$variables" >"$DS_ENV_FILE"
  unset "${!MLFLOW@}" # whose values DeepSpeed would put there too

  for argument in "$@"; do # the other hosts' shells parse the arguments; DeepSpeed quotes only spaces, and pdsh replaces %n
    printf -v argument %q "${argument//%/%%}"
    set -- "${@:2}" "${argument//\\ /\$\'\\x20\'}"
  done
fi

# On SIGTERM and SIGINT DeepSpeed would kill the loader workers first.
tell_ranks() {
  kill -USR1 "$(cat "$BRIDGETOWER_RANK_0")" 2>/dev/null || kill "$job"
}

supervise tell_ranks python -m deepspeed.launcher.runner --hostfile "$folder/hosts" --no_ssh_check ${SSH_PORT:+--ssh_port "$SSH_PORT"} \
  --master_addr "${MASTER_ADDR:-$first}" --master_port "${MASTER_PORT:-$(free_port)}" \
  --no_local_rank --no_python bash "$here/rank.sh" "$@"
