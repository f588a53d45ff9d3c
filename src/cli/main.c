/*
 * The command line: `fermata VERB …`, or, called as `criu`, criu's actions and options.
 */
#include "base/log.h"
#include "cli/cli.h"
#include "daemon/helper.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>

#define CRIU_VERSION "4.2"

/* What the options and their values stand in, for as long as the program runs. */
struct source {
	struct given_options files, line;
	struct option_list texts;
	struct words words;
};

static int usage_error(const struct program *p, const struct error *e)
{
	fprintf(stderr, "Error: %s\n", e->text);
	return p->usage_status;
}

static int read_configs(const struct program *p, struct source *s, struct error *e)
{
	const struct given *named = given_find(&s->line, "config");
	const char *home = getenv("HOME"), *variable = getenv("CRIU_CONFIG_FILE");
	char path[PATH_MAX];
	int r = 0;

	if (!given_find(&s->line, "no-default-config")) {
		r = config_read(p, "/etc/criu/default.conf", true, &s->files, &s->texts, e);
		snprintf(path, sizeof(path), "%s/.criu/default.conf", home ? home : "");
		if (!r && home)
			r = config_read(p, path, true, &s->files, &s->texts, e);
	}
	if (!r && variable && *variable)
		r = config_read(p, variable, false, &s->files, &s->texts, e);
	if (!r && named)
		r = config_read(p, named->value, false, &s->files, &s->texts, e);
	return r;
}

static int read_all(const struct program *p, char **argv, struct source *s, struct command_line *c, struct error *e)
{
	size_t own = 0;
	int r = options_parse(p, argv, &s->line, &s->words, &c->rest, e);

	if (!r && (given_find(&s->line, "help") || given_find(&s->line, "version"))) {
		c->verb = verb_find(p, &s->words);
		c->help = given_find(&s->line, "help");
		c->version = given_find(&s->line, "version");
		return 0;
	}
	if (!r)
		r = options_find_verb(p, &s->words, &c->verb, &own, e);
	if (r == -ENOENT)
		r = error_set(e, -EINVAL, "%s needs a command; see %s --help", p->name, p->name);
	if (!r && p->configured)
		r = read_configs(p, s, e);
	if (!r)
		r = criu_opts_expand(p, &s->line, &s->texts, e);
	if (!r && !VEC_PUSH(&s->words))
		r = error_set(e, -ENOMEM, "out of memory");
	if (r)
		return r;
	c->words = s->words.data + own;
	r = options_store(p, c->verb, &s->files, c, e);
	return r ? r : options_store(p, c->verb, &s->line, c, e);
}

/* `path` in the work directory. */
static const char *in_work_dir(const struct command_line *c, const char *path, char buffer[PATH_MAX])
{
	const char *dir = c->work_dir ? c->work_dir : c->request.images_dir;

	if (path[0] == '/' || !dir)
		return path;
	snprintf(buffer, PATH_MAX, "%s/%s", dir, path);
	return buffer;
}

static int choose_log(struct command_line *c, struct error *e)
{
	static const char *const levels[] = { "disabled", "error", "warning", "info", "debug" };
	size_t i = 0;

	if (c->log_format && strcmp(c->log_format, "text") && strcmp(c->log_format, "json"))
		return error_set(e, -EINVAL, "option --log-format: %s is no format; there are text and json", c->log_format);
	log_set_json(c->log_format && !strcmp(c->log_format, "json"));
	if (!c->log_level)
		return 0;
	while (i < ARRAY_SIZE(levels) && strcmp(c->log_level, levels[i]))
		i++;
	if (i == ARRAY_SIZE(levels))
		return error_set(e, -EINVAL, "option --log-level: %s is no level; there are disabled, error, warning, info and debug", c->log_level);
	c->verbosity = (int)i;
	return 0;
}

static int open_log(struct command_line *c, struct error *e)
{
	char buffer[PATH_MAX];
	int r = choose_log(c, e);

	if (r)
		return r;
	if (!c->log_file || !strcmp(c->log_file, "-")) {
		log_setup(c->verbosity, c->log_file ? STDOUT_FILENO : -1);
		c->log_file = NULL;
		return 0;
	}
	const char *path = in_work_dir(c, c->log_file, buffer);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(e, -errno, "cannot write the log file %s", path);
	log_setup(c->verbosity, fd);
	return 0;
}

#define CRIU_GHOST_LIMIT (1UL << 20) /* as that program's manual page has it */
/* Before the log or anything else is opened: a descriptor that is given must be the caller's. */
static int take_externals(struct command_line *c, struct error *e)
{
	char text[64];
	int r = 0;

	c->request.ext_unix_sk = c->ext_unix_sk != NULL;
	c->request.externals = &c->externals;
	c->request.pipes_outside = c->program->configured;
	for (size_t i = 0; !r && i < c->external.count; i++)
		r = external_add(&c->externals, c->external.data[i], e);
	for (size_t i = 0; !r && i < c->inherit.count; i++)
		r = external_add_given(&c->externals, c->inherit.data[i], e);
	if (r || !c->ext_unix_sk || !*c->ext_unix_sk)
		return r;
	snprintf(text, sizeof(text), "unix[%.40s]", c->ext_unix_sk);
	return external_add(&c->externals, text, e);
}

static int set_network_lock(struct command_line *c, struct error *e)
{
	const char *method = c->network_lock;

	if (method && !strcmp(method, "iptables"))
		fprintf(stderr, "Warning: --network-lock iptables: nftables is used, which holds back the same packets\n");
	else if (method && strcmp(method, "nftables") && strcmp(method, "skip"))
		return error_set(e, -EINVAL, "--network-lock is nftables or skip, not %s", method);
	c->request.network_lock = method && !strcmp(method, "skip") ? NETWORK_LOCK_SKIP : NETWORK_LOCK_NFTABLES;
	return 0;
}

static int run(struct command_line *c)
{
	char pidfile[PATH_MAX];
	struct error e = {};

	if (c->program->configured && !c->request.images_dir)
		c->request.images_dir = ".";
	if (take_externals(c, &e) || set_network_lock(c, &e))
		return usage_error(c->program, &e);
	if (c->verb->missing) {
		error_set(&e, -ENOTSUP, "%s %s is not there yet: it needs %s", c->program->name, c->verb->name, c->verb->missing);
		fprintf(stderr, "Error: %s\n", e.text);
		return 1;
	}
	if (open_log(c, &e))
		return usage_error(c->program, &e);
	if (c->request.pidfile && c->program->configured)
		c->request.pidfile = in_work_dir(c, c->request.pidfile, pidfile);
	return c->verb->run(c);
}

static const struct program *program_of(const char *name)
{
	return !strcmp(name, "criu") ? &program_criu : !strcmp(name, "cedana") ? &program_cedana : &program_fermata;
}

int main(int argc, char **argv)
{
	const struct program *p = program_of(argc ? basename(argv[0]) : "");
	struct command_line c = { .program = p, .argv = argv, .verbosity = LOG_LEVEL_WARNING, .live = true,
				  .request.ghost_limit = p == &program_criu ? CRIU_GHOST_LIMIT : 0 };
	struct source source = {};
	struct error e = {};
	int status = 0;

	if (daemon_helper_main(argc, argv, &status))
		return status;
	c.given = &source.line;
	if (read_all(p, argv, &source, &c, &e))
		status = usage_error(p, &e);
	else if (c.version)
		puts(p == &program_criu ? "Version: " CRIU_VERSION : "fermata " FERMATA_VERSION);
	else if (c.help)
		help_print(stdout, p, c.verb);
	else {
		c.request.no_live = !c.live;
		c.request.live = c.live && (given_find(&source.line, "live") || given_find(&source.files, "live"));
		status = run(&c);
	}
	for (size_t i = 0; i < source.texts.count; i++)
		free((char *)source.texts.data[i]);
	VEC_FREE(&source.texts);
	VEC_FREE(&source.files);
	VEC_FREE(&source.line);
	VEC_FREE(&source.words);
	VEC_FREE(&c.scripts);
	VEC_FREE(&c.features);
	VEC_FREE(&c.external);
	VEC_FREE(&c.inherit);
	external_free(&c.externals);
	return status;
}
