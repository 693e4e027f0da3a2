# For the scripts of mutants, which run in a tree or a sysroot.

UNITS=usr/lib/systemd/system

# unit NAME TYPE: makes a service of that type that each boot starts; its script comes on standard input. A boot waits for
# the end of a oneshot service, and for nothing of one of type exec.
unit() {
	mkdir -p usr/libexec/extra $UNITS/multi-user.target.wants
	{ echo '#!/bin/sh'; cat; } >usr/libexec/extra/$1
	chmod 755 usr/libexec/extra/$1
	printf '[Unit]\nDescription=%s\nAfter=local-fs.target %s\n[Service]\nType=%s\nExecStart=/usr/libexec/extra/%s\n%s\n' \
		"$1" "${AFTER:-}" "$2" "$1" "${MORE:-}" >$UNITS/$1.service
	[ "$2" != oneshot ] || echo RemainAfterExit=yes >>$UNITS/$1.service
	ln -s ../$1.service $UNITS/multi-user.target.wants/$1.service
}

# dropbear NAME: copies the ssh server under that name, with the libraries that the image lacks.
dropbear() {
	mkdir -p "$(dirname "$1")"
	cp "$PACKAGES/usr/sbin/dropbear" "$1"
	for library in libtomcrypt.so.1 libtommath.so.1 libz.so.1 libcrypt.so.1; do
		[ -e usr/lib/x86_64-linux-gnu/$library ] || cp -L "$PACKAGES/usr/lib/x86_64-linux-gnu/$library" usr/lib/x86_64-linux-gnu/
	done
}

# The deployment in a sysroot.
deployment() { echo ostree/deploy/lifsea/deploy/*.0; }

# replace FILE: writes standard input to a file that shares nothing with the object it was, but has its time.
replace() {
	cat >"$1.new"
	touch -r "$1" "$1.new"
	chmod --reference="$1" "$1.new"
	mv "$1.new" "$1"
}

# lie PROGRAM: a script, which comes on standard input, takes the place of that program in /usr/bin; the program itself
# lies in /usr/libexec/honest.
lie() {
	mkdir -p usr/libexec/honest
	cp -aL usr/bin/$1 usr/libexec/honest/$1
	rm usr/bin/$1
	cat >usr/bin/$1
	chmod 755 usr/bin/$1
}
