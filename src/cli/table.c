/* Tables for people and for awk. See remote.h. */
#include "cli/remote.h"

#include <stdarg.h>
#include <time.h>

struct table {
	size_t columns;
	VEC(char *) cells;
};

struct table *table_new(const char *const *heads, size_t columns)
{
	struct table *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->columns = columns;
	for (size_t i = 0; i < columns; i++)
		table_put(t, "%s", heads[i]);
	return t;
}

void table_put(struct table *t, const char *format, ...)
{
	char **cell = t ? VEC_PUSH(&t->cells) : NULL;
	va_list args;

	if (!cell)
		return;
	va_start(args, format);
	if (vasprintf(cell, format, args) < 0)
		*cell = NULL;
	va_end(args);
}

void table_print(struct table *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < t->cells.count; i++) {
		size_t column = i % t->columns, width = 0;
		const char *text = t->cells.data[i] && *t->cells.data[i] ? t->cells.data[i] : "-";
		for (size_t k = column; k < t->cells.count; k += t->columns)
			width = MAX(width, t->cells.data[k] && *t->cells.data[k] ? strlen(t->cells.data[k]) : 1);
		if (column + 1 == t->columns)
			printf("%s\n", text);
		else
			printf("%-*s  ", (int)width, text);
	}
	VEC_FOREACH(&t->cells, cell)
		free(*cell);
	VEC_FREE(&t->cells);
	free(t);
}

void text_size(char to[32], uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(to, 32, unit ? "%.1f%s" : "%.0f%s", value, units[unit]);
}

void text_ago(char to[32], int64_t time_ns)
{
	long long s = (long long)time(NULL) - (long long)(time_ns / 1000000000);

	if (s < 60)
		snprintf(to, 32, "%llds ago", MAX(s, 0));
	else if (s < 3600)
		snprintf(to, 32, "%lldm ago", s / 60);
	else if (s < 86400)
		snprintf(to, 32, "%lldh ago", s / 3600);
	else
		snprintf(to, 32, "%lldd ago", s / 86400);
}
