/*
 * restore --out: the files that the root process had as standard output and error are others in the restored tree, namely this one. Where
 * they were a terminal, pipe or socket there is --inherit-fd.
 */
#include "cli/cli.h"
#include "cli/inspect/view.h"

#include <fcntl.h>
#include <limits.h>

static const struct file *file_of(const struct view *v, int number)
{
	const struct rtask *root = v->images.tasks.data[0];

	for (size_t i = 0; i < root->fds.count; i++) {
		if (root->fds.data[i]->fd != (uint32_t)number)
			continue;
		VEC_FOREACH(&v->images.files, f)
			if (f->id == root->fds.data[i]->id)
				return f;
	}
	return NULL;
}

static const char *path_of(const struct file *f)
{
	return f && f->entry->reg ? f->entry->reg->name : NULL;
}

/* As it was opened, so that it may stand in its place. */
static int give(struct command_line *c, const struct file *f, struct error *e)
{
	char text[PATH_MAX + 32];
	int fd = open(c->out, (int)(f->entry->reg->flags & (O_ACCMODE | O_APPEND)) | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(e, -errno, "cannot open %s for the output", c->out);
	snprintf(text, sizeof(text), "fd[%d]:%s", fd, path_of(f));
	return external_add_given(&c->externals, text, e);
}

static int redirect(struct command_line *c, const struct view *v, struct error *e)
{
	const struct file *in = file_of(v, STDIN_FILENO), *out[] = { file_of(v, STDOUT_FILENO), file_of(v, STDERR_FILENO) };
	const char *paths[] = { path_of(out[0]), path_of(out[1]) };

	for (int i = 0; i < 2; i++) {
		if (!paths[i])
			return error_set(e, -ENOTSUP, "its standard %s did not go to a file, so --out can't take its place; give a descriptor with --inherit-fd",
					 i ? "error" : "output");
		if (path_of(in) && !strcmp(path_of(in), paths[i]))
			return error_set(e, -ENOTSUP, "%s is its standard input too, so --out can't take its place", paths[i]);
	}
	int r = give(c, out[0], e);
	return r || !strcmp(paths[0], paths[1]) ? r : give(c, out[1], e);
}

int restore_redirect(struct command_line *c, struct error *e)
{
	struct view v = { .request = { .images_dir = c->path, .skip_verify = true } };

	if (!c->out)
		return 0;
	int r = view_read(&v, e);
	if (!r)
		r = redirect(c, &v, e);
	view_finish(&v);
	return r ? error_prefix(e, r, "cannot restore from %s", c->path) : 0;
}
