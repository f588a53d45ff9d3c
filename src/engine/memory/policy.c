/* See policy.h. Read from /proc/PID/numa_maps, which walks all pages: only where a policy can matter. */
#include "engine/memory/policy.h"

#include <fcntl.h>

#define NODES_MAX 1024

/* The modes of mbind(2), as numa_maps prints them. */
static const char *const modes[] = { "default", "prefer", "bind", "interleave", "local", "prefer (many)", "weighted interleave" };

static bool many_nodes(struct dump *d)
{
	_cleanup_free_ char *text = NULL;

	if (!d->many_nodes)
		d->many_nodes = !read_small_at(AT_FDCWD, "/sys/devices/system/node/possible", 256, &text, NULL) && strpbrk(text, "-,") ? 1 : -1;
	return d->many_nodes > 0;
}

/* "0-3,5" */
static int parse_nodes(const char *text, uint64_t nodes[NODES_MAX / 64])
{
	char *end;

	for (const char *at = text; *at >= '0' && *at <= '9'; at = *end == ',' ? end + 1 : end) {
		unsigned long first = strtoul(at, &end, 10), last = first;
		if (*end == '-')
			last = strtoul(end + 1, &end, 10);
		if (last >= NODES_MAX)
			return -EBADMSG;
		for (unsigned long n = first; n <= last; n++)
			nodes[n / 64] |= 1ULL << n % 64;
	}
	return 0;
}

static int apply(const char *line, VmaEntry *v, uint32_t task_mode, struct pool *pool)
{
	const char *text = strchr(line, ' ');
	uint64_t nodes[NODES_MAX / 64] = {};

	if (!text)
		return -EBADMSG;
	text++;
	for (uint32_t mode = ARRAY_SIZE(modes); mode-- > 1;) {
		size_t size = strlen(modes[mode]);
		if (strncmp(text, modes[mode], size) || !strchr(" =:\n", text[size]))
			continue;
		/* An area without a policy of its own shows that of the task. */
		if (mode == task_mode)
			return 0;
		const char *colon = text + size + strcspn(text + size, ": \n");
		int r = *colon == ':' ? parse_nodes(colon + 1, nodes) : 0;
		v->has_mempolicy = v->has_mempolicy_nodes = 1;
		v->mempolicy = mode;
		v->mempolicy_nodes.len = sizeof(nodes);
		v->mempolicy_nodes.data = pool_copy(pool, nodes, sizeof(nodes));
		return v->mempolicy_nodes.data ? r : -ENOMEM;
	}
	return 0;
}

int policy_capture(struct dump *d, pid_t pid, VmaEntry **vmas, size_t count, uint32_t task_mode, struct pool *pool)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t i = 0;

	if (!task_mode && !many_nodes(d))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/numa_maps", pid);
	int r = read_file_at(AT_FDCWD, path, 256 << 20, &text, NULL);
	if (r)
		return r == -ENOENT ? 0 : r;
	for (const char *line = text; line && *line && !r; line = strchr(line, '\n')) {
		line += *line == '\n';
		uint64_t start = strtoull(line, NULL, 16);
		while (i < count && vmas[i]->start < start)
			i++;
		if (i < count && vmas[i]->start == start)
			r = apply(line, vmas[i], task_mode, pool);
	}
	return r;
}
