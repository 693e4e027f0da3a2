# Changes of LifseaOS 3.4 from 3.3: /etc is an overlay, /var is on a data disk, and the system disk, which is read-only,
# is not grown. $PREINIT is the program that mounts them, $CONTAINERS the content of /var/lib/containerd.
install -m 755 "$PREINIT" usr/libexec/lifsea/preinit
ln -sfn ../libexec/lifsea/preinit usr/sbin/init
sed -i '/^grow_disk$/d' usr/libexec/lifsea/init
mkdir -p usr/share/lifsea
tar --create --sort=name --mtime=@0 --numeric-owner --file usr/share/lifsea/var.tar \
	--transform='s|^\.|lib/containerd|' --directory "$CONTAINERS" .
