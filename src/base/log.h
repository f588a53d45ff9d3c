/*
 * The log: what the engine did, for someone who wants to know (-v4), on stderr or into a file (-o).
 * A failure is not reported through this but returned, see error.h; the outermost caller logs it once.
 * The level and the sink are the only mutable globals of the program.
 */
#pragma once

#include "base/base.h"

enum log_level { LOG_LEVEL_QUIET, LOG_LEVEL_ERROR, LOG_LEVEL_WARNING, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* `fd` stays the caller's. -1 leaves the level, or the sink, as it is. Level 2 and stderr at the start. */
void log_setup(int level, int fd);
bool log_enabled(int level);
void log_write(int level, const char *format, ...) _printf_(2, 3);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) \
	do { \
		if (log_enabled(LOG_LEVEL_DEBUG)) \
			log_write(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)
