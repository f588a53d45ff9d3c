/* The API's description, made from the table of routes: docs/openapi.json. */
#include "daemon/api.h"
#include "daemon/fields.h"

static json_t *schema_of(const struct vocabulary *v, const struct field *f)
{
	char verb[sizeof(f->type)];

	if (field_verb(f, verb))
		return json_pack("{s:s, s:o, s:b}", "type", "object", "properties", v->describe(verb), "additionalProperties", 0);
	if (!strcmp(f->type, "texts"))
		return json_pack("{s:s, s:{s:s}}", "type", "array", "items", "type", "string");
	return json_pack("{s:s}", "type", f->type);
}

static json_t *body_schema(const struct vocabulary *v, const char *fields)
{
	json_t *properties = json_object();
	struct field f;

	while (field_next(&fields, &f))
		json_object_set_new(properties, f.name, schema_of(v, &f));
	return json_pack("{s:{s:{s:{s:s, s:o, s:b}}}}", "content", "application/json", "schema", "type", "object", "properties", properties,
			 "additionalProperties", 0);
}

static json_t *parameters_of(const struct vocabulary *v, const struct route *r)
{
	const char *fields = r->query;
	json_t *list = json_array();
	struct field f;

	for (const char *at = strchr(r->path, '{'); at; at = strchr(at + 1, '{')) {
		char name[32];
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(at + 1, "}"), at + 1);
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:{s:s}}", "name", name, "in", "path", "required", 1, "schema", "type", "string"));
	}
	while (field_next(&fields, &f))
		json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", f.name, "in", "query", "schema", schema_of(v, &f)));
	return list;
}

static json_t *answer_of(const struct route *r)
{
	const char *type = !strcmp(r->answers, "events") ? "application/x-ndjson" : !strcmp(r->answers, "text") ? "text/plain" : "application/json";

	if (!strcmp(r->answers, "attach"))
		return json_pack("{s:{s:s}, s:{s:s}}", "101", "description", "frames, see src/daemon/frames.h", "default", "$ref",
				 "#/components/responses/error");
	return json_pack("{s:{s:s, s:{s:{}}}, s:{s:s}}", "200", "description", r->answers, "content", type, "default", "$ref",
			 "#/components/responses/error");
}

json_t *routes_openapi(const struct vocabulary *v)
{
	json_t *paths = json_object();

	for (size_t i = 0; i < routes_count; i++) {
		const struct route *r = &routes[i];
		char method[16];
		size_t n = 0;
		for (; r->method[n]; n++)
			method[n] = (char)(r->method[n] | 0x20);
		method[n] = '\0';
		json_t *path = json_object_get(paths, r->path);
		if (!path) {
			path = json_object();
			json_object_set_new(paths, r->path, path);
		}
		json_t *operation = json_pack("{s:s, s:o, s:o}", "summary", r->summary, "parameters", parameters_of(v, r), "responses", answer_of(r));
		if (r->body)
			json_object_set_new(operation, "requestBody", body_schema(v, r->body));
		json_object_set_new(path, method, operation);
	}
	json_t *error = json_pack("{s:s, s:{s:{s:{s:s, s:{s:{s:s}, s:{s:s}}}}}}", "description", "what went wrong", "content", "application/json", "schema",
				  "type", "object", "properties", "error", "type", "string", "code", "type", "integer");
	return json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:o}}}", "openapi", "3.0.3", "info", "title", "fermata", "version", FERMATA_VERSION, "paths", paths,
			 "components", "responses", "error", error);
}
