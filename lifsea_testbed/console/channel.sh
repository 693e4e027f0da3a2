#!/bin/sh
# The guest's end of the command channel on a virtio-serial port, which is ours alone and passes every byte.
#
#   request   run NONCE LINES INPUT\n     then the script, so many lines, and its input, so many bytes
#             kill NONCE\n · hello NONCE\n
#   answer    channel NONCE hello BOOT-ID\n
#             channel NONCE result STATUS OUTPUT ERRORS\n     then both, so many bytes
#
# To start a shell is the slow part of a small command, and to wake another process the next slow. So in each slot a
# shell is started ahead, in a session of its own, whose process group is what `kill` kills. One of them has the turn:
# it reads the port, and when it has read a script it gives the turn to the next and runs the script itself. A script of
# one line that comes to its end without output is answered by its own shell; for all else the slot waits for the
# shell's end and answers. A shell that ends without having read a script was killed, or found the port closed, and may
# have taken the turn with it: then all end, and whoever started this starts it anew.
# Needs a POSIX shell, head, mkdir, mkfifo, rm, setsid, and stat or wc.
agent=$0 port=$1 work=${2:-/run/lifsea-testbed}

lines() { # how many lines of the port
	count=0
	while [ "$count" -lt "$1" ] && IFS= read -r line; do
		printf '%s\n' "$line"
		count=$((count + 1))
	done
}

# Reads the port until it has a script, whose nonce it prints. The turn is one byte, which only one can read.
wait_for_script() {
	read -r _ <&4
	[ ! -e "${_lifsea_slot%/*}/over" ] || exit
	while read -r verb _lifsea_nonce _lifsea_lines size; do
		case $verb in
		hello)
			read -r boot </proc/sys/kernel/random/boot_id
			echo "channel $_lifsea_nonce hello $boot" >&3
			;;
		run)
			if [ "$_lifsea_lines" = 1 ]; then
				IFS= read -r _lifsea_script
			else
				lines "$_lifsea_lines" >"$_lifsea_slot.script"
			fi
			[ "$size" = 0 ] || head -c "$size" >"$_lifsea_slot.input"
			echo "$_lifsea_nonce"
			return
			;;
		kill)
			for file in "${_lifsea_slot%/*}"/*.nonce; do
				read -r busy <"$file" && [ "$busy" = "$_lifsea_nonce" ] || continue
				read -r group <"${file%.nonce}.group" && kill -KILL "-$group" 2>/dev/null
			done
			;;
		esac
	done
	exit 1
}

if [ "$port" = --wait ]; then
	_lifsea_slot=$work
	echo $$ >"$_lifsea_slot.group"
	exec 5>"$_lifsea_slot.nonce" >"$_lifsea_slot.out" 2>"$_lifsea_slot.err" </dev/null
	wait_for_script <&3 >&5
	echo >&4
	[ "$size" = 0 ] || exec <"$_lifsea_slot.input"
	set -- # no arguments
	unset agent port work verb size boot file busy group count line
	unset -f lines wait_for_script
	if [ "$_lifsea_lines" != 1 ]; then
		exec 3>&- 4>&- 5>&-
		. "$_lifsea_slot.script"
		exit
	fi
	eval "$_lifsea_script" 3>&- 4>&- 5>&-
	_lifsea_status=$?
	# An own trap on exit has still to run, and output has to be measured: the slot does that.
	case $_lifsea_script in *trap*) exit "$_lifsea_status" ;; esac
	unset -f test echo
	if test -s "$_lifsea_slot.out" || test -s "$_lifsea_slot.err"; then exit "$_lifsea_status"; fi
	echo answered >&5
	echo "channel $_lifsea_nonce result $_lifsea_status 0 0" >&3
	exit
fi

sizes() { stat -c %s "$@" 2>/dev/null || for file; do wc -c <"$file"; done; }

end() {
	: >"$work/over"
	echo >&4
	kill "$$" 2>/dev/null
	exit
}

answer() { # SLOT STATUS
	{ read -r nonce || end; read -r answered && return; } <"$1.nonce"
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
	while :; do
		rm -f "$1.out" "$1.err" # what an earlier command left running keeps its own
		setsid sh "$agent" --wait "$1" >/dev/null 2>&1
		answer "$1" $? >&3
	done
}

rm -rf "$work"
mkdir -m 700 "$work"
exec 3<>"$port" </dev/null
mkfifo "$work/turn"
exec 4<>"$work/turn"
for slot in 1 2 3 4; do serve "$work/$slot" & done
echo >&4
wait
