#!/bin/sh
# The guest's end of the command channel on a virtio-serial port, which is ours alone and passes every byte.
#
#   request   run NONCE LINES INPUT\n     then the script, so many lines, and its input, so many bytes
#             kill NONCE\n · hello NONCE\n
#   answer    channel NONCE hello BOOT-ID\n
#             channel NONCE result STATUS OUTPUT ERRORS\n     then both, so many bytes
#
# To start a shell is the slow part of a small command, and to wait for its end the next slow. So shells are started
# ahead: in each slot one waits at a pipe, in a session of its own, whose process group is what `kill` kills. A script
# of one line that comes to its end without output is answered by its own shell; for all else the slot waits for the
# shell's end, answers, and starts the next one. Only this process writes to the pipes: when it is gone, they all are.
# Needs a POSIX shell, head, mkdir, mkfifo, rm, setsid, and stat or wc.
agent=$0 port=$1 work=${2:-/run/lifsea-testbed} slots=4

if [ "$port" = --wait ]; then
	echo $$ >"$work.group"
	exec 5>"$work.nonce"
	read -r _lifsea_nonce lines input script || exit
	echo "$_lifsea_nonce" >&5
	_lifsea_slot=$work
	exec <"$input" >"$work.out" 2>"$work.err"
	unset agent port slots work input
	if [ "$lines" != 1 ]; then
		exec 3>&- 5>&-
		. "$_lifsea_slot.script"
		exit
	fi
	set -- # no arguments
	eval "${script%.}" 3>&- 5>&-
	_lifsea_status=$?
	# An own trap on exit has still to run, and output has to be measured: the slot does that.
	case $script in *trap*) exit "$_lifsea_status" ;; esac
	unset -f test echo
	if test -s "$_lifsea_slot.out" || test -s "$_lifsea_slot.err"; then exit "$_lifsea_status"; fi
	echo answered >&5
	echo "channel $_lifsea_nonce result $_lifsea_status 0 0" >&3
	exit
fi

sizes() { stat -c %s "$@" 2>/dev/null || for file; do wc -c <"$file"; done; }

answer() { # SLOT STATUS
	{ read -r nonce || exit; read -r answered && return; } <"$1.nonce"
	if [ -s "$1.out" ] || [ -s "$1.err" ]; then
		# What still runs in the background may go on to write: no more is sent than was announced.
		set -- "$1" "$2" $(sizes "$1.out" "$1.err")
		echo "channel $nonce result $2 $3 $4"
		[ "$3" = 0 ] || head -c "$3" "$1.out"
		[ "$4" = 0 ] || head -c "$4" "$1.err"
	else
		echo "channel $nonce result $2 0 0"
	fi
}

serve() { # SLOT
	exec 8<"$1.go" 4>&- 5>&- 6>&- 7>&-
	while :; do
		rm -f "$1.out" "$1.err" # what an earlier command left running keeps its own
		setsid sh "$agent" --wait "$1" <&8 8<&- >/dev/null 2>&1
		answer "$1" $? >&3
	done
}

lines() { # how many lines of the port
	count=0
	while [ "$count" -lt "$1" ] && IFS= read -r line; do
		printf '%s\n' "$line"
		count=$((count + 1))
	done <&3
}

rm -rf "$work"
mkdir -m 700 "$work"
exec 3<>"$port" </dev/null
mkfifo "$work/1.go" "$work/2.go" "$work/3.go" "$work/4.go"
exec 4<>"$work/1.go" 5<>"$work/2.go" 6<>"$work/3.go" 7<>"$work/4.go"
for slot in 1 2 3 4; do
	: >"$work/$slot.nonce"
	serve "$work/$slot" &
done
slot=0
while read -r verb nonce count size <&3; do
	case $verb in
	hello)
		read -r boot </proc/sys/kernel/random/boot_id
		echo "channel $nonce hello $boot" >&3
		;;
	run)
		while slot=$((slot % slots + 1)) && [ -s "$work/$slot.nonce" ]; do :; done
		input=/dev/null script=
		if [ "$count" = 1 ]; then IFS= read -r script <&3; else lines "$count" >"$work/$slot.script"; fi
		if [ "$size" != 0 ]; then
			input=$work/$slot.input
			head -c "$size" <&3 >"$input"
		fi
		printf '%s\n' "$nonce $count $input $script." >&$((slot + 3))
		;;
	kill)
		for file in "$work"/*.nonce; do
			read -r busy <"$file" && [ "$busy" = "$nonce" ] || continue
			read -r group <"${file%.nonce}.group" && kill -KILL "-$group" 2>/dev/null
		done
		;;
	esac
done
