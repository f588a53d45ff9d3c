/* The parsers of /proc: what they read, and that no prefix of a sample harms them. */
#include "proc/proc.h"

#include <fcntl.h>

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_proc.c\n", name);
	failures += !good;
}

static const char stat_text[] = "42 (a) b (c) S 1 42 41 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 99 1000 10 18446744073709551615 4096 8192 "
				"140000 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 100 200 300 400 500 600 700 0\n";
static const char maps_text[] = "1000-2000 r-xp 00000000 fe:00 12 /bin/x y\n3000-5000 rw-s 00001000 00:01 7 /dev/zero (deleted)\n6000-7000 ---p 0 00:00 0\n";

static const char status_text[] = "Name:\tx\nUmask:\t0027\nVmPin:\t      12 kB\nTracerPid:\t7\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 11 \nNSpid:\t5\nShdPnd:\t0000000000000002\n"
				  "SigIgn:\t0000000000001000\nCapBnd:\t000001ffffffffff\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";

static void check_status(void)
{
	struct proc_status s = {};

	check("status", !proc_parse_status(status_text, &s) && s.umask == 027 && s.pinned_kib == 12 && s.tracer_pid == 7 && s.uid[3] == 4 && s.gid[0] == 5 &&
				s.n_groups == 3 && s.groups[2] == 11 && s.shd_pnd == 2 && s.sig_pnd == 0 && s.sig_ign == 0x1000 &&
				s.cap_bnd == 0x1ffffffffff && s.no_new_privs == 1 && s.seccomp == 2);
	check("status-hostile", proc_parse_status("Uid:\t1\t2\t3\nGid:\t1\t2\t3\t4\n", &s) == -EBADMSG && proc_parse_status("Gid:\t1 2 3 4", &s) == -EBADMSG &&
					proc_parse_status("", &s) == -EBADMSG);
	for (size_t n = 0; n < sizeof(status_text); n++) {
		char *part = strndup(status_text, n);
		proc_parse_status(part, &s);
		free(part);
	}
}

int main(void)
{
	struct proc_stat stat = {};
	struct proc_maps maps = {};
	struct proc_status status;

	check_status();
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
	static const char *const locks[] = { "1: POSIX  ADVISORY  WRITE 1234 fe:00:12 100 199", "\t2: FLOCK  ADVISORY  READ -1 00:1f:7 0 EOF\n",
					     "3: LEASE  BREAKING  UNLCK 5 08:01:9 0 EOF", "4: -> OFDLCK ADVISORY  WRITE -1 08:01:9 5 5" };
	struct proc_lock lock[4];
	for (size_t i = 0; i < ARRAY_SIZE(locks); i++) {
		for (size_t n = 0; n < strlen(locks[i]); n++) {
			char *part = strndup(locks[i], n);
			proc_parse_lock(part, &lock[i]);
			free(part);
		}
		check("lock-line", !proc_parse_lock(locks[i], &lock[i]));
	}
	check("locks", lock[0].kind == PROC_LOCK_POSIX && lock[0].type == F_WRLCK && lock[0].pid == 1234 && lock[0].dev_major == 0xfe &&
			       lock[0].inode == 12 && lock[0].start == 100 && lock[0].len == 100 && !lock[0].waiting &&
			       lock[1].kind == PROC_LOCK_FLOCK && lock[1].type == F_RDLCK && lock[1].pid == -1 && lock[1].len == 0 &&
			       lock[2].kind == PROC_LOCK_LEASE && lock[2].breaking && lock[2].type == F_UNLCK &&
			       lock[3].kind == PROC_LOCK_OFD && lock[3].waiting && lock[3].start == 5 && lock[3].len == 1);
	check("locks-hostile", proc_parse_lock("1: DELEG  ACTIVE    READ 5 08:01:9 0 EOF", &lock[0]) == -ENOTSUP &&
				       proc_parse_lock("1: POSIX  ADVISORY  WRITE 5 08:01:9 9 5", &lock[0]) == -EBADMSG &&
				       proc_parse_lock("1: POSIX  ADVISORY  OTHER 5 08:01:9 9 15", &lock[0]) == -EBADMSG);
	check("prefixes", true);
	check("self", !proc_read_stat(getpid(), &stat) && stat.pid == getpid() && !proc_read_status(getpid(), &status) &&
			      status.uid[0] == getuid());
	return failures != 0;
}
