# What the launchers share; sourced by them.
# shellcheck shell=bash

# How many Gaudi cards this host has.
gaudi_cards() {
  if [ -n "${HABANA_VISIBLE_MODULES:-}" ]; then
    tr ',' '\n' <<<"$HABANA_VISIBLE_MODULES" | wc -l
  elif command -v hl-smi >/dev/null; then
    hl-smi -Q index -f csv,noheader | grep -c '^[0-9]' || true
  else
    echo 0
  fi
}

# How many ranks this host gets: one a card, or one where there is none.
ranks_here() {
  local cards
  cards=$(gaudi_cards)
  if [ "$cards" = 0 ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    cards=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l)
  elif [ "$cards" = 0 ] && command -v nvidia-smi >/dev/null; then
    cards=$(nvidia-smi -L | grep -c '^GPU' || true)
  fi
  echo $((cards > 0 ? cards : 1))
}

# How many cores each of $1 ranks gets.
cores_each() {
  local allowed physical cores
  allowed=$(env -u OMP_NUM_THREADS nproc)
  physical=$(lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l)
  cores=$((allowed < physical ? allowed : physical))
  echo $((cores > $1 ? cores / $1 : 1))
}

# A port that nobody uses on this host.
free_port() {
  python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# "host slots" for each host of the host file $1.
hosts() {
  sed 's/#.*//' "$1" | awk 'NF { slots = 1; for (i = 2; i <= NF; i++) if (sub(/^slots=/, "", $i)) slots = $i; print $1, slots }'
}

# The place of this host among the hosts of the host file $1, from 0.
place_here() {
  local mine host name place=0
  mine=" $(hostname) $(hostname -f) $(hostname -I) "
  while read -r host _; do
    for name in "$host" $(getent ahostsv4 "$host" | awk '{ print $1; exit }'); do
      case $mine in *" $name "*) echo "$place"; return ;; esac
    done
    place=$((place + 1))
  done < <(hosts "$1")
  echo "error: HOSTFILE=$1 names none of$mine" >&2
  return 2
}

# The names of the variables that every rank must have, on whatever host.
travelling() {
  local begin='PT_|HCCL_|HABANA_|HLS_|GC_|FI_|RDMAV_|NCCL_|GLOO_|MASTER_|OMP_|DS_ACC|PYTHON|WANDB_|HF_|AWS_|KUBERNETES_SERVICE_HOST'
  compgen -e | grep -E "^($begin)|^(LD_LIBRARY_)?PATH\$|_(proxy|PROXY)\$"
}

# Tell gloo and hccl by which interface to reach host $1, and leave this host's address there in $address.
# By themselves they ask for this host's name, which often stands for 127.0.1.1 at home.
choose_interface() {
  local interface
  address=$(ip -o route get "$(getent ahostsv4 "$1" | awk '{ print $1; exit }')" | sed -n 's/.* src \([^ ]*\).*/\1/p') || true
  interface=$(ip -o addr show to "${address:-none}" | awk '{ print $2; exit }') || true
  case $interface in
    '') address='' && echo "no interface towards $1: set GLOO_SOCKET_IFNAME, HCCL_SOCKET_IFNAME if ranks do not meet" >&2 ;;
    lo) address='' ;; # $1 is this host, by its inner name
    *) export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$interface} HCCL_SOCKET_IFNAME=${HCCL_SOCKET_IFNAME:-$interface} ;;
  esac
}
