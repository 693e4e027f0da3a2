# Changes of LifseaOS 3.5 from 3.4: the host has no shell. The work of the first boot, including user-data, is done by a
# container with a shell, and the operations tool is a program. Nothing in /etc can be executed.
install -m 755 "$PREINIT" usr/libexec/lifsea/preinit
cp "$LINE/lifsea-init.service" "$LINE/lifsea-ready.service" usr/lib/systemd/system/
ln -s ../lifsea-ready.service usr/lib/systemd/system/multi-user.target.wants/
install -m 644 "$LINE/bootstrap" "$LINE/metadata" usr/share/lifsea/
rm usr/libexec/lifsea/init
sed -i '/^After=/s/ lifsea-init\.service//' usr/lib/systemd/system/containerd.service
sed -i '/^After=/s/$/ lifsea-init.service/' usr/lib/systemd/system/kubelet.service
rm -f usr/bin/sh usr/bin/bash usr/bin/dash usr/bin/rbash
find usr -type f -perm /111 -print | while read -r file; do
	[ "$(head -c 2 "$file" | tr -d '\0')" != '#!' ] || rm "$file"
done
install -m 755 "$LIFSEACLI" usr/bin/lifseacli
