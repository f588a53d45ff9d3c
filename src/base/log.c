/* See log.h. Each line is one write(2), so that lines of several processes do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <time.h>

static int current_level = LOG_LEVEL_WARNING;
static int current_fd = STDERR_FILENO;
static bool to_file;

void log_setup(int level, int fd)
{
	if (level >= 0)
		current_level = level;
	if (fd >= 0) {
		current_fd = fd;
		to_file = fd != STDERR_FILENO;
	}
}

bool log_enabled(int level)
{
	return level <= current_level;
}

void log_write(int level, const char *format, ...)
{
	static const char *const words[] = { "", "Error", "Warn ", "", "" };
	char line[2048];
	struct timespec now;
	va_list args;

	if (!log_enabled(level))
		return;
	size_t used = 0;
	if (to_file || current_level >= LOG_LEVEL_DEBUG) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		used = (size_t)snprintf(line, sizeof(line), "(%05lld.%06ld) ", (long long)(now.tv_sec % 100000),
					now.tv_nsec / 1000);
	}
	if (level <= LOG_LEVEL_WARNING && level > 0)
		used += (size_t)snprintf(line + used, sizeof(line) - used, "%s: ", words[level]);
	va_start(args, format);
	int n = vsnprintf(line + used, sizeof(line) - used - 1, format, args);
	va_end(args);
	used = MIN(used + (size_t)MAX(n, 0), sizeof(line) - 2);
	line[used++] = '\n';
	if (write(current_fd, line, used) < 0)
		return;
}
