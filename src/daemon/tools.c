/* See tools.h. */
#include "daemon/tools.h"

#include "daemon/helper.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define WORDS_MAX 64
#define SAID_MAX (64u << 20)

static char *read_back(int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	char *text = size >= 0 && size <= (off_t)SAID_MAX ? malloc((size_t)size + 1) : NULL;
	ssize_t n = text ? pread(fd, text, (size_t)size, 0) : -1;

	if (text)
		text[MAX(n, 0)] = '\0';
	return text;
}

static int run(json_t *words, char **ret, struct error *e)
{
	_cleanup_close_ int out = memfd_create("answer", MFD_CLOEXEC), err = memfd_create("error", MFD_CLOEXEC);
	char *argv[WORDS_MAX] = { (char *)"fermata" };
	int status = 0, r = out < 0 || err < 0 ? error_errno(e, -errno, "cannot start a helper") : 0;
	pid_t pid;

	for (size_t i = 0; i < json_array_size(words) && i + 2 < WORDS_MAX; i++)
		argv[i + 1] = (char *)json_string_value(json_array_get(words, i));
	if (!r)
		r = daemon_helper_start(argv, -1, out, err, &pid, e);
	json_decref(words);
	if (r)
		return r;
	waitpid(pid, &status, 0);
	*ret = read_back(out);
	if (!*ret)
		return error_set(e, -ENOMEM, "the answer is too long");
	/* Status 1 with an answer says that something was found: differences, obstacles. */
	if (**ret && WIFEXITED(status) && WEXITSTATUS(status) <= 2)
		return 0;
	free(TAKE_PTR(*ret));
	_cleanup_free_ char *said = read_back(err);
	const char *error = said ? strstr(said, "Error: ") : NULL;
	if (!error)
		return error_set(e, -EIO, "the helper ended with status %d and said nothing", status);
	error += strlen("Error: ");
	return error_set(e, -EIO, "%.*s", (int)strcspn(error, "\n"), error);
}

int tool_text(json_t *words, char **ret, struct error *e)
{
	*ret = NULL;
	return words ? run(words, ret, e) : error_set(e, -EINVAL, "a text in it is no UTF-8");
}

int tool_json(json_t *words, json_t **ret, struct error *e)
{
	char *text = NULL;
	int r = tool_text(words, &text, e);

	if (r)
		return r;
	*ret = json_loads(text, 0, NULL);
	free(text);
	return *ret ? 0 : error_set(e, -EIO, "the helper's answer is no JSON");
}
