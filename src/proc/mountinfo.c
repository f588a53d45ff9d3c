/* See mountinfo.h. Spaces and the like stand as "\040" in it, three octal digits. */
#include "proc/mountinfo.h"

#define LINES_MAX 200000 /* twice fs.mount-max as it usually is */

static bool is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* The next word of a line, unescaped; NULL at its end. */
static const char *next_word(struct pool *pool, const char **at, const char *end, int *error)
{
	const char *from = *at;

	while (from < end && *from == ' ')
		from++;
	size_t size = 0;
	while (from + size < end && from[size] != ' ')
		size++;
	*at = from + size;
	if (!size)
		return NULL;
	char *word = pool_take(pool, size + 1), *to = word;
	if (!word) {
		*error = -ENOMEM;
		return NULL;
	}
	for (size_t i = 0; i < size; i++) {
		if (from[i] == '\\' && i + 3 < size && is_octal(from[i + 1]) && is_octal(from[i + 2]) && is_octal(from[i + 3])) {
			*to++ = (char)((from[i + 1] - '0') << 6 | (from[i + 2] - '0') << 3 | (from[i + 3] - '0'));
			i += 3;
		} else {
			*to++ = from[i];
		}
	}
	return word;
}

static bool number(const char *text, int base, char until, uint32_t *ret, const char **ret_rest)
{
	char *end = NULL;

	if (!text || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	unsigned long value = strtoul(text, &end, base);
	if (errno || value > UINT32_MAX || *end != until)
		return false;
	*ret = (uint32_t)value;
	if (ret_rest)
		*ret_rest = end + 1;
	return true;
}

/* "shared:N", "master:N", "propagate_from:N", "unbindable", and what later kernels may add. */
static bool take_tag(struct proc_mount *m, const char *tag)
{
	if (!strncmp(tag, "shared:", 7))
		return number(tag + 7, 10, '\0', &m->shared, NULL);
	if (!strncmp(tag, "master:", 7))
		return number(tag + 7, 10, '\0', &m->master, NULL);
	m->unbindable |= !strcmp(tag, "unbindable");
	return true;
}

static int parse_line(struct proc_mounts *all, const char *at, const char *end)
{
	struct proc_mount m = {};
	const char *rest = NULL, *tag;
	uint32_t major, minor;
	int error = 0;

#define WORD() next_word(&all->pool, &at, end, &error)
	if (!number(WORD(), 10, '\0', &m.id, NULL) || !number(WORD(), 10, '\0', &m.parent, NULL) || !number(WORD(), 10, ':', &major, &rest) ||
	    !number(rest, 10, '\0', &minor, NULL) || major > 0xfff || minor > 0xfffff)
		return error ? error : -EBADMSG;
	m.dev = major << 20 | minor;
	m.root = WORD();
	m.point = WORD();
	m.options = WORD();
	while ((tag = WORD()) && strcmp(tag, "-"))
		if (!take_tag(&m, tag))
			return -EBADMSG;
	if (!tag)
		return error ? error : -EBADMSG;
	m.fstype = WORD();
	const bool nameless = at + 1 < end && at[0] == ' ' && at[1] == ' '; /* an empty source */
	m.source = nameless ? "" : WORD();
	m.super = WORD();
#undef WORD
	if (!m.root || !m.point || !m.options || !m.fstype || !m.source || !m.super)
		return error ? error : -EBADMSG;
	struct proc_mount *slot = VEC_PUSH(&all->list);
	if (!slot)
		return -ENOMEM;
	*slot = m;
	return 0;
}

int proc_parse_mounts(const char *text, struct proc_mounts *ret)
{
	int r = 0;

	*ret = (struct proc_mounts){};
	for (const char *line = text, *end; !r && *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		r = ret->list.count == LINES_MAX ? -E2BIG : parse_line(ret, line, end);
	}
	return r;
}

void proc_mounts_finish(struct proc_mounts *m)
{
	VEC_FREE(&m->list);
	pool_free(&m->pool);
}
