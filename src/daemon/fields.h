/*
 * What a request may carry, written as in the table of routes: names with a blank between, each with its type behind a colon where it is not text:
 * "jid argv:texts keep:integer". What a caller has misspelled must not be ignored in silence.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

struct field {
	char name[48], type[16]; /* "string", "integer", "boolean", "object", "texts" */
};

/* The next one of `*text`, which is moved on; false: there are no more. `*text` may be NULL. */
bool field_next(const char **text, struct field *ret);
/* -EINVAL names what is not one of `fields`, or not of its type. */
int fields_check(const json_t *body, const char *fields, struct error *e);
/* The same of one behind `?`, whose value is text. */
int field_check_query(const char *name, const char *value, const char *fields, struct error *e);
