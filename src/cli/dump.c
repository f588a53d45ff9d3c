/* fermata dump process: a checkpoint directory of its own for each dump; none is left behind by one that failed. */
#include "cli/remote.h"

#include <limits.h>
#include <sys/stat.h>
#include <time.h>

static int make_directory(const struct command_line *c, const struct settings *s, char path[PATH_MAX], struct error *e)
{
	const char *dir = c->dir ? c->dir : settings_text(s, SETTING_CHECKPOINT_DIR);
	char unique[64];
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(unique, sizeof(unique), "dump-process-%lld%09ld", (long long)now.tv_sec, now.tv_nsec);
	const char *name = c->name ? c->name : unique;
	if (snprintf(path, PATH_MAX, "%s/%s", dir, name) >= PATH_MAX)
		return error_set(e, -ENAMETOOLONG, "the path %s/%s is too long", dir, name);
	if (mkdir(path, 0700) == 0)
		return 0;
	if (errno == EEXIST)
		return error_set(e, -EEXIST, "%s is there already; choose another --name or remove it", path);
	if (errno == ENOENT)
		return error_set(e, -ENOENT, "there is no directory %s to make the checkpoint %s in; make it first", dir, name);
	return error_errno(e, -errno, "cannot make the checkpoint %s", path);
}

int verb_dump_process(struct command_line *c)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	char path[PATH_MAX];
	struct error e = {};
	int r = cli_parse_pid(c->words[0], &c->request.pid, &e);

	if (!r)
		r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r && remote_wanted(c, s))
		return remote_path(c, path, sizeof(path), "/v1/processes/%s/dump", c->words[0]) ? remote_dump(c, path) : 1;
	if (!r)
		r = make_directory(c, s, path, &e);
	if (r) {
		error_prefix(&e, r, "cannot dump process %s", c->words[0]);
		return cli_report(c, &e);
	}
	c->request.images_dir = path;
	int status = cli_dump(c);
	if (status)
		rmdir(path);
	else if (c->json)
		return remote_print(json_pack("{s:s}", "path", path));
	else
		printf("Dumped to %s\n", path);
	return status;
}
