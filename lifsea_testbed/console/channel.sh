#!/bin/sh
# The guest's end of the command channel on a virtio-serial port, which is ours alone and passes every byte.
#
#   request   run NONCE LINES INPUT\n     then the script, so many lines, and its input, so many bytes
#             kill NONCE\n · hello NONCE\n
#   answer    channel NONCE hello BOOT-ID\n
#             channel NONCE result STATUS OUTPUT ERRORS\n     then both, so many bytes
#
# To start a shell is the slow part of a small command, so shells are started ahead. In each slot one waits at a pipe,
# in a session of its own, whose process group is what `kill` kills; when it has ended, the slot answers and starts anew.
# This process alone can write to the pipes: when it is gone, the shells that wait are gone.
# Needs a POSIX shell, head, mkdir, mkfifo, rm, setsid, and stat or wc.
agent=$0 port=$1 work=${2:-/run/lifsea-testbed} slots=4

if [ "$port" = --wait ]; then
	echo $$ >"$work.group"
	read -r _ || exit
	set -- "$work.script"
	exec <"$work.input" >"$work.out" 2>"$work.err" 3>&-
	unset agent port work slots
	. "$1"
	exit
fi

sizes() { stat -c %s "$@" 2>/dev/null || for file; do wc -c <"$file"; done; }

answer() { # SLOT STATUS
	read -r nonce <"$1.nonce" || exit
	: >"$1.nonce"
	if [ -s "$1.out" ] || [ -s "$1.err" ]; then
		# What still runs in the background may go on to write: no more is sent than was announced.
		set -- "$1" "$2" $(sizes "$1.out" "$1.err")
		echo "channel $nonce result $2 $3 $4"
		head -c "$3" "$1.out"
		head -c "$4" "$1.err"
	else
		echo "channel $nonce result $2 0 0"
	fi
}

serve() { # SLOT
	exec 8<"$1.go" 4>&- 5>&- 6>&- 7>&-
	while :; do
		: >"$1.out"
		: >"$1.err"
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
while read -r verb nonce script input <&3; do
	case $verb in
	hello)
		read -r boot </proc/sys/kernel/random/boot_id
		echo "channel $nonce hello $boot" >&3
		;;
	run)
		while slot=$((slot % slots + 1)) && [ -s "$work/$slot.nonce" ]; do :; done
		here=$work/$slot
		echo "$nonce" >"$here.nonce"
		lines "$script" >"$here.script"
		if [ "$input" = 0 ]; then : >"$here.input"; else head -c "$input" <&3 >"$here.input"; fi
		echo >&$((slot + 3))
		;;
	kill)
		for slot in "$work"/*.nonce; do
			read -r busy <"$slot" && [ "$busy" = "$nonce" ] || continue
			read -r group <"${slot%.nonce}.group" && kill -KILL "-$group" 2>/dev/null
		done
		slot=0
		;;
	esac
done
