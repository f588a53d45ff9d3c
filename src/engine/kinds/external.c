/* See external.h. */
#include "engine/kinds/external.h"

#include "base/log.h"
#include "engine/restore.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/ioctl.h>

/* `missing`: what must be there before it means something. */
static const struct {
	const char *type, *missing;
} types[] = {
	{ "file", NULL }, { "tty", NULL }, { "unix", NULL }, { "pipe", NULL }, { "socket", NULL },
	{ "net", NULL }, { "veth", NULL }, { "macvlan", NULL }, { "ipvlan", NULL }, { "vlan", NULL },
	{ "mnt", NULL }, { "dev", NULL }, { "pid", "namespaces" },
};

static const char *const not_known = "type[id] with one of the types file, tty, unix, pipe, socket, net, veth, macvlan, mnt, dev";

/* ---- the texts ---- */

static char *copy(struct external_list *list, const char *text, size_t size)
{
	char *to = pool_take(&list->pool, size + 1);

	if (to)
		memcpy(to, text, size);
	return to;
}

/* TYPE[ID] or TYPE:[ID]; gives what follows, or NULL where it is none. */
static const char *split(struct external_list *list, const char *text, struct external *ret)
{
	size_t length = 0;

	while (islower((unsigned char)text[length]))
		length++;
	const char *open = text + length + (text[length] == ':'), *close = *open == '[' ? strchr(open, ']') : NULL;
	if (!length || !close)
		return NULL;
	ret->type = copy(list, text, length);
	ret->id = copy(list, open + 1, (size_t)(close - open - 1));
	return close + 1;
}

int external_add(struct external_list *list, const char *text, struct error *e)
{
	struct external one = { .fd = -1 };
	const char *rest = split(list, text, &one);
	size_t known = 0;

	if (!rest || (*rest && *rest != ':'))
		return error_set(e, -EINVAL, "--external %s: write %s", text, not_known);
	while (known < ARRAY_SIZE(types) && one.type && strcmp(types[known].type, one.type))
		known++;
	if (known == ARRAY_SIZE(types))
		return error_set(e, -EINVAL, "--external %s: there is no such type; write %s", text, not_known);
	if (types[known].missing)
		return error_set(e, -EINVAL, "--external %s is not there yet: it needs %s", text, types[known].missing);
	one.value = *rest ? copy(list, rest + 1, strlen(rest + 1)) : NULL;
	struct external *slot = VEC_PUSH(&list->left_out);
	if (!slot || !one.type || !one.id || (*rest && !one.value))
		return error_set(e, -ENOMEM, "out of memory");
	*slot = one;
	return 0;
}

int external_add_given(struct external_list *list, const char *text, struct error *e)
{
	struct external one = {};
	char *end = NULL;
	long fd = !strncmp(text, "fd[", 3) && isdigit((unsigned char)text[3]) ? strtol(text + 3, &end, 10) : -1;

	if (fd < 0 || fd > INT_MAX || strncmp(end, "]:", 2) || !end[2])
		return error_set(e, -EINVAL, "--inherit-fd %s: write fd[N]:RESOURCE with the number of an open descriptor, as fd[3]:pipe[1234]", text);
	one.fd = (int)fd;
	if (fcntl(one.fd, F_GETFD) < 0)
		return error_set(e, -EBADF, "--inherit-fd %s: descriptor %d is not open; open it for the command", text, one.fd);
	const char *rest = split(list, end + 2, &one);
	if (!rest || *rest) {
		one.type = "";
		one.id = copy(list, end + 2, strlen(end + 2));
	}
	struct external *slot = VEC_PUSH(&list->given);
	if (!slot || !one.type || !one.id)
		return error_set(e, -ENOMEM, "out of memory");
	*slot = one;
	return 0;
}

void external_free(struct external_list *list)
{
	VEC_FREE(&list->left_out);
	VEC_FREE(&list->given);
	pool_free(&list->pool);
}

/* ---- asking ---- */

static bool read_number(const char **at, int base, uint64_t *ret)
{
	char *end;

	if (!isxdigit((unsigned char)**at))
		return false;
	errno = 0;
	*ret = strtoull(*at, &end, base);
	*at = end;
	return !errno;
}

/* `b` ANY: the second number is not known. */
#define ANY UINT64_MAX

static bool is_pair(const char *id, uint64_t a, uint64_t b)
{
	static const int bases[] = { 16, 10 };

	for (size_t i = 0; i < ARRAY_SIZE(bases); i++) {
		const char *at = id;
		uint64_t x, y;
		if (read_number(&at, bases[i], &x) && *at++ == ':' && read_number(&at, bases[i], &y) && !*at && x == a && (b == ANY || y == b))
			return true;
	}
	return false;
}

static bool is_number(const char *id, uint64_t number)
{
	uint64_t x;

	return read_number(&id, 10, &x) && !*id && x == number;
}

const struct external *external_numbered(const struct request *r, const char *type, uint64_t number)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->left_out, x)
			if (!strcmp(x->type, type) && (!*x->id || is_number(x->id, number)))
				return x;
	return NULL;
}

const struct external *external_named(const struct request *r, const char *type, const char *name)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->left_out, x)
			if (!strcmp(x->type, type) && !strcmp(x->id, name))
				return x;
	return NULL;
}

bool external_is(const struct request *r, const char *type, uint64_t number)
{
	return external_numbered(r, type, number) != NULL;
}

bool external_is_pair(const struct request *r, const char *type, uint64_t a, uint64_t b)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->left_out, x)
			if (!strcmp(x->type, type) && is_pair(x->id, a, b))
				return true;
	return false;
}

bool external_is_tty(const struct request *r, uint64_t rdev, uint64_t dev)
{
	return external_is_pair(r, "tty", rdev, dev ? dev : ANY);
}

int external_given(const struct request *r, const char *type, uint64_t number)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->given, x)
			if (!strcmp(x->type, type) && is_number(x->id, number))
				return x->fd;
	return -1;
}

int external_given_pair(const struct request *r, const char *type, uint64_t a, uint64_t b)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->given, x)
			if (!strcmp(x->type, type) && is_pair(x->id, a, b))
				return x->fd;
	return -1;
}

int external_given_tty(const struct request *r, uint64_t rdev, uint64_t dev)
{
	return external_given_pair(r, "tty", rdev, dev ? dev : ANY);
}

/* Without the slash in front, as criu's documentation writes them, or with it. */
int external_given_path(const struct request *r, const char *path)
{
	if (r->externals)
		VEC_FOREACH(&r->externals->given, x)
			if (!*x->type && !strcmp(x->id + (x->id[0] == '/'), path + (path[0] == '/')))
				return x->fd;
	return -1;
}

/* ---- using what was given ---- */

static bool is_pty_master(int fd)
{
	unsigned index;

	return ioctl(fd, TIOCGPTN, &index) == 0;
}

int external_open(struct restore *s, int given, int flags, const char *what)
{
	struct stat st;
	char path[64];
	int is = fcntl(given, F_GETFL), fd;

	if (is < 0 || fstat(given, &st) < 0)
		return error_errno(s->e, -errno, "cannot use descriptor %d, given for %s", given, what);
	if (S_ISFIFO(st.st_mode) || (isatty(given) && !is_pty_master(given))) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", given);
		fd = open(path, (flags & (O_ACCMODE | O_APPEND | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	int wants = flags & O_ACCMODE, has = is & O_ACCMODE;
	if (has != O_RDWR && has != wants && !(flags & O_PATH))
		return error_set(s->e, -EACCES, "descriptor %d, given for %s, is open for %s only; the tree needs it for %s", given, what,
				 has == O_RDONLY ? "reading" : "writing", wants == O_RDONLY ? "reading" : wants == O_WRONLY ? "writing" : "both");
	fd = fcntl(given, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? error_errno(s->e, -errno, "cannot use descriptor %d, given for %s", given, what) : fd;
}

int external_check(struct restore *s)
{
	for (size_t i = 0; i < s->ttys.count; i++) {
		const TtyInfoEntry *e = s->ttys.data[i];
		if (e->type != TTY_TYPE__EXT_TTY)
			continue;
		int fd = external_given_tty(s->request, e->rdev, e->dev);
		if (fd < 0)
			return error_set(s->e, -ENOTTY, "a terminal of the tree belonged to someone outside; give another with --inherit-fd 'fd[N]:tty[%x:%x]'",
					 e->rdev, e->dev);
		if (!isatty(fd))
			return error_set(s->e, -ENOTTY, "descriptor %d, given for tty[%x:%x], is no terminal", fd, e->rdev, e->dev);
	}
	return 0;
}
