/* Configuration files of options, as criu reads them. See cli.h. */
#include "cli/cli.h"

#include <fcntl.h>
#include <limits.h>

#define CONFIG_MAX (1u << 20)

static char *skip_blank(char *at)
{
	return at + strspn(at, " \t\r");
}

/* Ends the text behind the quote at `at` where that is closed; gives what follows, or NULL. In double quotes \" is a quote of the text. */
static char *unquote(char *at)
{
	char quote = *at++, *to = at;

	for (; *at && *at != quote; at++) {
		if (quote == '"' && at[0] == '\\' && at[1] == '"')
			at++;
		*to++ = *at;
	}
	if (!*at)
		return NULL;
	*to = '\0';
	return at + 1;
}

/* Cuts the value out of what follows a name; quotes keep blanks and `#`. */
static int take_value(char *at, char **ret)
{
	at = skip_blank(at);
	if (*at == '=')
		at = skip_blank(at + 1);
	*ret = NULL;
	if (!*at || *at == '#')
		return 0;
	if (*at == '"' || *at == '\'') {
		char *end = unquote(at);
		if (!end)
			return -EINVAL;
		*ret = at + 1;
		at = skip_blank(end);
		return *at && *at != '#' ? -EINVAL : 0;
	}
	char *comment = strstr(at, " #");
	if (comment)
		*comment = '\0';
	size_t length = strlen(at);
	while (length && strchr(" \t\r", at[length - 1]))
		at[--length] = '\0';
	*ret = at;
	return 0;
}

static int read_line(const struct program *p, char *line, int number, const char *path, struct given_options *given, struct error *e)
{
	char *name = skip_blank(line), *value;

	if (!*name || *name == '#')
		return 0;
	size_t length = strcspn(name, " \t\r=#");
	char *behind = name + length, ends_with = *behind;
	int r = 0;
	if (ends_with == '=')
		*behind++ = '\0';
	r = take_value(behind, &value);
	if (r)
		return error_set(e, r, "%s, line %d: a quote is not closed, or text follows it", path, number);
	name[length] = '\0';
	r = options_parse_line(p, name + strspn(name, "-"), value, path, given, e);
	return r ? error_prefix(e, r, "%s, line %d", path, number) : 0;
}

int config_read(const struct program *p, const char *path, bool optional, struct given_options *given, struct option_list *texts,
		struct error *e)
{
	char *text = NULL, *save = NULL;
	int r = read_file_at(AT_FDCWD, path, CONFIG_MAX, &text, NULL), number = 0;

	if (optional && (r == -ENOENT || r == -ENOTDIR || r == -EACCES))
		return 0;
	if (r)
		return error_errno(e, r, "cannot read the configuration file %s", path);
	const char **slot = VEC_PUSH(texts);
	if (!slot) {
		free(text);
		return error_set(e, -ENOMEM, "out of memory");
	}
	*slot = text;
	for (char *line = text; !r && line; line = save) {
		save = strchr(line, '\n');
		if (save)
			*save++ = '\0';
		r = read_line(p, line, ++number, path, given, e);
	}
	return r;
}

int config_read_all(const struct program *p, bool defaults, const struct given *named, struct given_options *given, struct option_list *texts,
		    struct error *e)
{
	const char *home = getenv("HOME"), *variable = getenv("CRIU_CONFIG_FILE");
	char path[PATH_MAX];
	int r = 0;

	if (defaults) {
		r = config_read(p, "/etc/criu/default.conf", true, given, texts, e);
		snprintf(path, sizeof(path), "%s/.criu/default.conf", home ? home : "");
		if (!r && home)
			r = config_read(p, path, true, given, texts, e);
	}
	if (!r && variable && *variable)
		r = config_read(p, variable, false, given, texts, e);
	if (!r && named)
		r = config_read(p, named->value, false, given, texts, e);
	return r;
}
