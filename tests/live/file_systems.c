/* Files on an overlay, on tmpfs and, where it can be made, on btrfs: open and mapped ones, deleted ones, directories, one that was copied up
 * while it was open, and a mount that is entered at a directory of its own (a bind mount, with a root there). */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { SIZE = 8192, SYSTEMS = 3 };
static const char *const mounts[SYSTEMS] = {"merged", "memory", "tree"};
struct set { int kept, gone, dir; char *map, *private; } sets[SYSTEMS];
static int lower;

static void make_set(struct set *s, const char *mount, unsigned seed)
{
	char path[64];
	snprintf(path, sizeof path, "%s/kept", mount);
	s->kept = data_file(path, SIZE, seed);
	s->map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->kept, 0);
	s->private = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, s->kept, 0);
	CHECK(s->map != MAP_FAILED && s->private != MAP_FAILED);
	s->private[0] = 'p';
	snprintf(path, sizeof path, "%s/gone", mount);
	s->gone = data_file(path, SIZE, seed + 1);
	CHECK(unlink(path) == 0 && lseek(s->kept, seed, SEEK_SET) == seed);
	snprintf(path, sizeof path, "%s/dir", mount);
	CHECK(mkdir(path, 0700) == 0 && (s->dir = open(path, O_RDONLY | O_DIRECTORY)) >= 0 && rmdir(path) == 0);
}

static void check_set(const struct set *s, const char *mount, unsigned seed)
{
	char buffer[SIZE], path[64];
	struct stat one, other;
	snprintf(path, sizeof path, "%s/kept", mount);
	CHECK(fstat(s->kept, &one) == 0 && stat(path, &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev);
	CHECK(lseek(s->kept, 0, SEEK_CUR) == seed && data_holds(s->map, SIZE, seed));
	CHECK(s->private[0] == 'p' && data_holds(s->map, SIZE, seed) && memcmp(s->private + 1, s->map + 1, SIZE - 1) == 0);
	s->map[10] = 'm';
	CHECK(pread(s->kept, buffer, 1, 10) == 1 && buffer[0] == 'm');
	CHECK(pread(s->gone, buffer, SIZE, 0) == SIZE && data_holds(buffer, SIZE, seed + 1));
	CHECK(fstat(s->gone, &one) == 0 && one.st_nlink == 0 && one.st_dev == other.st_dev);
	CHECK(fstat(s->dir, &one) == 0 && S_ISDIR(one.st_mode) && one.st_dev == other.st_dev);
}

static int rooted(void *argument)
{
	CHECK(chroot("bound") == 0 && chdir("/") == 0);
	tree_there();
	wait_signal();
	return access("/inside", F_OK) == 0 && access("/lower", F_OK) == -1 ? 6 : 2;
}

static int have_btrfs(void)
{
	int fd = open("disk", O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0 && ftruncate(fd, 120 << 20) == 0 && close(fd) == 0);
	return system("mkfs.btrfs -q disk >/dev/null 2>&1 && mount -o loop disk tree 2>/dev/null") == 0;
}

static int unmount_all(void)
{
	int fault = 0;
	for (int i = 0; i < SYSTEMS; i++) umount2(mounts[i], MNT_DETACH);
	fault = umount2("bound", MNT_DETACH);
	return fault;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got[16] = "";
	for (int i = 0; i < SYSTEMS; i++) CHECK(mkdir(mounts[i], 0755) == 0);
	CHECK(mkdir("lower", 0755) == 0 && mkdir("upper", 0755) == 0 && mkdir("work", 0755) == 0 && mkdir("bound", 0755) == 0);
	CHECK(close(data_file("lower/below", 100, 9)) == 0 && mkdir("lower/root", 0755) == 0);
	CHECK(close(open("lower/root/inside", O_WRONLY | O_CREAT, 0600)) == 0);
	if (mount("none", "merged", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work") ||
	    mount("none", "memory", "tmpfs", 0, "size=10m") || mount("lower/root", "bound", NULL, MS_BIND, NULL)) {
		unmount_all();
		live_say("skip: no overlay or tmpfs can be mounted here");
		return 0;
	}
	int count = have_btrfs() ? SYSTEMS : SYSTEMS - 1;
	for (int i = 0; i < count; i++) make_set(&sets[i], mounts[i], 10 * i + 1);
	/* Open for reading while it is written under the same name: this one stays with what lies below. */
	CHECK((lower = open("merged/below", O_RDONLY)) >= 0 && lseek(lower, 30, SEEK_SET) == 30);
	pid_t pid = tree_start(rooted, NULL);
	wait_go();
	for (int i = 0; i < count; i++) check_set(&sets[i], mounts[i], 10 * i + 1);
	CHECK(lseek(lower, 0, SEEK_CUR) == 30 && pread(lower, got, 8, 0) == 8);
	CHECK(tree_finish(pid) == 6);
	CHECK(unmount_all() == 0);
	return finish();
}
