/*
 * --criu-opts JSON: options as an object, with the names that criu's RPC gives them, `leave_running` or `leaveRunning`. Each becomes the
 * option of that name; one that there is none of is an error.
 */
#include "cli/cli.h"

#include <ctype.h>
#include <jansson.h>

static const char *keep(struct option_list *texts, char *text)
{
	const char **slot = text ? VEC_PUSH(texts) : NULL;

	if (slot)
		*slot = text;
	else
		free(text);
	return slot ? text : NULL;
}

static char *option_name(const char *key)
{
	char *name = calloc(2, strlen(key) + 1), *to = name;

	for (; name && *key; key++) {
		if (isupper((unsigned char)*key))
			*to++ = '-';
		*to++ = *key == '_' ? '-' : (char)tolower((unsigned char)*key);
	}
	return name;
}

static int no_kind(const char *name, struct error *e)
{
	return error_set(e, -EINVAL, "the value of %s is of no kind that options have", name);
}

int json_option_add(const struct program *p, const char *name, const json_t *value, struct given_options *given, struct option_list *texts, struct error *e)
{
	const char *text = NULL;
	int r = 0;

	if (json_is_array(value)) {
		for (size_t i = 0; !r && i < json_array_size(value); i++)
			r = json_is_array(json_array_get(value, i)) ? no_kind(name, e) : json_option_add(p, name, json_array_get(value, i), given, texts, e);
		return r;
	}
	if (json_is_string(value))
		text = keep(texts, strdup(json_string_value(value)));
	else if (json_is_integer(value))
		text = keep(texts, json_dumps(value, JSON_ENCODE_ANY));
	else if (json_is_false(value) || json_is_null(value))
		return 0;
	else if (!json_is_true(value))
		return no_kind(name, e);
	return options_parse_line(p, name, text, NULL, given, e);
}

static int add(const struct program *p, const char *key, const json_t *value, struct given_options *given, struct option_list *texts, struct error *e)
{
	const char *name = keep(texts, option_name(key));
	const size_t before = given->count;
	int r = name ? json_option_add(p, name, value, given, texts, e) : error_set(e, -ENOMEM, "out of memory");

	for (size_t i = before; i < given->count; i++)
		given->data[i].file = "--criu-opts";
	return r ? error_prefix(e, r, "option --criu-opts") : 0;
}

int criu_opts_expand(const struct program *p, struct given_options *given, struct option_list *texts, struct error *e)
{
	const struct given *g = given_find(given, "criu-opts");
	json_error_t where;
	const char *key;
	json_t *value;
	int r = 0;

	if (!g)
		return 0;
	json_t *root = json_loads(g->value, JSON_REJECT_DUPLICATES, &where);
	if (!json_is_object(root))
		r = error_set(e, -EINVAL, "option --criu-opts is no JSON object: %s", root ? "it is another value" : where.text);
	json_object_foreach(root, key, value) {
		r = r ? r : add(p, key, value, given, texts, e);
	}
	json_decref(root);
	return r;
}
