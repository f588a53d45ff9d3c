/*
 * How a failure travels up: a negative errno as the return value, and one line of text that each level
 * puts its piece of context in front of. The outermost caller reports it once.
 *
 *	return error_set(e, -ENOTTY, "descriptor %d is a %s, which has no way to be saved", fd, name);
 *	...
 *	return error_prefix(e, r, "cannot dump process %d (%s)", pid, comm);
 */
#pragma once

#include "base/base.h"

struct error {
	int code;         /* the negative errno of the first failure, 0 when there was none */
	char text[1024]; /* one line, no newline at the end */
};

/* Records a failure. `code` is a negative errno and is returned. An earlier text is replaced. */
int error_set(struct error *e, int code, const char *format, ...) _printf_(3, 4);
/* As error_set, with ": " and the text of the errno at the end. */
int error_errno(struct error *e, int code, const char *format, ...) _printf_(3, 4);
/* Puts "context: " in front of what is recorded; where nothing is, records the errno's text. Returns `code`. */
int error_prefix(struct error *e, int code, const char *format, ...) _printf_(3, 4);
