/* Helpers for live test programs that compare what /proc says before and after. */
#ifndef PROC_H
#define PROC_H
#include "live.h"
#include <stdint.h>
#include <sys/mman.h>

enum { PROC_TEXT = 1 << 21 };

/* The lines of a file of /proc that begin with one of the prefixes (a list that ends with NULL), joined. */
static inline void proc_lines(const char *path, const char *const *prefixes, char *to, size_t size)
{
	static __thread char text[8192];
	ssize_t n = slurp(path, text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = 0;
	*to = 0;
	char *rest;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		for (int i = 0; prefixes[i]; i++)
			if (!strncmp(line, prefixes[i], strlen(prefixes[i]))) {
				CHECK(strlen(to) + strlen(line) + 2 < size);
				strcat(strcat(to, line), "\n");
			}
}

/* The number after "Name:" in a file like /proc/self/status; -1 without such a line. */
static inline long proc_number(const char *path, const char *name)
{
	char line[512];
	proc_lines(path, (const char *const[]){name, NULL}, line, sizeof line);
	return *line ? strtol(line + strlen(name), NULL, 0) : -1;
}

/* The value of a field of the area at an address in smaps, such as "VmFlags:". */
static inline void smaps_field(const void *at, const char *name, char *to, size_t size)
{
	static char text[PROC_TEXT];
	ssize_t n = slurp("/proc/self/smaps", text, sizeof text - 1);
	CHECK(n > 0 && n < PROC_TEXT - 1);
	text[n] = 0;
	int inside = 0;
	char *rest;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		unsigned long start, end;
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			inside = (uintptr_t)at >= start && (uintptr_t)at < end;
		else if (inside && !strncmp(line, name, strlen(name))) {
			CHECK(strlen(line) < size);
			strcpy(to, line + strlen(name));
			return;
		}
	}
	live_say("not ok: no %s for an area at %p", name, at);
	_exit(1);
}

static inline long smaps_kib(const void *at, const char *name)
{
	char value[64];
	smaps_field(at, name, value, sizeof value);
	return strtol(value, NULL, 10);
}

/* VmFlags without "sd" (written to since asked about), which a dump may change. */
static inline void vm_flags(const void *at, char *to, size_t size)
{
	smaps_field(at, "VmFlags:", to, size);
	char *sd = strstr(to, " sd");
	if (sd) memmove(sd, sd + 3, strlen(sd + 3) + 1);
}

static inline int has_flag(const void *at, const char *flag)
{
	char flags[256];
	vm_flags(at, flags, sizeof flags);
	return strstr(flags, flag) != NULL;
}

/* The entry of /proc/PID/pagemap for an address. */
static inline uint64_t pagemap_entry(pid_t pid, const void *at)
{
	char path[64];
	uint64_t entry;
	snprintf(path, sizeof path, "/proc/%d/pagemap", pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && pread(fd, &entry, 8, (uintptr_t)at / 4096 * 8) == 8);
	close(fd);
	return entry;
}
static inline uint64_t page_frame(uint64_t entry) { return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0; }
#endif
