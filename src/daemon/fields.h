/*
 * What a request may carry, written as in the table of routes: names with a blank between, each with its type behind a colon where it is not text:
 * "jid argv:texts keep:integer". The type of "options:dump-process" is an object of the options that this verb has (vocabulary.h). What a caller has misspelled must not be ignored in silence.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

struct field {
	char name[48], type[16]; /* "string", "integer", "boolean", "texts", or a verb */
};

/* NULL: it is not there, or of another type. */
const char *field_text(const json_t *body, const char *name);
/* The verb whose options it has, "dump process"; false: it is of another type. */
bool field_verb(const struct field *f, char ret[sizeof(f->type)]);
/* The next one of `*text`, which is moved on; false: there are no more. `*text` may be NULL. */
bool field_next(const char **text, struct field *ret);
/* -EINVAL names what is not one of `fields`, or not of its type. */
int fields_check(const json_t *body, const char *fields, struct error *e);
/* The same of one behind `?`, whose value is text. */
int field_check_query(const char *name, const char *value, const char *fields, struct error *e);
