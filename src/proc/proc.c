/* See proc.h. */
#include "proc/proc.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define TEXT_MAX (1UL << 30) /* smaps has some 700 bytes for each area */

const char *proc_state_word(char state)
{
	switch (state) {
	case 'R':
		return "running";
	case 'T':
		return "stopped";
	case 't':
		return "traced";
	case 'Z':
		return "zombie";
	case 'D':
		return "disk";
	default:
		return "sleep";
	}
}

int proc_parse_stat(const char *text, struct proc_stat *ret)
{
	struct proc_stat s = {};
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	unsigned long long f[53] = {};
	int n = 0;

	if (!open || !close || close < open || close[1] != ' ' || !close[2])
		return -EBADMSG;
	s.pid = (pid_t)strtol(text, NULL, 10);
	snprintf(s.comm, sizeof(s.comm), "%.*s", (int)(close - open - 1), open + 1);
	s.state = close[2];
	/* Field numbers as proc(5) counts them, from 1; the state is 3. */
	char *at = (char *)close + 3;
	for (n = 4; n <= 52; n++) {
		char *end;
		f[n] = strtoull(at, &end, 10);
		if (end == at)
			break;
		at = end;
	}
	if (n < 52)
		return -EBADMSG;
	s.ppid = (pid_t)f[4];
	s.pgrp = (pid_t)f[5];
	s.session = (pid_t)f[6];
	s.tty = (uint32_t)f[7];
	s.tty_pgrp = (pid_t)f[8];
	s.flags = f[9];
	s.num_threads = f[20];
	s.start_time = f[22];
	s.mm_start_code = f[26];
	s.end_code = f[27];
	s.start_stack = f[28];
	s.start_data = f[45];
	s.end_data = f[46];
	s.start_brk = f[47];
	s.arg_start = f[48];
	s.arg_end = f[49];
	s.env_start = f[50];
	s.env_end = f[51];
	s.exit_signal = (int)f[38];
	s.exit_code = (int)f[52];
	*ret = s;
	return 0;
}

/* The value behind "Key:" at the start of a line, or NULL. */
static const char *find_key(const char *text, const char *key)
{
	size_t size = strlen(key);

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (!strncmp(line, key, size) && line[size] == ':')
			return line + size + 1;
	}
	return NULL;
}

static uint64_t number(const char *text, const char *key, int base)
{
	const char *value = find_key(text, key);

	return value ? strtoull(value, NULL, base) : 0;
}

/* Numbers up to the end of the line. Gives how many, or -EBADMSG for more than `most`. */
static int parse_numbers(const char *at, uint32_t *to, size_t most)
{
	size_t n = 0;

	for (;;) {
		char *end;
		at += strspn(at, " \t");
		if (*at < '0' || *at > '9')
			return (int)n;
		unsigned long value = strtoul(at, &end, 10);
		if (n == most)
			return -EBADMSG;
		to[n++] = (uint32_t)value;
		at = end;
	}
}

/* One line. Gives 1 for one of the two that must be there. */
static int parse_status_line(const char *line, size_t key, struct proc_status *s)
{
	static const struct {
		const char *key;
		size_t offset;
		int base;
	} rows[] = {
#define ROW(key, field, base) { key, offsetof(struct proc_status, field), base }
		ROW("TracerPid", tracer_pid, 10), ROW("SigPnd", sig_pnd, 16), ROW("ShdPnd", shd_pnd, 16), ROW("SigIgn", sig_ign, 16),
		ROW("SigCgt", sig_cgt, 16), ROW("CapInh", cap_inh, 16), ROW("CapPrm", cap_prm, 16), ROW("CapEff", cap_eff, 16),
		ROW("CapBnd", cap_bnd, 16), ROW("CapAmb", cap_amb, 16), ROW("NoNewPrivs", no_new_privs, 10), ROW("Seccomp", seccomp, 10),
#undef ROW
	};
	const char *value = line + key + 1;

	if (key == 3 && !memcmp(line, "Uid", 3))
		return parse_numbers(value, s->uid, 4) == 4 ? 1 : -EBADMSG;
	if (key == 3 && !memcmp(line, "Gid", 3))
		return parse_numbers(value, s->gid, 4) == 4 ? 1 : -EBADMSG;
	if (key == 6 && !memcmp(line, "Groups", 6)) {
		int n = parse_numbers(value, s->groups, ARRAY_SIZE(s->groups));
		s->n_groups = n < 0 ? 0 : (size_t)n;
		return n < 0 ? n : 0;
	}
	if (key == 5 && !memcmp(line, "Umask", 5))
		s->umask = (uint32_t)strtoul(value, NULL, 8);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].key[0] == line[0] && !strncmp(rows[i].key, line, key) && !rows[i].key[key])
			*(uint64_t *)((char *)s + rows[i].offset) = strtoull(value, NULL, rows[i].base);
	return 0;
}

int proc_parse_status(const char *text, struct proc_status *ret)
{
	struct proc_status s;
	int found = 0;

	memset(&s, 0, offsetof(struct proc_status, groups));
	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		size_t key = strcspn(line, ":\n");
		int r = line[key] == ':' ? parse_status_line(line, key, &s) : 0;
		if (r < 0)
			return r;
		found += r;
	}
	if (found != 2)
		return -EBADMSG;
	memcpy(ret, &s, offsetof(struct proc_status, groups) + s.n_groups * sizeof(s.groups[0]));
	return 0;
}

/* A hexadecimal number and the one character behind it. Not sscanf, which would read the whole rest of the text each time. */
static bool take_hex(const char **at, char behind, uint64_t *ret)
{
	char *end;

	if (**at == ' ' || **at == '-')
		return false;
	*ret = strtoull(*at, &end, 16);
	if (end == *at || *end != behind)
		return false;
	*at = end + 1;
	return true;
}

static int parse_map_line(const char *line, size_t size, struct proc_vma *vma)
{
	const char *at = line;
	uint64_t major, minor;
	char *end;

	if (!take_hex(&at, '-', &vma->start) || !take_hex(&at, ' ', &vma->end) || vma->start >= vma->end)
		return -EBADMSG;
	const char *perm = at;
	if (strnlen(at, 5) != 5 || at[4] != ' ')
		return -EBADMSG;
	at += 5;
	if (!take_hex(&at, ' ', &vma->pgoff) || !take_hex(&at, ':', &major) || !take_hex(&at, ' ', &minor))
		return -EBADMSG;
	vma->inode = strtoull(at, &end, 10);
	if (end == at || (size_t)(end - line) > size)
		return -EBADMSG;
	size_t used = (size_t)(end - line);
	vma->dev_major = (uint32_t)major;
	vma->dev_minor = (uint32_t)minor;
	vma->prot = (perm[0] == 'r' ? PROT_READ : 0) | (perm[1] == 'w' ? PROT_WRITE : 0) | (perm[2] == 'x' ? PROT_EXEC : 0);
	vma->shared = perm[3] == 's';
	while (used < size && line[used] == ' ')
		used++;
	if (used < size) {
		vma->name = strndup(line + used, size - used);
		if (!vma->name)
			return -ENOMEM;
		char *mark = strstr(vma->name, " (deleted)");
		if (mark && !mark[10]) {
			*mark = '\0';
			vma->deleted = true;
		}
	}
	return 0;
}

int proc_parse_maps(const char *text, struct proc_maps *ret)
{
	struct proc_maps maps = {};
	int r = 0;

	while (*text && !r) {
		size_t size = strcspn(text, "\n");
		struct proc_vma *vma = VEC_PUSH(&maps);
		r = vma ? parse_map_line(text, size, vma) : -ENOMEM;
		text += size + (text[size] == '\n');
	}
	if (r) {
		proc_maps_finish(&maps);
		return r;
	}
	*ret = maps;
	return 0;
}

static uint64_t parse_vmflags(const char *text)
{
	static const char letters[][3] = {
#define X(name, letters) letters,
		PROC_VMF_ROWS
#undef X
	};
	uint64_t flags = 0;

	for (; *text == ' ' && text[1] && text[1] != '\n' && text[2]; text += 3)
		for (size_t i = 0; i < ARRAY_SIZE(letters); i++)
			if (!strncmp(text + 1, letters[i], 2))
				flags |= 1ULL << i;
	return flags;
}

/* "                 132 kB" */
static void parse_rss(const char *text, struct proc_vma *v)
{
	if (strtoull(text, NULL, 10) < (v->end - v->start) / 1024)
		v->vmflags |= PROC_VMF_PARTLY;
}

int proc_parse_smaps(const char *text, struct proc_maps *ret)
{
	struct proc_maps maps = {};
	int r = 0;

	while (*text && !r) {
		size_t size = strcspn(text, "\n");
		if (*text >= 'A' && *text <= 'Z') { /* a field of the area above: "VmFlags: rd ex" */
			if (!maps.count)
				r = -EBADMSG;
			else if (!strncmp(text, "Rss:", 4))
				parse_rss(text + 4, &maps.data[maps.count - 1]);
			else if (!strncmp(text, "VmFlags:", 8))
				maps.data[maps.count - 1].vmflags |= parse_vmflags(text + 8);
			else if (!strncmp(text, "ProtectionKey:", 14))
				maps.data[maps.count - 1].pkey = (uint32_t)strtoul(text + 14, NULL, 10);
		} else {
			struct proc_vma *vma = VEC_PUSH(&maps);
			r = vma ? parse_map_line(text, size, vma) : -ENOMEM;
		}
		text += size + (text[size] == '\n');
	}
	if (r) {
		proc_maps_finish(&maps);
		return r;
	}
	*ret = maps;
	return 0;
}

void proc_maps_finish(struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->count; i++)
		free(maps->data[i].name);
	VEC_FREE(maps);
}

int proc_parse_fdinfo(const char *text, struct proc_fdinfo *ret)
{
	if (!find_key(text, "pos") || !find_key(text, "flags"))
		return -EBADMSG;
	ret->pos = (int64_t)number(text, "pos", 10);
	ret->flags = (uint32_t)number(text, "flags", 8);
	ret->locked = find_key(text, "lock") != NULL;
	return 0;
}

int proc_parse_lock(const char *line, struct proc_lock *ret)
{
	static const char *const kinds[] = { [PROC_LOCK_POSIX] = "POSIX", [PROC_LOCK_FLOCK] = "FLOCK", [PROC_LOCK_OFD] = "OFDLCK",
					     [PROC_LOCK_LEASE] = "LEASE" };
	static const char *const types[] = { [F_RDLCK] = "READ", [F_WRLCK] = "WRITE", [F_UNLCK] = "UNLCK" };
	char kind[16], state[16], type[16], end[24];
	struct proc_lock lock = {};
	size_t k = 0, t = 0;
	int used = 0;

	if (sscanf(line, " %*u: %n", &used) != 0 || !used)
		return -EBADMSG;
	line += used;
	lock.waiting = !strncmp(line, "->", 2);
	line += lock.waiting ? 2 : 0;
	if (sscanf(line, " %15s %15s %15s %d %x:%x:%" SCNu64 " %" SCNd64 " %23s", kind, state, type, &lock.pid, &lock.dev_major,
		   &lock.dev_minor, &lock.inode, &lock.start, end) != 9)
		return -EBADMSG;
	while (k < ARRAY_SIZE(kinds) && strcmp(kind, kinds[k]))
		k++;
	while (t < ARRAY_SIZE(types) && strcmp(type, types[t]))
		t++;
	if (k == ARRAY_SIZE(kinds))
		return -ENOTSUP;
	if (t == ARRAY_SIZE(types))
		return -EBADMSG;
	if (strcmp(end, "EOF")) {
		int64_t last = strtoll(end, NULL, 10);
		if (lock.start < 0 || last < lock.start || last == INT64_MAX)
			return -EBADMSG;
		lock.len = last - lock.start + 1;
	}
	lock.kind = k;
	lock.type = (int)t;
	lock.breaking = !strcmp(state, "BREAKING");
	lock.waiting |= !strcmp(state, "BREAKER");
	*ret = lock;
	return 0;
}

int proc_parse_limits(const char *text, uint64_t ret[16][2])
{
	/* In the order of RLIMIT_*. */
	static const char *const names[16] = { "Max cpu time", "Max file size", "Max data size", "Max stack size",
					       "Max core file size", "Max resident set", "Max processes", "Max open files",
					       "Max locked memory", "Max address space", "Max file locks", "Max pending signals",
					       "Max msgqueue size", "Max nice priority", "Max realtime priority",
					       "Max realtime timeout" };

	for (int i = 0; i < 16; i++) {
		const char *at = strstr(text, names[i]);
		char word[2][24];
		if (!at || sscanf(at + strlen(names[i]), "%23s %23s", word[0], word[1]) != 2)
			return -EBADMSG;
		for (int j = 0; j < 2; j++)
			ret[i][j] = strcmp(word[j], "unlimited") ? strtoull(word[j], NULL, 10) : UINT64_MAX;
	}
	return 0;
}

#define READER(what, type, name, read) \
	int proc_read_##what(pid_t pid, type) \
	{ \
		_cleanup_free_ char *text = NULL; \
		char path[64]; \
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, name); \
		int r = read(AT_FDCWD, path, TEXT_MAX, &text, NULL); \
		return r ? r : proc_parse_##what(text, ret); \
	}
READER(stat, struct proc_stat *ret, "stat", read_small_at)
READER(status, struct proc_status *ret, "status", read_small_at)
READER(maps, struct proc_maps *ret, "maps", read_file_at)
READER(smaps, struct proc_maps *ret, "smaps", read_file_at)
READER(limits, uint64_t ret[16][2], "limits", read_small_at)

int proc_read_fdinfo(pid_t pid, int fd, struct proc_fdinfo *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	int r = read_small_at(AT_FDCWD, path, 64UL << 20, &text, NULL);
	return r ? r : proc_parse_fdinfo(text, ret);
}

int proc_peek(pid_t tid, uint64_t address, void *to, size_t size)
{
	struct iovec ours = { to, size }, its = { (void *)address, size };
	ssize_t n = process_vm_readv(tid, &ours, 1, &its, 1, 0);

	return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EFAULT;
}

int proc_poke(pid_t tid, uint64_t address, const void *from, size_t size)
{
	struct iovec ours = { (void *)from, size }, its = { (void *)address, size };
	ssize_t n = process_vm_writev(tid, &ours, 1, &its, 1, 0);

	return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EFAULT;
}
