# bootproof: commands over a terminal line. Everything that is said begins with the session's nonce.
_bp_n=$1 _bp_k=$2 _bp_u=$(umask) _bp_l='
'
umask 077
_bp_setsid=$(command -v setsid)
_bp_d=
for _bp_r in /dev/shm /run /tmp "$HOME" .; do
  if mkdir "$_bp_r/.bootproof-$_bp_n" 2>/dev/null; then _bp_d=$_bp_r/.bootproof-$_bp_n; break; fi
done
_bp_die() { printf '%s Q %s\n' "$_bp_n" "$1"; rm -rf "$_bp_d"; exit 1; }
[ "$_bp_d" ] || _bp_die 'there is no folder that it may write to'
[ "$_bp_setsid" ] || _bp_die 'the guest has no `setsid`'
mkfifo "$_bp_d/lock" "$_bp_d/window" || _bp_die 'it cannot make a FIFO'
exec 7>&1 8<>"$_bp_d/lock" 9<>"$_bp_d/window" 2>/dev/null
echo >&8
echo >&9
# One at a time on the line.
_bp_say() {
  read -r _bp_r <&8
  printf '%s %s\n' "$_bp_n" "$*" >&7
  echo >&8
}
# Whatever runs is nobody's then.
_bp_end() {
  for _bp_r in "$_bp_d"/*.pid; do
    [ -s "$_bp_r" ] && read -r _bp_p <"$_bp_r" && k "$_bp_p"
  done
  rm -rf "$_bp_d"
}
# Said first: what is killed then did not end by itself.
trap 'trap - EXIT; printf "%s Q its shell has ended\n" "$_bp_n" >&7; _bp_end; exit 0' EXIT HUP TERM
# An output's chunks: each when the host has room for it, and when the chunk before, of whomever, has arrived.
_bp_out() {
  exec 5<>"$3.$2.credit" <"$3.$2"
  echo >&5
  echo >&5
  _bp_c=0
  while read -r _bp_r <&5; LC_ALL=C dd bs="$_bp_k" count=1 of="$3.$2.chunk" 2>"$3.$2.said"; [ -s "$3.$2.chunk" ]; do
    { read -r _bp_r; read -r _bp_r; read -r _bp_b _bp_r; } <"$3.$2.said"
    case $_bp_b in
    '' | *[!0-9]*) _bp_b=$(wc -c <"$3.$2.chunk") ;;
    esac
    read -r _bp_r <&9
    read -r _bp_r <&8
    printf '%s O %s %s %s %s\n' "$_bp_n" "$1" "$2" "$_bp_c" "$_bp_b" >&7
    cat "$3.$2.chunk" >&7
    printf '%s .\n' "$_bp_n" >&7
    echo >&8
    _bp_c=$((_bp_c + 1))
  done
  _bp_say "E $1 $2 $_bp_c"
}
# What goes in: chunks that lie in files, in the order in which they are named.
_bp_in() {
  {
    while IFS= read -r _bp_r <&6 && [ "$_bp_r" ]; do
      if cat "$2.$_bp_r"; then _bp_say "G $1"; else _bp_say "B $1"; break; fi
    done
  } >"$2.in.$1"
  while [ "$_bp_r" ] && IFS= read -r _bp_r <&6; do :; done
  rm -f "$2.in.$1"
  _bp_say "F $1"
}
# Whether there is such a program: 0, 1 where it was not found, 2 where it may not be run.
_bp_find() {
  case $1 in
  */*)
    [ -e "$1" ] || return 1
    [ -x "$1" ] && [ ! -d "$1" ] || return 2
    return 0
    ;;
  esac
  _bp_r=1
  set -f
  IFS=:
  for _bp_c in $PATH; do
    [ -f "$_bp_c/$1" ] || continue
    [ -x "$_bp_c/$1" ] && return 0
    _bp_r=2
  done
  return $_bp_r
}
# In the command's own process, which becomes the command.
_bp_run() {
  umask "$_bp_u"
  trap - EXIT HUP TERM
  eval "$2" || { _bp_say "R $1 folder"; exit 0; }
  _bp_i=$1
  shift 2
  (_bp_find "$1")
  case $? in
  0) ;;
  1) _bp_say "R $_bp_i missing"; exit 0 ;;
  *) _bp_say "R $_bp_i denied"; exit 0 ;;
  esac
  _bp_say "S $_bp_i"
  exec "$_bp_setsid" "$@" 6>&- 7>&- 8>&- 9>&-
}
# id, slot, whether it is fed, what to prepare, the command
_bp_start() {
  _bp_i=$1 _bp_s=$_bp_d/$2 _bp_t=/dev/null
  if [ "$3" = 1 ]; then
    _bp_t=$_bp_s.in.$1
    mkfifo "$_bp_t"
    exec 6<>"$_bp_s.notify"
    _bp_in "$1" "$_bp_s" </dev/null &
  fi
  _bp_out "$1" 1 "$_bp_s" &
  _bp_out "$1" 2 "$_bp_s" &
  _bp_p=$4
  shift 4
  _bp_run "$_bp_i" "$_bp_p" "$@" <"$_bp_t" >"$_bp_s.1" 2>"$_bp_s.2" &
  _bp_p=$!
  echo "$_bp_p" >"$_bp_s.pid"
  _bp_say "P $_bp_i $_bp_p"
  wait "$_bp_p"
  _bp_p=$?
  : >"$_bp_s.pid"
  _bp_say "X $_bp_i $_bp_p"
}
# What the host asks for. Nothing here waits for anybody but the lock.
x() {
  _bp_s=$_bp_d/$2
  [ -p "$_bp_s.1" ] || mkfifo "$_bp_s.1" "$_bp_s.2" "$_bp_s.1.credit" "$_bp_s.2.credit" "$_bp_s.notify"
  (trap - EXIT HUP TERM; _bp_start "$@" </dev/null &)
}
i() {
  _bp_say I
  head -c "$3" >"$_bp_d/$1.$2"
  printf '%s\n' "$2" 1<>"$_bp_d/$1.notify"
  _bp_say H
}
c() { echo 1<>"$_bp_d/$1.notify"; }
w() { echo >&9; }
g() { echo 1<>"$_bp_d/$1.$2.credit"; }
k() { kill -9 "-$1" || kill -9 "$1"; }
q() { exit 0; }
_bp_say L
while IFS= read -r _bp_q; do
  eval "$_bp_q"
done
