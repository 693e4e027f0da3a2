#!/bin/sh
# The guest's end of the command channel on a virtio-serial port, which has no other user and passes every byte.
#
#   request   do NONCE SCRIPT\n             a script of one line that neither begins nor ends with a blank
#             run NONCE LINES INPUT\n       followed by LINES lines of script and INPUT bytes of standard input
#             kill NONCE\n · hello NONCE\n
#             lend NONCE PROGRAM\n          PROGRAM, a path, is run and reads and writes the port until it ends
#   answer    channel NONCE hello BOOT-ID\n
#             channel NONCE result STATUS OUTPUT ERRORS\n     followed by OUTPUT and ERRORS bytes
#
# Starting a shell is the slowest part of a small command, and waking another process the second slowest. So each slot
# starts a shell ahead, in a session of its own; `kill` kills its process group. One shell has the turn: it reads the
# port, and after a script it passes the turn on and runs the script. A script of one line that ends without output is
# answered by its own shell; in all other cases the slot waits for the end of the shell and sends the result. A shell
# that ends without a script was killed, or found the port closed, and the turn may be lost with it: then all slots end,
# and the service that started this script starts it again.
# Needs a POSIX shell, head, mkdir, mkfifo, rm, setsid, and stat or wc.
agent=$0 port=$1 work=${2:-/run/lifsea-testbed}

lines() { # COUNT: prints so many lines from the port
	count=0
	while [ "$count" -lt "$1" ] && IFS= read -r line; do
		printf '%s\n' "$line"
		count=$((count + 1))
	done
}

# Reads requests until there is a script, prints its nonce, and passes the turn on; standard output is then the turn.
take() {
	while :; do
		read -r verb _lifsea_nonce rest || exit 1
		case $verb in
		do)
			_lifsea_script=$rest _lifsea_input=0
			break
			;;
		run)
			_lifsea_script='. "$_lifsea_slot.script"' _lifsea_input=${rest#* }
			lines "${rest% *}" >"$_lifsea_slot.script"
			[ "$_lifsea_input" = 0 ] || head -c "$_lifsea_input" >"$_lifsea_slot.input"
			break
			;;
		hello)
			read -r boot </proc/sys/kernel/random/boot_id
			echo "channel $_lifsea_nonce hello $boot" >&3
			;;
		lend) "$rest" <&3 >&3 2>/dev/null || echo "channel $_lifsea_nonce result $? 0 0" >&3 ;;
		kill)
			for file in "${_lifsea_slot%/*}"/*.nonce; do
				read -r busy <"$file" && [ "$busy" = "$_lifsea_nonce" ] || continue
				read -r group <"${file%.nonce}.group" && kill -KILL "-$group" 2>/dev/null
			done
			;;
		esac
	done
	echo "$_lifsea_nonce"
	exec >&4
	echo
}

if [ "$port" = --wait ]; then
	_lifsea_slot=$work _lifsea_printed=$work.$3
	echo $$ >"$_lifsea_slot.group"
	exec 6</dev/null 7>"$_lifsea_printed.out" 2>"$_lifsea_printed.err" <&4
	read -r _
	[ ! -e "${_lifsea_slot%/*}/over" ] || exit
	exec <&3 >&5
	take
	[ "$_lifsea_input" = 0 ] || exec 6<"$_lifsea_slot.input"
	exec <&6 >&7 4>&- 6<&- 7>&-
	set -- # no arguments
	unset _lifsea_input agent port work verb rest boot file busy group count line
	unset -f lines take
	eval "$_lifsea_script" 3>&- 5>&-
	_lifsea_status=$?
	# Its trap on exit, if it set one, has still to run, and the size of output is not known yet: the slot answers.
	case $_lifsea_script in *trap* | .*) exit "$_lifsea_status" ;; esac
	unset -f test echo
	if test -s "$_lifsea_printed.out" || test -s "$_lifsea_printed.err"; then exit "$_lifsea_status"; fi
	exec >&5
	echo answered
	exec >&3
	echo "channel $_lifsea_nonce result $_lifsea_status 0 0"
	exit
fi

sizes() { stat -c %s "$@" 2>/dev/null || for file; do wc -c <"$file"; done; }

end() {
	: >"$work/over"
	echo >&4
	kill "$$" 2>/dev/null
	exit
}

answer() { # SLOT STATUS PRINTED
	{ read -r nonce || end; read -r answered && return; } <"$1.nonce"
	if [ -s "$3.out" ] || [ -s "$3.err" ]; then
		# Background processes may write more: no more is sent than was announced.
		set -- "$1" "$2" "$3" $(sizes "$3.out" "$3.err")
		echo "channel $nonce result $2 $4 $5"
		[ "$4" = 0 ] || head -c "$4" "$3.out"
		[ "$5" = 0 ] || head -c "$5" "$3.err"
		forget "$1"
	else
		echo "channel $nonce result $2 0 0"
	fi
}

forget() { rm -f "$1".*.out "$1".*.err; } # SLOT

# Each round has output files of its own, so that processes left running by an earlier command do not print into later
# results. Empty files are removed only every 100 rounds: starting a process for each command costs more.
serve() { # SLOT
	round=0
	while :; do
		round=$((round + 1))
		exec 5>"$1.nonce" # emptied here: a shell that ends before it reads a script must not look like the last one
		setsid sh "$agent" --wait "$1" "$round" >/dev/null 2>&1
		answer "$1" $? "$1.$round" >&3
		[ $((round % 100)) != 0 ] || forget "$1"
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
