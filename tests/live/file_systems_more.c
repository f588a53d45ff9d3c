/*
 * Files on other file systems, each where its programs are there: btrfs (in a subvolume and in a snapshot, whose files have another device for stat(2) than in
 * mountinfo), xfs, ext4, squashfs and erofs (read-only). FUSE: test_how_fuse of tests/cli/how.py.
 */
#include "data.h"
#include "proc.h"
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { SIZE = 8192 };
struct system {
	const char *mount, *in, *make; /* in: where the files are */
	int read_only;
	int there;
	int kept, gone, gone_dir, dir, watch;
	char *map, *private;
} systems[] = {
	{.mount = "btrfs", .in = "btrfs/sub/inner", .make = "truncate -s 120M btrfs.disk && mkfs.btrfs -q btrfs.disk && mount -o loop btrfs.disk btrfs && "
	 "btrfs subvolume create btrfs/sub && mkdir btrfs/sub/inner"},
	{.mount = "snapshot", .in = "snapshot/snap/inner", .make = "truncate -s 120M snap.disk && mkfs.btrfs -q snap.disk && mount -o loop snap.disk snapshot && "
	 "btrfs subvolume create snapshot/sub && mkdir snapshot/sub/inner && echo x > snapshot/sub/inner/x && btrfs subvolume snapshot snapshot/sub snapshot/snap"},
	{.mount = "volume", .in = "volume/inner", .make = "truncate -s 120M vol.disk && mkfs.btrfs -q vol.disk && mount -o loop vol.disk volume && "
	 "btrfs subvolume create volume/vol && mkdir volume/vol/inner && umount volume && mount -o loop,subvol=vol vol.disk volume"},
	{.mount = "xfs", .in = "xfs/inner", .make = "truncate -s 320M xfs.disk && mkfs.xfs -q xfs.disk && mount -o loop xfs.disk xfs && mkdir xfs/inner"},
	{.mount = "ext4", .in = "ext4/inner", .make = "truncate -s 20M ext4.disk && mkfs.ext4 -q ext4.disk && mount -o loop ext4.disk ext4 && mkdir ext4/inner"},
	{.mount = "squashfs", .in = "squashfs/inner", .make = "mksquashfs source squash.disk -quiet -no-progress && mount -o loop squash.disk squashfs", .read_only = 1},
	{.mount = "erofs", .in = "erofs/inner", .make = "mkfs.erofs --quiet erofs.disk source && mount -o loop erofs.disk erofs", .read_only = 1},
};
enum { SYSTEMS = sizeof systems / sizeof *systems };

static const char *in(const struct system *s, const char *name)
{
	static char path[4][128];
	static int n;
	n = (n + 1) % 4;
	snprintf(path[n], sizeof path[n], "%s/%s", s->in, name);
	return path[n];
}

static void make_read_only(struct system *s)
{
	CHECK((s->kept = open(in(s, "kept"), O_RDONLY)) >= 0);
	s->map = mmap(NULL, SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, s->kept, 0);
}

static void make(struct system *s, unsigned seed)
{
	s->kept = data_file(in(s, "kept"), SIZE, seed);
	s->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->kept, 0);
	s->gone = data_file(in(s, "gone"), SIZE, seed + 1);
	CHECK(unlink(in(s, "gone")) == 0);
	CHECK(mkdir(in(s, "dir"), 0700) == 0 && (s->gone_dir = open(in(s, "dir"), O_RDONLY | O_DIRECTORY)) >= 0 && rmdir(in(s, "dir")) == 0);
	CHECK((s->watch = inotify_init1(IN_NONBLOCK)) >= 0 && inotify_add_watch(s->watch, in(s, "kept"), IN_ATTRIB) > 0 && inotify_add_watch(s->watch, s->in, IN_CREATE) > 0);
	CHECK(flock(s->kept, LOCK_EX) == 0);
}

static void prepare(struct system *s, unsigned seed)
{
	if (s->read_only) make_read_only(s);
	else make(s, seed);
	CHECK((s->dir = open(s->in, O_RDONLY | O_DIRECTORY)) >= 0);
	s->private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, s->kept, 0);
	CHECK(s->map != MAP_FAILED && s->private != MAP_FAILED);
	s->private[0] = 'p';
	CHECK(lseek(s->kept, seed, SEEK_SET) == seed);
}

static void check_written(struct system *s, unsigned seed)
{
	char buffer[SIZE];
	struct stat one, other;
	CHECK(pread(s->gone, buffer, SIZE, 0) == SIZE && data_holds(buffer, SIZE, seed + 1));
	CHECK(access(in(s, "gone"), F_OK) < 0 && access(in(s, "dir"), F_OK) < 0);
	CHECK(fstat(s->gone, &one) == 0 && fstat(s->kept, &other) == 0 && one.st_dev == other.st_dev);
	CHECK(fstat(s->gone_dir, &one) == 0 && S_ISDIR(one.st_mode));
	s->map[10] = 'm';
	CHECK(pread(s->kept, buffer, 1, 10) == 1 && buffer[0] == 'm');
	CHECK(read(s->watch, buffer, sizeof buffer) < 0 && errno == EAGAIN);
	int again = open(in(s, "kept"), O_RDONLY | O_CLOEXEC);
	CHECK(flock(again, LOCK_SH | LOCK_NB) < 0 && close(again) == 0);
	CHECK(fchmod(s->kept, 0640) == 0 && close(open(in(s, "new"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) == 0);
	ssize_t n = read(s->watch, buffer, sizeof buffer);
	CHECK(n == 2 * sizeof(struct inotify_event) + 16);
}

static void check(struct system *s, unsigned seed)
{
	struct stat one, other;
	CHECK(fstat(s->kept, &one) == 0 && stat(in(s, "kept"), &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev);
	CHECK(fstat(s->dir, &one) == 0 && stat(s->in, &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev);
	CHECK(lseek(s->kept, 0, SEEK_CUR) == seed && data_holds(s->map, SIZE, s->read_only ? 3 : seed));
	CHECK(s->private[0] == 'p' && memcmp(s->private + 1, s->map + 1, SIZE - 1) == 0);
	if (!s->read_only) check_written(s, seed);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char command[1024];
	int count = 0;
	CHECK(mkdir("source", 0755) == 0 && mkdir("source/inner", 0755) == 0 && close(data_file("source/inner/kept", SIZE, 3)) == 0);
	for (int i = 0; i < SYSTEMS; i++) {
		CHECK(mkdir(systems[i].mount, 0755) == 0);
		snprintf(command, sizeof command, "(%s) >%s.log 2>&1 </dev/null", systems[i].make, systems[i].mount);
		systems[i].there = system(command) == 0;
		count += systems[i].there;
		if (systems[i].there) prepare(&systems[i], 10 * (unsigned)i + 1);
	}
	if (count) wait_go();
	for (int i = 0; i < SYSTEMS; i++)
		if (systems[i].there) check(&systems[i], 10 * (unsigned)i + 1);
	for (int i = 0; i < SYSTEMS; i++) umount2(systems[i].mount, MNT_DETACH);
	if (!count) {
		live_say("skip: none of these file systems can be made here");
		return 0;
	}
	return finish();
}
