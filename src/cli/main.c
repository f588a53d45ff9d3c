/*
 * The command line: `fermata VERB …`, or, called as `criu`, criu's actions and options.
 */
#include "base/log.h"
#include "cli/remote.h"
#include "daemon/helper.h"

#include <libgen.h>
#include <limits.h>

/* What the options and their values stand in, for as long as the program runs. */
struct source {
	struct given_options files, line;
	struct option_list texts;
	struct words words;
};

static int usage_error(const struct program *p, const struct error *e)
{
	fprintf(stderr, "Error: %s\n", e->text);
	return e->code == -ENOSYS ? 1 : p->usage_status;
}

/* Also where its options, which there are none of, could not be parsed: then all words count, though some are options' values. */
static int say_absent(const struct program *p, char **argv, const struct words *parsed, int r, struct error *e)
{
	struct words all = {};
	const struct words *words = r ? &all : parsed;
	const char *thing = "";

	for (char **a = argv + 1; r && *a && strcmp(*a, "--"); a++) {
		char **slot = **a == '-' ? NULL : VEC_PUSH(&all);
		if (slot)
			*slot = *a;
	}
	const char *why = p->absent ? p->absent(words, &thing) : NULL;
	if (why)
		r = error_set(e, -ENOSYS, "%s %s%s%s is not there yet: %s", p->name, words->data[0], *thing ? " " : "", thing, why);
	VEC_FREE(&all);
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
	r = say_absent(p, argv, &s->words, r, e);
	if (!r)
		r = options_find_verb(p, &s->words, &c->verb, &own, e);
	if (r == -ENOENT)
		r = error_set(e, -EINVAL, "%s needs a command; see %s --help", p->name, p->name);
	if (!r && p->configured)
		r = config_read_all(p, !given_find(&s->line, "no-default-config"), given_find(&s->line, "config"), &s->files, &s->texts, e);
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

static int run(struct command_line *c)
{
	char pidfile[PATH_MAX];
	struct error e = {};

	if (c->program->configured && !c->request.images_dir)
		c->request.images_dir = ".";
	int r = cli_prepare(c, &e);
	if (r) {
		fprintf(stderr, "Error: %s\n", e.text);
		return r == -ENOTSUP ? 1 : c->program->usage_status;
	}
	if (c->request.pidfile && c->program->configured)
		c->request.pidfile = cli_in_work_dir(c, c->request.pidfile, pidfile);
	remote_tell_unknown(c);
	int status = remote_need_full(c);
	return status ? status : c->verb->run(c);
}

static const struct program *program_of(const char *name)
{
	return !strcmp(name, "criu") ? &program_criu : !strcmp(name, "cedana") ? &program_cedana : &program_fermata;
}

int main(int argc, char **argv)
{
	const struct program *p = program_of(argc ? basename(argv[0]) : "");
	struct command_line c;
	struct source source = {};
	struct error e = {};
	int status = 0;

	if (daemon_helper_main(argc, argv, &status))
		return status;
	cli_init(&c, p);
	c.argv = argv;
	c.given = &source.line;
	if (read_all(p, argv, &source, &c, &e))
		status = usage_error(p, &e);
	else if (c.version)
		puts(p == &program_criu ? "Version: " CRIU_VERSION_TEXT : "fermata " FERMATA_VERSION);
	else if (c.help && !c.verb && help_group(stdout, p, &source.words))
		;
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
	cli_free(&c);
	return status;
}
