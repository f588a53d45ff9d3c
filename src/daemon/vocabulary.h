/*
 * The options that a request may carry are those of the verb that a helper is started with. Their table is the command line's, of which the daemon's files
 * know nothing: who starts the daemon brings it along.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

struct vocabulary {
	/* -EINVAL names the option that `verb` ("dump process") does not have in a request, or not with that value. */
	int (*check)(const char *verb, const json_t *options, struct error *e);
	/* Of all that it has: {name: schema} as OpenAPI wants it, a new reference. */
	json_t *(*describe)(const char *verb);
};
