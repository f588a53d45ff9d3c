/* See log.h. Each line is one write(2), so that lines of several processes do not mix. */
#include "base/log.h"

#include <stdarg.h>
#include <time.h>

static int current_level = LOG_LEVEL_WARNING;
static int current_fd = STDERR_FILENO;
static bool to_file, as_json;

void log_setup(int level, int fd)
{
	if (level >= 0)
		current_level = level;
	if (fd >= 0) {
		current_fd = fd;
		to_file = fd != STDERR_FILENO;
	}
}

void log_set_json(bool json)
{
	as_json = json;
}

bool log_enabled(int level)
{
	return level <= current_level;
}

/* The inside of a string of JSON; what does not fit is cut off. */
static size_t escape(char *to, size_t room, const char *from)
{
	size_t used = 0;

	for (; *from && used + 7 < room; from++) {
		unsigned char c = (unsigned char)*from;
		if (c == '"' || c == '\\') {
			to[used++] = '\\';
			to[used++] = (char)c;
		} else if (c < 0x20) {
			used += (size_t)snprintf(to + used, room - used, "\\u%04x", c);
		} else {
			to[used++] = (char)c;
		}
	}
	return used;
}

static void write_json(int level, const char *message)
{
	static const char *const words[] = { "disabled", "error", "warning", "info", "debug" };
	char line[4096];
	struct timespec now;
	struct tm utc;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &utc);
	size_t used = strftime(line, sizeof(line), "{\"time\": \"%Y-%m-%dT%H:%M:%S", &utc);
	used += (size_t)snprintf(line + used, sizeof(line) - used, ".%06ldZ\", \"level\": \"%s\", \"message\": \"", now.tv_nsec / 1000,
				 words[MIN(MAX(level, 0), LOG_LEVEL_DEBUG)]);
	used += escape(line + used, sizeof(line) - used - 4, message);
	memcpy(line + used, "\"}\n", 3);
	if (write(current_fd, line, used + 3) < 0)
		return;
}

void log_write(int level, const char *format, ...)
{
	static const char *const words[] = { "", "Error", "Warn ", "", "" };
	char line[2048];
	struct timespec now;
	va_list args;

	if (!log_enabled(level))
		return;
	if (as_json) {
		va_start(args, format);
		vsnprintf(line, sizeof(line), format, args);
		va_end(args);
		write_json(level, line);
		return;
	}
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
