/* See error.h. */
#include "base/error.h"

#include <stdarg.h>

int error_set(struct error *e, int code, const char *format, ...)
{
	va_list args;

	e->code = code;
	va_start(args, format);
	vsnprintf(e->text, sizeof(e->text), format, args);
	va_end(args);
	return code;
}

int error_errno(struct error *e, int code, const char *format, ...)
{
	va_list args;

	e->code = code;
	va_start(args, format);
	vsnprintf(e->text, sizeof(e->text), format, args);
	va_end(args);
	size_t used = strlen(e->text);
	snprintf(e->text + used, sizeof(e->text) - used, ": %s", strerror(-code));
	return code;
}

int error_prefix(struct error *e, int code, const char *format, ...)
{
	char context[sizeof(e->text)];
	char rest[sizeof(e->text)];
	va_list args;

	va_start(args, format);
	vsnprintf(context, sizeof(context), format, args);
	va_end(args);
	snprintf(rest, sizeof(rest), "%s", e->text[0] ? e->text : strerror(-code));
	e->code = code;
	char joined[2 * sizeof(e->text) + 2];
	snprintf(joined, sizeof(joined), "%s: %s", context, rest);
	memcpy(e->text, joined, sizeof(e->text) - 1);
	e->text[sizeof(e->text) - 1] = '\0';
	return code;
}
