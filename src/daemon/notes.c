/* See notes.h. A note has a line for each column, NAME=VALUE; bytes below blank, and `%`, are written as %XX. */
#include "daemon/notes.h"

#include "base/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>

#define NOTE_MAX 16384

#define NUMBER(s, n, f) { n, offsetof(struct s, f), 0 }
#define TEXT(s, n, f) { n, offsetof(struct s, f), sizeof(((struct s *)0)->f) }
#define IDENTITY(s, n, f) NUMBER(s, n "_pid", f.pid), NUMBER(s, n "_start", f.start), TEXT(s, n "_boot", f.boot)

static const struct column job_columns[] = {
	TEXT(job, "jid", jid), TEXT(job, "type", type), NUMBER(job, "state", state), NUMBER(job, "uid", uid), NUMBER(job, "gid", gid),
	IDENTITY(job, "process", process), IDENTITY(job, "supervisor", supervisor), NUMBER(job, "own_namespace", own_namespace),
	NUMBER(job, "attachable", attachable), NUMBER(job, "exit_code", exit_code), TEXT(job, "ended", ended), TEXT(job, "log", log),
	TEXT(job, "command", command), NUMBER(job, "created_ns", created_ns), NUMBER(job, "ended_ns", ended_ns), NUMBER(job, "every_s", every_s),
	NUMBER(job, "keep", keep), NUMBER(job, "next_ns", next_ns), NUMBER(job, "restart", restart), NUMBER(job, "restart_limit", restart_limit),
	NUMBER(job, "restarts", restarts), NUMBER(job, "late_ns", late_ns), NUMBER(job, "missed", missed),
};
static const struct column checkpoint_columns[] = {
	TEXT(checkpoint, "id", id), TEXT(checkpoint, "jid", jid), TEXT(checkpoint, "path", path), TEXT(checkpoint, "type", type),
	NUMBER(checkpoint, "state", state), NUMBER(checkpoint, "uid", uid), NUMBER(checkpoint, "pid", pid), NUMBER(checkpoint, "time_ns", time_ns),
	NUMBER(checkpoint, "size", size), NUMBER(checkpoint, "attachable", attachable), IDENTITY(checkpoint, "worker", worker),
};
const struct table table_jobs = { "jobs", sizeof(struct job), ARRAY_SIZE(job_columns), ARRAY_SIZE(job_columns) - 2, job_columns };
const struct table table_checkpoints = { "checkpoints", sizeof(struct checkpoint), ARRAY_SIZE(checkpoint_columns), ARRAY_SIZE(checkpoint_columns), checkpoint_columns };
static const struct table *const tables[] = { &table_jobs, &table_checkpoints };

int notes_open(const char *path)
{
	char copy[STORE_PATH_MAX], folder[STORE_PATH_MAX + 8];

	snprintf(copy, sizeof(copy), "%s", path);
	snprintf(folder, sizeof(folder), "%s/notes", dirname(copy));
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- one ---- */

static void put_text(FILE *f, const char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == '%')
			fprintf(f, "%%%02X", (unsigned)(unsigned char)*text);
		else
			fputc(*text, f);
}

static char *note_text(const struct table *t, const void *row, size_t *ret_size)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_size);

	if (!f)
		return NULL;
	for (size_t i = 0; i < t->n_columns; i++) {
		const char *at = (const char *)row + t->columns[i].offset;
		fprintf(f, "%s=", t->columns[i].name);
		if (t->columns[i].size)
			put_text(f, at);
		else
			fprintf(f, "%lld", (long long)*(const int64_t *)at);
		fputc('\n', f);
	}
	/* No shorter than a page: so it can be written over, see below. */
	for (long size = ftell(f); size < (long)PAGE_SIZE; size++)
		fputc('\n', f);
	if (fclose(f) == 0)
		return text;
	free(text);
	return NULL;
}

/* A page of a file is written as a whole, or not at all, also when we are killed. To make a file anew each time would cost more than all else. */
static bool write_over(int notes, const char *name, const char *text, size_t size)
{
	struct stat st;
	_cleanup_close_ int fd = size == PAGE_SIZE ? openat(notes, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC) : -1;

	return fd >= 0 && fstat(fd, &st) == 0 && st.st_size == (off_t)size && pwrite(fd, text, size, 0) == (ssize_t)size;
}

static int write_note(int notes, const char *name, const struct table *t, const void *row)
{
	char fresh[JID_MAX + 32];
	size_t size = 0;
	_cleanup_free_ char *text = note_text(t, row, &size);

	if (!text)
		return -ENOMEM;
	if (write_over(notes, name, text, size))
		return 0;
	snprintf(fresh, sizeof(fresh), ".%s", name);
	_cleanup_close_ int fd = openat(notes, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, size);
	return n != (ssize_t)size ? n < 0 ? -errno : -ENOSPC : renameat(notes, fresh, notes, name) < 0 ? -errno : 0;
}

/* Keys are names of jobs and checkpoints, which have no slash. */
static void note_name(const struct table *t, const char *key, char ret[JID_MAX + 24])
{
	snprintf(ret, JID_MAX + 24, "%s.%.*s", t->name, JID_MAX, key);
}

void note_write(int notes, const struct table *t, const void *row)
{
	char name[JID_MAX + 24];

	note_name(t, (const char *)row + t->columns[0].offset, name);
	int r = write_note(notes, name, t, row);
	if (r)
		log_warning("cannot write the note %s: %s", name, strerror(-r));
}

void note_remove(int notes, const struct table *t, const char *key)
{
	char name[JID_MAX + 24];

	note_name(t, key, name);
	unlinkat(notes, name, 0);
}

static void take_text(char *to, size_t size, const char *from)
{
	size_t used = 0;
	unsigned byte;

	while (*from && used + 1 < size) {
		bool coded = *from == '%' && sscanf(from + 1, "%2X", &byte) == 1;
		to[used++] = coded ? (char)byte : *from;
		from += coded ? 3 : 1;
	}
	to[used] = '\0';
}

static bool read_note(char *text, const struct table *t, void *row)
{
	size_t known = 0;
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *value = strchr(line, '=');
		if (!value)
			return false;
		*value++ = '\0';
		for (size_t i = 0; i < t->n_columns; i++) {
			char *at = (char *)row + t->columns[i].offset;
			if (strcmp(t->columns[i].name, line))
				continue;
			if (t->columns[i].size)
				take_text(at, t->columns[i].size, value);
			else
				*(int64_t *)at = strtoll(value, NULL, 10);
			known++;
		}
	}
	return known >= t->n_noted;
}

/* ---- all ---- */

static int each(int notes, int (*act)(int notes, const char *name, void *data), void *data)
{
	int fd = openat(notes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		return -errno;
	for (struct dirent *entry; !r && (entry = readdir(dir));)
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			r = act(notes, entry->d_name, data);
	closedir(dir);
	return r;
}

struct reading {
	int (*take)(void *data, const struct table *t, const void *row);
	void *data;
};

static int read_one(int notes, const char *name, void *data)
{
	const struct reading *to = data;
	const size_t length = strcspn(name, ".");
	char *text = NULL;
	int r = 0;

	if (!length)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		const struct table *t = tables[i];
		if (strlen(t->name) != length || strncmp(name, t->name, length))
			continue;
		_cleanup_free_ void *row = calloc(1, t->size);
		if (row && read_file_at(notes, name, NOTE_MAX, &text, NULL) == 0 && read_note(text, t, row))
			r = to->take(to->data, t, row);
		else
			log_warning("the note %s is damaged and is left out", name);
		free(TAKE_PTR(text));
	}
	return r;
}

int notes_read(int notes, int (*take)(void *data, const struct table *t, const void *row), void *data)
{
	struct reading to = { take, data };

	return each(notes, read_one, &to);
}

static int forget_one(int notes, const char *name, void *data)
{
	unlinkat(notes, name, 0);
	return 0;
}

void notes_forget(int notes)
{
	each(notes, forget_one, NULL);
}
