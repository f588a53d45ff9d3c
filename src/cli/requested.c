/*
 * The options of a request to the daemon, {"leave-running": true}, by the table of the command line: names in full, values of any kind that the option can
 * be written with. Those that have a place of their own in a request, or are the command line's own, are not among them.
 */
#include "cli/remote.h"

static bool is_one_of(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

bool option_is_own(const char *name)
{
	static const char *const names[] = { "dir", "name", "result-file", "path", "no-server", "json", "pid-file", "attach", "attachable", "out", "detach", "config",
					     "config-dir", "address", "protocol", "tls-cert", "tls-key", "tls-ca", "tls-name", "as", "checkpoint", "quiet", "events", "gate", "log-file", "log-format", "log-level",
					     "criu-opts" };

	return is_one_of(names, ARRAY_SIZE(names), name);
}

/* What only makes sense where it is typed, or is the daemon's to say. */
static bool is_for_a_caller(const char *name)
{
	static const char *const names[] = { "help", "version", "inherit-fd", "unprivileged", "for-user" };

	return is_one_of(names, ARRAY_SIZE(names), name) || option_is_own(name);
}

static const struct verb *named_verb(const char *name)
{
	const struct program *p = &program_fermata;

	for (size_t i = 0; i < p->n_verbs; i++)
		if (!strcmp(p->verbs[i].name, name))
			return &p->verbs[i];
	return NULL;
}

/* All else is as where it is typed. */
static int check_kind(const struct option_row *row, const json_t *value, struct error *e)
{
	if (json_is_null(value) || (json_is_false(value) && row->kind != OPTION_BOOL))
		return error_set(e, -EINVAL, "option --%s: %s is no value of it", row->name, json_is_null(value) ? "null" : "false");
	return 0;
}

static int check_name(const char *name, const json_t *value, const struct verb *verb, struct error *e)
{
	const struct program *p = &program_fermata;

	for (size_t i = 0; i < p->n_rows; i++)
		if (!strcmp(p->rows[i].name, name) && option_belongs(p, verb, &p->rows[i]))
			return is_for_a_caller(name) ? error_set(e, -EINVAL, "--%s is no option of a request; see /v1/openapi.json", name) : check_kind(&p->rows[i], value, e);
	return error_set(e, -EINVAL, "there is no option --%.60s of %s; see /v1/openapi.json", name, verb->name);
}

/* Values that are looked at later where a command is typed. */
static int check_values(struct command_line *c, struct error *e)
{
	int r = cli_take_values(c, e);

	if (!r)
		r = dump_read_packing(c, e);
	if (!r)
		r = cli_lazy_options(c, e);
	return r ? r : cli_gpu_options(c, e);
}

int requested_check(const char *verb, const json_t *options, struct error *e)
{
	struct given_options given = {};
	struct option_list texts = {};
	struct command_line c;
	const char *name;
	json_t *value;
	int r = 0;

	cli_init(&c, &program_fermata);
	c.verb = named_verb(verb);
	json_object_foreach((json_t *)options, name, value) {
		r = r ? r : check_name(name, value, c.verb, e);
		r = r ? r : json_option_add(c.program, name, value, &given, &texts, e);
	}
	if (!r)
		r = options_store(c.program, c.verb, &given, &c, e);
	if (!r)
		r = check_values(&c, e);
	for (size_t i = 0; i < texts.count; i++)
		free((char *)texts.data[i]);
	VEC_FREE(&texts);
	VEC_FREE(&given);
	cli_free(&c);
	return r;
}

static json_t *schema_of(const struct option_row *row)
{
	switch (row->kind) {
	case OPTION_FLAG:
	case OPTION_BOOL:
		return json_pack("{s:s, s:s}", "type", "boolean", "description", row->help);
	case OPTION_INT:
	case OPTION_LEVEL:
		return json_pack("{s:s, s:s}", "type", "integer", "description", row->help);
	case OPTION_LIST:
		return json_pack("{s:s, s:{s:s}, s:s}", "type", "array", "items", "type", "string", "description", row->help);
	case OPTION_OPTIONAL: /* true: without a value */
		return json_pack("{s:[{s:s}, {s:s}], s:s}", "oneOf", "type", "boolean", "type", "string", "description", row->help);
	default:
		return json_pack("{s:s, s:s}", "type", "string", "description", row->help);
	}
}

json_t *requested_describe(const char *verb)
{
	const struct program *p = &program_fermata;
	const struct verb *v = named_verb(verb);
	json_t *all = json_object();

	for (size_t i = 0; i < p->n_rows; i++)
		if (option_belongs(p, v, &p->rows[i]) && !is_for_a_caller(p->rows[i].name))
			json_object_set_new(all, p->rows[i].name, schema_of(&p->rows[i]));
	return all;
}
