/* See stats.h. */
#include "engine/stats.h"

#include "stats.pb-c.h"

#include <fcntl.h>
#include <limits.h>

#define MAGIC_SERVICE 0x55105940u
#define MAGIC_STATS 0x57093306u

static uint32_t microseconds(uint64_t ns)
{
	return (uint32_t)MIN(ns / 1000, (uint64_t)UINT32_MAX);
}

static uint64_t stage_ns(const struct profile *p, const char *name)
{
	for (size_t i = 0; i < p->count; i++)
		if (!strcmp(p->stages[i].name, name))
			return p->stages[i].ns;
	return 0;
}

static void fill_dump(DumpStatsEntry *e, const struct profile *p)
{
	e->freezing_time = microseconds(stage_ns(p, "freeze"));
	e->frozen_time = microseconds(p->pause_ns);
	e->memdump_time = microseconds(p->memory_ns);
	e->memwrite_time = microseconds(stage_ns(p, "write") + stage_ns(p, "commit"));
	e->pages_scanned = p->pages_scanned;
	e->pages_written = p->pages_written;
	e->pages_skipped_parent = p->pages_previous;
	e->has_shpages_scanned = e->has_shpages_written = e->has_shpages_skipped_parent = 1;
	e->shpages_scanned = e->shpages_written = p->shared_written;
}

static void fill_restore(RestoreStatsEntry *e, const struct profile *p)
{
	e->forking_time = microseconds(stage_ns(p, "build") + stage_ns(p, "memory"));
	e->restore_time = microseconds(p->total_ns);
	e->has_pages_restored = 1;
	e->pages_restored = p->pages_restored;
}

int stats_write(const char *dir, bool restore, const struct profile *p, struct error *e)
{
	DumpStatsEntry dump = DUMP_STATS_ENTRY__INIT;
	RestoreStatsEntry restored = RESTORE_STATS_ENTRY__INIT;
	StatsEntry stats = STATS_ENTRY__INIT;
	unsigned char text[512];
	char path[PATH_MAX];

	if (restore) {
		fill_restore(&restored, p);
		stats.restore = &restored;
	} else {
		fill_dump(&dump, p);
		stats.dump = &dump;
	}
	uint32_t head[3] = { MAGIC_SERVICE, MAGIC_STATS, (uint32_t)stats_entry__get_packed_size(&stats) };
	memcpy(text, head, sizeof(head));
	size_t size = sizeof(head) + stats_entry__pack(&stats, text + sizeof(head));
	if (snprintf(path, sizeof(path), "%s/stats-%s", dir, restore ? "restore" : "dump") >= PATH_MAX)
		return error_set(e, -ENAMETOOLONG, "the path of the work directory is too long");
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, size) != (ssize_t)size)
		return error_errno(e, -errno, "cannot write %s", path);
	return 0;
}
