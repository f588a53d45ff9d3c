/* The text parsers of /proc. The first byte selects one. */
#include "fuzz.h"

#include "proc/mountinfo.h"
#include "proc/proc.h"

static union {
	struct proc_stat stat;
	struct proc_status status;
	struct proc_fdinfo fdinfo;
	uint64_t limits[16][2];
} to;

static void parse(unsigned int which, const char *text)
{
	struct proc_maps maps = {};
	struct proc_timers timers = {};
	struct proc_mounts mounts = {};

	switch (which) {
	case 0:
		proc_parse_stat(text, &to.stat);
		break;
	case 1:
		proc_parse_status(text, &to.status);
		break;
	case 2:
		proc_parse_maps(text, &maps);
		break;
	case 3:
		proc_parse_smaps(text, &maps);
		break;
	case 4:
		proc_parse_fdinfo(text, &to.fdinfo);
		break;
	case 5:
		proc_parse_limits(text, to.limits);
		break;
	case 6:
		proc_parse_timers(text, &timers);
		break;
	default:
		proc_parse_mounts(text, &mounts);
	}
	for (size_t i = 0; i < maps.count; i++)
		if (maps.data[i].start >= maps.data[i].end)
			abort();
	proc_maps_finish(&maps);
	VEC_FREE(&timers);
	proc_mounts_finish(&mounts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = size ? malloc(size) : NULL;

	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	parse((unsigned int)(data[0] - '0') % 8, text);
	free(text);
	return 0;
}
