/* The parsers of /proc: what they read, and that no prefix of a sample harms them. */
#include "proc/proc.h"

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_proc.c\n", name);
	failures += !good;
}

static const char stat_text[] = "42 (a) b (c) S 1 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 99 1000 10 18446744073709551615 4096 8192 "
				"140000 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 100 200 300 400 500 600 700 0\n";
static const char maps_text[] = "1000-2000 r-xp 00000000 fe:00 12 /bin/x y\n3000-5000 rw-s 00001000 00:01 7 /dev/zero (deleted)\n6000-7000 ---p 0 00:00 0\n";

int main(void)
{
	struct proc_stat stat = {};
	struct proc_maps maps = {};
	struct proc_status status;

	check("stat", !proc_parse_stat(stat_text, &stat) && !strcmp(stat.comm, "a) b (c") && stat.state == 'S' && stat.session == 41 &&
			      stat.num_threads == 3 && stat.start_time == 99 && stat.start_data == 100 && stat.env_end == 700);
	check("maps", !proc_parse_maps(maps_text, &maps) && maps.count == 3 && !strcmp(maps.data[0].name, "/bin/x y") &&
			      maps.data[1].shared && maps.data[1].deleted && maps.data[1].inode == 7 && !maps.data[2].name);
	proc_maps_finish(&maps);
	check("maps-hostile", proc_parse_maps("zz\n", &maps) == -EBADMSG && proc_parse_maps("5-4 r--p 0 0:0 0\n", &maps) == -EBADMSG);
	for (size_t n = 0; n < sizeof(maps_text); n++) {
		char *part = strndup(maps_text, n);
		if (!proc_parse_maps(part, &maps))
			proc_maps_finish(&maps);
		free(part);
	}
	for (size_t n = 0; n < sizeof(stat_text); n++) {
		char *part = strndup(stat_text, n);
		proc_parse_stat(part, &stat);
		free(part);
	}
	check("prefixes", true);
	check("self", !proc_read_stat(getpid(), &stat) && stat.pid == getpid() && !proc_read_status(getpid(), &status) &&
			      status.uid[0] == getuid());
	return failures != 0;
}
