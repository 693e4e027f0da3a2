#!/bin/sh
# The guest's end of the command channel on a shared serial line (console/serial_frames.py describes the frames).
#
#   request   put NONCE NAME PIECE TEXT     a piece of a file, in base64, or as `printf %b` reads it
#             run NONCE                     runs NONCE.script with NONCE.input, once, however often this is repeated
#             ask NONCE                     the state of that script: a frame `running` or `end`
#             get NONCE NAME OFFSET LENGTH  a part of its output
#             kill NONCE · drop NONCE · hello NONCE
#
# Needs a POSIX shell, cat, head, tail, wc, rm, mv, mkdir, setsid, and base64 or od; stty and sha256sum or md5sum help.
set -u
terminal=$1
work=${2:-/run/lifsea-testbed-terminal}
rm -rf "$work"
mkdir -m 700 "$work"
cd "$work" || exit 1
[ -c "$terminal" ] && exec <"$terminal" >"$terminal"
exec 3>&1 4<&0 >/dev/null 2>&1 </dev/null
stty raw -echo <&4
trap '' INT QUIT TSTP HUP
if command -v base64; then code=base64; else code=hex; fi

# A frame is written by one system call, so that only the kernel can print in between.
frame() { printf '\036%s %s %s %s\n' "$1" "$2" "${#3}" "$3" >&3; }
words() { IFS='' && echo "$*"; }
encode() {
	if [ $code = base64 ]; then set -- $(base64); else set -- $(od -An -v -tx1); fi
	words "$@"
}
decode() { if [ $code = base64 ]; then printf %s "$1" | base64 -d; else printf %b "$1"; fi; }
size() { set -- $(wc -c <"$1") && echo "$1"; }
digest() { set -- $({ sha256sum || md5sum || echo none; } <"$1") && echo "$1"; }

run() {
	cat "$1".script.* >"$1.script"
	cat "$1".input.* >"$1.input"
	setsid sh -c 'echo $$ >"$1.group"; cd / && exec sh "$2/$1.script" 3>&- 4<&-' sh "$1" "$work" \
		<"$1.input" >"$1.out" 2>"$1.err"
	status=$?
	echo "$status:$(size "$1.out"):$(size "$1.err"):$(digest "$1.out"):$(digest "$1.err")" >"$1.new"
	mv "$1.new" "$1.end"
	frame "$1" end "$(cat "$1.end")"
}

while read -r verb nonce name offset text <&4; do
	case $verb in
	hello)
		read -r boot </proc/sys/kernel/random/boot_id
		frame "$nonce" hello "$boot:$code"
		;;
	put)
		decode "$text" >"$nonce.$name.$offset"
		frame "$nonce" put "$name:$offset"
		;;
	run)
		if [ ! -e "$nonce.started" ]; then
			: >"$nonce.started"
			run "$nonce" &
		fi
		frame "$nonce" running ''
		;;
	ask) if [ -e "$nonce.end" ]; then frame "$nonce" end "$(cat "$nonce.end")"; else frame "$nonce" running ''; fi ;;
	get) frame "$nonce" part "$name:$offset:$(tail -c "+$((offset + 1))" "$nonce.$name" | head -c "$text" | encode)" ;;
	kill) if read -r group <"$nonce.group"; then kill -KILL "-$group"; fi ;;
	drop) rm -f "$nonce".* ;;
	esac
done
