#!/bin/sh
# The guest's end of the command channel: reads requests from a virtio-serial port, answers on the same.
#
#   request   run NONCE LENGTH INPUT-LENGTH\n, then the script and its input, as many bytes as announced
#             kill NONCE\n          hello NONCE\n
#   answer    channel NONCE hello BOOT-ID\n
#             channel NONCE result STATUS OUTPUT-LENGTH ERROR-LENGTH\n, then both, as many bytes as announced
#
# Needs a POSIX shell, head, cat, stat, rm and setsid. A port is no terminal: no echo, no prompt, every byte as it is.
set -u
port=$1
work=${2:-/run/lifsea-testbed}
rm -rf "$work"
mkdir -m 700 "$work"
exec 3<>"$port" </dev/null

run() {
	exec 4>&3 3>&-
	setsid sh -c 'echo $$ >"$1.group"; exec 4>&-; exec sh "$1.script"' sh "$1" <"$1.input" >"$1.out" 2>"$1.err"
	status=$?
	set -- "$1" $(stat -c %s "$1.out" "$1.err")
	{
		echo "channel ${1##*/} result $status $2 $3"
		cat "$1.out" "$1.err"
	} >&4
	rm -f "$1".*
}

while read -r verb nonce length input <&3; do
	case $verb in
	hello)
		read -r boot </proc/sys/kernel/random/boot_id
		echo "channel $nonce hello $boot" >&3
		;;
	run)
		head -c "$length" <&3 >"$work/$nonce.script"
		if [ "$input" = 0 ]; then : >"$work/$nonce.input"; else head -c "$input" <&3 >"$work/$nonce.input"; fi
		run "$work/$nonce" &
		;;
	kill)
		if read -r group <"$work/$nonce.group"; then kill -KILL "-$group"; fi 2>/dev/null
		;;
	esac
done
