/* See fields.h. */
#include "daemon/fields.h"

const char *field_text(const json_t *body, const char *name)
{
	return json_string_value(json_object_get(body, name));
}

bool field_verb(const struct field *f, char ret[sizeof(f->type)])
{
	char *dash;

	snprintf(ret, sizeof(f->type), "%s", f->type);
	dash = strchr(ret, '-');
	if (dash)
		*dash = ' ';
	return dash;
}

bool field_next(const char **text, struct field *ret)
{
	if (!*text || !**text)
		return false;
	const size_t length = strcspn(*text, " "), name = MIN(strcspn(*text, ": "), length);

	snprintf(ret->name, sizeof(ret->name), "%.*s", (int)name, *text);
	if (name < length)
		snprintf(ret->type, sizeof(ret->type), "%.*s", (int)(length - name - 1), *text + name + 1);
	else
		snprintf(ret->type, sizeof(ret->type), "string");
	*text += length + ((*text)[length] == ' ');
	return true;
}

static bool find(const char *fields, const char *name, struct field *ret)
{
	while (field_next(&fields, ret))
		if (!strcmp(ret->name, name))
			return true;
	return false;
}

static int unknown(const char *what, const char *name, const char *fields, struct error *e)
{
	char names[400] = "";
	struct field f;

	for (const char *at = fields; field_next(&at, &f);)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", names[0] ? ", " : "", f.name);
	if (!names[0])
		return error_set(e, -EINVAL, "the request takes no %ss, and %.60s was given", what, name);
	return error_set(e, -EINVAL, "the request takes no %s %.60s; there are: %s", what, name, names);
}

static bool all_texts(const json_t *list)
{
	bool good = json_is_array(list);

	for (size_t i = 0; good && i < json_array_size(list); i++)
		good = json_is_string(json_array_get(list, i));
	return good;
}

static int check_one(const struct field *f, const json_t *value, struct error *e)
{
	char verb[sizeof(f->type)];
	const char *type = field_verb(f, verb) ? "object" : f->type;
	const struct {
		const char *type, *words;
		bool is;
	} types[] = { { "string", "a text", json_is_string(value) },
		      { "integer", "a whole number", json_is_integer(value) },
		      { "boolean", "true or false", json_is_boolean(value) },
		      { "object", "an object", json_is_object(value) },
		      { "texts", "a list of texts", all_texts(value) } };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(types[i].type, type) && !types[i].is)
			return error_set(e, -EINVAL, "the field %s must be %s", f->name, types[i].words);
	return 0;
}

int fields_check(const json_t *body, const char *fields, struct error *e)
{
	const char *name;
	json_t *value;
	struct field f;
	int r = 0;

	json_object_foreach((json_t *)body, name, value) {
		r = find(fields, name, &f) ? check_one(&f, value, e) : unknown("field", name, fields, e);
		if (r)
			break;
	}
	return r;
}

int field_check_query(const char *name, const char *value, const char *fields, struct error *e)
{
	struct field f;

	if (!find(fields, name, &f))
		return unknown("parameter", name, fields, e);
	if (!strcmp(f.type, "boolean") && (!value || (strcmp(value, "true") && strcmp(value, "false"))))
		return error_set(e, -EINVAL, "the parameter %s must be true or false", name);
	return 0;
}
