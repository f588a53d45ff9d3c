/* An overlay that only the tree has, as root: files of its lower and upper layer, open and mapped, one that was copied up, one that was deleted. */
#include "mounts.h"
#include <sys/mman.h>
#include <sys/syscall.h>

int main(int argc, char **argv)
{
	static struct seen_mount before[MOUNTS_MANY];
	char here[4096], options[16384], text[64];
	live_init(argc, argv);
	if (!mounts_begin()) return 0;
	CHECK(getcwd(here, sizeof here) && mkdir("lower", 0755) == 0 && mkdir("lower2", 0755) == 0 && mkdir("upper", 0755) == 0 && mkdir("work", 0755) == 0 && mkdir("all", 0755) == 0);
	CHECK(mkdir("lower/old", 0755) == 0 && mkdir("lower/report", 0755) == 0);
	put("lower/file", "below", 0644);
	put("lower/changed", "below", 0644);
	put("lower/deleted", "below", 0644);
	put("lower2/second", "further below", 0644);
	CHECK(snprintf(options, sizeof options, "lowerdir=%s/lower:%s/lower2,upperdir=%s/upper,workdir=%s/work", here, here, here, here) < 4000);
	if (mount("overlay", "all", "overlay", 0, options)) { live_say("skip: no overlay here: %s", strerror(errno)); return 0; }
	char report[4096];
	CHECK(snprintf(report, sizeof report, "%s", live_report) < (int)sizeof report);
	char *slash = strrchr(report, '/');
	*slash = 0;
	CHECK(mkdir("all/proc", 0755) == 0 && mount("proc", "all/proc", "proc", 0, NULL) == 0 && mount(report, "all/report", NULL, MS_BIND, NULL) == 0);
	CHECK(chdir("all") == 0 && syscall(SYS_pivot_root, ".", "old") == 0 && chdir("/") == 0 && umount2("/old", MNT_DETACH) == 0);
	*slash = '/';
	CHECK(snprintf(options, sizeof options, "/report%s", slash) > 0);
	live_report = options;
	int file = open("/file", O_RDONLY | O_CLOEXEC), changed = open("/changed", O_RDWR | O_CLOEXEC), gone = open("/deleted", O_RDONLY | O_CLOEXEC);
	CHECK(file >= 0 && changed >= 0 && gone >= 0 && pwrite(changed, "above", 5, 0) == 5 && unlink("/deleted") == 0);
	char *map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0);
	CHECK(map != MAP_FAILED);
	int n = mounts_read(before);
	wait_go();
	mounts_compare(before, n);
	CHECK(pread(file, text, 64, 0) == 5 && !memcmp(text, "below", 5) && pread(changed, text, 64, 0) == 5 && !memcmp(text, "above", 5) && !memcmp(map, "below", 5));
	CHECK(pread(gone, text, 64, 0) == 5 && access("/deleted", F_OK) == -1 && holds("/second", "further below"));
	put("/second", "copied up", 0644);
	CHECK(holds("/second", "copied up"));
	return finish();
}
