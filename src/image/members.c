/* What all sources have in common: their members, found by name. See archive.h. */
#include "image/archive.h"

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct archive_member *)a)->name, ((const struct archive_member *)b)->name);
}

const struct archive_member *source_find(const struct source *s, const char *name)
{
	struct archive_member key;

	if (strlen(name) >= sizeof(key.name) || !s->index.members.count)
		return NULL;
	snprintf(key.name, sizeof(key.name), "%s", name);
	return bsearch(&key, s->index.members.data, s->index.members.count, sizeof(key), by_name);
}

int source_sort(struct source *s)
{
	struct archive_member *m = s->index.members.data;

	if (!s->index.members.count)
		return 0;
	qsort(m, s->index.members.count, sizeof(*m), by_name);
	for (size_t i = 1; i < s->index.members.count; i++)
		if (!strcmp(m[i - 1].name, m[i].name))
			return -EBADMSG;
	return 0;
}

void source_free(struct source *s)
{
	if (!s)
		return;
	archive_index_free(&s->index);
	s->ops->free(s);
}
