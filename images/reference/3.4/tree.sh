# What LifseaOS 3.4 does otherwise than 3.3: /etc is an overlay, /var lies on a data disk, and the system disk, which
# takes no writes, is not grown. $PREINIT is the program that mounts them, $CONTAINERS what /var/lib/containerd holds.
install -m 755 "$PREINIT" usr/libexec/lifsea/preinit
ln -sfn ../libexec/lifsea/preinit usr/sbin/init
sed -i '/^grow_disk$/d' usr/libexec/lifsea/init
mkdir -p usr/share/lifsea
tar --create --sort=name --mtime=@0 --numeric-owner --file usr/share/lifsea/var.tar \
	--transform='s|^\.|lib/containerd|' --directory "$CONTAINERS" .
