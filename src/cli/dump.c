/*
 * fermata dump process: a checkpoint of its own for each dump, a directory, an archive, or one in a store; none is left behind by one that failed. What is
 * asked for is looked at before the target is.
 */
#include "cli/remote.h"
#include "image/store/store.h"

#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

int dump_read_packing(struct command_line *c, struct error *e)
{
	struct packing *packing = &c->request.packing;
	int r = c->compression ? packing_parse(c->compression, packing, e) : 0;

	if (r)
		return error_prefix(e, r, "option --compression");
	if (c->streams == 1 || c->streams > PACKING_STREAMS_MAX)
		return error_set(e, -EINVAL, "option --streams: there can be 2 to %d, or 0 for one file", PACKING_STREAMS_MAX);
	packing->streams = (unsigned)c->streams;
	return 0;
}

static int choose_path(const struct command_line *c, const struct settings *s, char path[PATH_MAX], struct error *e)
{
	const char *dir = c->dir ? c->dir : settings_text(s, SETTING_CHECKPOINT_DIR);
	const struct packing *packing = &c->request.packing;
	char unique[64];
	struct timespec now;
	struct stat st;

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(unique, sizeof(unique), "dump-process-%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
	const char *name = c->name ? c->name : unique;
	const bool stored = store_is_path(dir);
	const char *ending = stored || packing->streams ? "" : packing_ending(packing->kind, false);
	if (!*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return error_set(e, -EINVAL, "%s is no name for a checkpoint; --dir is for the directory", *name ? name : "nothing");
	if (snprintf(path, PATH_MAX, "%.*s/%s%s", (int)path_trimmed(dir), dir, name, ending) >= PATH_MAX)
		return error_set(e, -ENAMETOOLONG, "the path %s/%s is too long", dir, name);
	if (stored && packing->streams)
		return error_set(e, -EINVAL, "option --streams: a store has no streams; leave it away");
	if (stored) /* which is made, and looked at, when it is opened */
		return name[0] == '.' ? error_set(e, -EINVAL, "%s is no name for a checkpoint in a store: it begins with a dot", name) : 0;
	if (stat(dir, &st) < 0 && errno == ENOENT)
		return error_set(e, -ENOENT, "there is no directory %s to make the checkpoint %s in; make it first", dir, name);
	if (lstat(path, &st) == 0)
		return error_set(e, -EEXIST, "%s is there already; choose another --name or remove it", path);
	return 0;
}

/* For images, and for the parts of an archive. */
static int make_directory(const char *path, struct error *e)
{
	if (mkdir(path, 0700) == 0)
		return 0;
	if (errno == EEXIST)
		return error_set(e, -EEXIST, "%s is there already; choose another --name or remove it", path);
	return error_errno(e, -errno, "cannot make the checkpoint %s", path);
}

int dump_check_result(const struct command_line *c)
{
	_cleanup_close_ int fd = c->result_file ? open(c->result_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;

	if (!c->result_file || fd >= 0)
		return 0;
	fprintf(stderr, "Error: the file %s of --result-file can't be written: %s; nothing was dumped\n", c->result_file, strerror(errno));
	return 1;
}

int dump_write_result(const struct command_line *c, const char *path)
{
	FILE *f = c->result_file ? fopen(c->result_file, "we") : NULL;
	bool good = f && fprintf(f, "%s\n", path) > 0;

	if (f && fclose(f))
		good = false;
	if (!c->result_file || good)
		return 0;
	fprintf(stderr, "Error: the checkpoint %s was made, but the file %s can't be written: %s\n", path, c->result_file, strerror(errno));
	return 1;
}

/* Who started us may have been killed before it was written down that there is such a dump: then there must be none. */
static int pass_gate(const struct command_line *c, struct error *e)
{
	char byte;

	return !c->gate || read(STDIN_FILENO, &byte, 1) == 1 ? 0 : error_set(e, -EPIPE, "who asked for it has ended");
}

static void announce(const struct command_line *c, const char *path)
{
	if (c->json) {
		json_t *root = json_pack("{s:s, s:s, s:o*}", "path", path, "checkpoint", path, "profile", profile_json(c, true));
		json_dumpf(root, stdout, JSON_INDENT(1));
		puts("");
		json_decref(root);
		return;
	}
	profile_print(c, true);
	printf("Dumped to %s\n", path);
}

int verb_dump_process(struct command_line *c)
{
	const struct packing *packing = &c->request.packing;
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	char path[PATH_MAX];
	struct error e = {};
	int r = cli_parse_pid(c->words[0], &c->request.pid, &e);

	if (!r)
		r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r)
		r = dump_read_packing(c, &e);
	if (!r && remote_wanted(c, s))
		return remote_path(c, path, sizeof(path), "/v1/processes/%s/dump", c->words[0]) ? remote_dump(c, path) : 1;
	if (!r && dump_check_result(c))
		return 1;
	cli_store_key(c);
	if (!r)
		r = choose_path(c, s, path, &e);
	if (!r)
		r = pass_gate(c, &e);
	const bool directory = !r && !store_is_path(path) && (packing->kind == PACKING_NONE || packing->streams);
	if (directory)
		r = make_directory(path, &e);
	if (r) {
		error_prefix(&e, r, "cannot dump process %s", c->words[0]);
		return cli_report(c, &e);
	}
	remote_profiling(c, s);
	c->request.leave_running |= !c->events && remote_leaves_running(c, s); /* a daemon that has helpers says it to them */
	if (c->events)
		signal(SIGPIPE, SIG_IGN); /* the dump goes on when nobody listens any more */
	c->request.images_dir = path;
	c->request.track |= c->request.parent && c->request.leave_running;
	int status = cli_dump(c);
	if (!status) {
		announce(c, path);
		status = dump_write_result(c, path);
	}
	else if (directory)
		rmdir(path);
	return status;
}
