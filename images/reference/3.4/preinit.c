/* Process 1 between ostree-prepare-root and systemd: an overlay on /etc whose upper layer lies on a partition of its
 * own, the data disk on /var, and a system disk that takes no writes. The machine comes up with one data disk only.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define METADATA "/dev/vda5"
#define DATA "/dev/vdb"
#define STATEROOT_VAR "/sysroot/ostree/deploy/lifsea/var"
/* A new disk holds zeros: nothing to discard, no table and no journal to clear before the first boot goes on. */
#define LAZY "nodiscard,assume_storage_prezeroed=1,lazy_journal_init=1"
#define SEED "/usr/share/lifsea/var.tar"
#define SEEDED "/var/lib/lifsea"
#define INIT "/usr/lib/systemd/systemd"
#ifndef ETC_OPTIONS
#define ETC_OPTIONS 0 /* of mount(2), beside those of every line */
#endif

/* Process 1 that ends is a kernel panic, and this line the last before it. */
static void need(int holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "lifsea-preinit: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void run(char *const command[])
{
	int status = -1;
	pid_t child = fork();

	if (child == 0) {
		execv(command[0], command);
		_exit(127);
	}
	need(child > 0 && waitpid(child, &status, 0) == child, command[0]);
	errno = ECHILD;
	need(WIFEXITED(status) && WEXITSTATUS(status) == 0, command[0]);
}

/* Whole disks of virtio-blk beside /dev/vda. */
static int data_disks(void)
{
	int found = 0;
	struct dirent *entry;
	DIR *devices = opendir("/dev");

	need(devices != NULL, "/dev");
	while ((entry = readdir(devices)) != NULL)
		found += strncmp(entry->d_name, "vd", 2) == 0 && strlen(entry->d_name) == 3 && entry->d_name[2] != 'a';
	closedir(devices);
	return found;
}

static void need_one_data_disk(void)
{
	int found = data_disks();

	if (found == 1)
		return;
	fprintf(stderr, "lifsea-preinit: one data disk is needed, and there are %d\n", found);
	exit(1);
}

/* The superblock lies at 1024, its magic number 0x38 bytes into it (Documentation/filesystems/ext4/super.rst). */
static int has_ext4(const char *disk)
{
	unsigned char magic[2] = {0, 0};
	int file = open(disk, O_RDONLY | O_CLOEXEC);

	need(file >= 0, disk);
	need(pread(file, magic, sizeof magic, 1024 + 0x38) == sizeof magic, disk);
	close(file);
	return magic[0] == 0x53 && magic[1] == 0xef;
}

static void mount_etc(void)
{
	need(mount(METADATA, "/tmp", "ext4", MS_NOSUID | MS_NODEV, NULL) == 0, METADATA);
	umount2("/etc", MNT_DETACH); /* ostree-prepare-root's own, which is writable */
	need(mount("overlay", "/etc", "overlay", MS_NOSUID | MS_NODEV | ETC_OPTIONS,
		   "lowerdir=/etc,upperdir=/tmp/upper,workdir=/tmp/work") == 0, "/etc");
	need(umount2("/tmp", MNT_DETACH) == 0, "/tmp");
}

static void mount_var(void)
{
	char *const format[] = {"/usr/sbin/mkfs.ext4", "-q", "-L", "var", "-E", LAZY, DATA, NULL};
	char *const unpack[] = {"/usr/bin/tar", "-x", "--numeric-owner", "-p", "-C", "/var", "-f", SEED, NULL};

	if (!has_ext4(DATA))
		run(format);
	umount2("/var", MNT_DETACH);
	umount2(STATEROOT_VAR, MNT_DETACH);
	need(mount(DATA, "/var", "ext4", MS_NODEV, NULL) == 0, DATA);
	if (access(SEEDED, F_OK) == 0)
		return;
	run(unpack);
	mkdir("/var/lib", 0755);
	sync();
	need(mkdir(SEEDED, 0755) == 0, SEEDED);
}

int main(int count, char **arguments)
{
	(void)count;
	need_one_data_disk();
	mount_etc();
	mount_var();
	need(mount(NULL, "/sysroot", NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0, "/sysroot");
	execv(INIT, arguments);
	need(0, INIT);
}
