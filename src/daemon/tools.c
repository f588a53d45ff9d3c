/* See tools.h. */
#include "daemon/tools.h"

#include "daemon/helper.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define WORDS_MAX 64
#define SAID_MAX (64u << 20)

static char *read_back(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = size >= 0 && size <= (off_t)SAID_MAX ? malloc((size_t)size + 1) : NULL;
	ssize_t n = text ? pread(fd, text, (size_t)size, 0) : -1;

	if (text)
		text[MAX(n, 0)] = '\0';
	return text;
}

static void make_argv(const json_t *words, char *argv[WORDS_MAX])
{
	size_t n = 0;

	argv[n++] = (char *)"fermata";
	for (size_t i = 0; i < json_array_size(words) && n + 1 < WORDS_MAX; i++)
		argv[n++] = (char *)json_string_value(json_array_get(words, i));
	argv[n] = NULL;
}

static int run(json_t *words, char **ret, struct error *e)
{
	_cleanup_close_ int out = memfd_create("answer", MFD_CLOEXEC), err = memfd_create("error", MFD_CLOEXEC);
	char *argv[WORDS_MAX];
	int status = 0, r = out < 0 || err < 0 ? error_errno(e, -errno, "cannot start a helper") : 0;
	pid_t pid;

	make_argv(words, argv);
	if (!r)
		r = daemon_helper_start(argv, -1, out, err, &pid, e);
	json_decref(words);
	if (r)
		return r;
	waitpid(pid, &status, 0);
	*ret = read_back(out);
	if (!*ret)
		return error_set(e, -ENOMEM, "the answer is too long");
	/* Status 1 with an answer says that something was found: differences, obstacles. */
	if (**ret && WIFEXITED(status) && WEXITSTATUS(status) <= 2)
		return 0;
	free(TAKE_PTR(*ret));
	_cleanup_free_ char *said = read_back(err);
	const char *error = said ? strstr(said, "Error: ") : NULL;
	if (!error)
		return error_set(e, -EIO, "the helper ended with status %d and said nothing", status);
	error += strlen("Error: ");
	return error_set(e, -EIO, "%.*s", (int)strcspn(error, "\n"), error);
}

int tool_text(json_t *words, char **ret, struct error *e)
{
	*ret = NULL;
	return words ? run(words, ret, e) : error_set(e, -EINVAL, "a text in it is no UTF-8");
}

int tool_json(json_t *words, json_t **ret, struct error *e)
{
	char *text = NULL;
	int r = tool_text(words, &text, e);

	if (r)
		return r;
	*ret = json_loads(text, 0, NULL);
	free(text);
	return *ret ? 0 : error_set(e, -EIO, "the helper's answer is no JSON");
}

/* ---- work that takes long ---- */

struct work {
	struct daemon *daemon;
	struct events *events;
	json_t *words, *result;
	char keys[2][JID_MAX + 16], id[64];
	bool speaks;
	void (*done)(struct daemon *d, const char *id);
};

static void work_free(struct work *w)
{
	for (size_t i = 0; i < ARRAY_SIZE(w->keys); i++)
		if (w->keys[i][0])
			busy_end(w->daemon, w->keys[i]);
	events_release(w->events);
	json_decref(w->words);
	json_decref(w->result);
	free(w);
}

/* Its line: an event, what is wrong, or the document that is the result. */
static int take_line(struct work *w, char *line, struct error *e)
{
	json_t *document = line[0] == '{' || line[0] == '[' ? json_loads(line, 0, NULL) : NULL;

	if (document && !json_object_get(document, "event")) {
		json_decref(w->result);
		w->result = document;
		return 0;
	}
	json_decref(document);
	if (!strncmp(line, "Error: ", 7))
		return error_set(e, -EIO, "%s", line + 7);
	if (w->speaks && !line[0]) /* a blank one of its text */
		events_tell(w->events, json_pack("{s:s, s:s}", "event", "message", "text", ""));
	events_line(w->events, line);
	return 0;
}

static int listen(struct work *w, int fd, struct error *e)
{
	FILE *f = fdopen(fd, "r");
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	int r = 0;

	while (f && getline(&line, &size, f) > 0) {
		line[strcspn(line, "\n")] = '\0';
		r = take_line(w, line, e) ?: r;
	}
	if (f)
		fclose(f);
	else
		close(fd);
	return r;
}

static int run_work(struct work *w, struct error *e)
{
	char *argv[WORDS_MAX];
	int ends[2], status = 0;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	make_argv(w->words, argv);
	int r = daemon_helper_start(argv, -1, ends[1], ends[1], &pid, e);
	close(ends[1]);
	if (r) {
		close(ends[0]);
		return r;
	}
	r = listen(w, ends[0], e);
	waitpid(pid, &status, 0);
	if (r || w->result || (w->speaks && WIFEXITED(status) && WEXITSTATUS(status) <= 1))
		return r;
	return error_set(e, -EIO, "the helper ended by %s %d and said nothing", WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

static void *work_main(void *argument)
{
	struct work *w = argument;
	struct error e = {};
	int r = run_work(w, &e);

	if (!r && w->done)
		w->done(w->daemon, w->id);
	struct events *events = events_keep(w->events);
	json_t *done = r ? NULL : json_pack("{s:s, s:O*}", "event", "done", "result", w->result);
	/* Whoever is told that it is done may go on at once. */
	work_free(w);
	if (r)
		events_failed(events, r, &e);
	else
		events_done(events, done);
	events_release(events);
	return NULL;
}

static int take_keys(struct work *w, const struct tool_work *from, struct error *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(w->keys); i++) {
		if (!from->keys[i] || !from->keys[i][0])
			continue;
		r = busy_begin(w->daemon, from->keys[i], from->what, e);
		if (!r)
			snprintf(w->keys[i], sizeof(w->keys[i]), "%s", from->keys[i]);
	}
	return r;
}

int tool_begin(struct daemon *d, const struct tool_work *work, struct events **ret, struct error *e)
{
	struct work *w = calloc(1, sizeof(*w));
	struct events *events = w ? events_new() : NULL;

	if (!events || !work->words) {
		json_decref(work->words);
		events_release(events);
		free(w);
		return work->words ? error_set(e, -ENOMEM, "out of memory") : error_set(e, -EINVAL, "a text in it is no UTF-8");
	}
	*w = (struct work){ .daemon = d, .events = events_keep(events), .words = work->words, .done = work->done, .speaks = work->speaks };
	snprintf(w->id, sizeof(w->id), "%s", work->id ? work->id : "");
	json_array_append_new(w->words, json_string("--events"));
	int r = take_keys(w, work, e);
	if (!r)
		r = thread_begin(work_main, w, e);
	if (r) {
		work_free(w);
		events_release(events);
		return r;
	}
	*ret = events;
	return 0;
}
