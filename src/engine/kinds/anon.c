/* See anon.h. */
#include "engine/kinds/anon.h"

bool anon_is(const struct descriptor *f, const char *name)
{
	char full[64];

	snprintf(full, sizeof(full), "anon_inode:[%s]", name);
	return !strcmp(f->target, full) || (!strncmp(f->target, "anon_inode:", 11) && !strcmp(f->target + 11, name));
}

const char *fdinfo_value(const struct descriptor *f, const char *key)
{
	size_t size = strlen(key);

	for (const char *line = f->fdinfo; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, size) && line[size] == ':') {
			line += size + 1;
			return line + strspn(line, " \t");
		}
	}
	return NULL;
}
