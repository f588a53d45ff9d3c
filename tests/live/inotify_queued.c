/* Events that a watch has told and nobody has read yet. */
#include "live.h"
#include <sys/inotify.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static const char *const names[] = {"one", "two", "a longer name than the others"};
	CHECK(mkdir("dir", 0755) == 0);
	int fd = inotify_init1(IN_NONBLOCK), watch = inotify_add_watch(fd, "dir", IN_CREATE);
	for (int i = 0; i < 3; i++) {
		char path[64];
		snprintf(path, sizeof path, "dir/%s", names[i]);
		CHECK(close(open(path, O_WRONLY | O_CREAT, 0600)) == 0);
	}
	wait_go();
	char got[1024] __attribute__((aligned(8)));
	ssize_t n = read(fd, got, sizeof got);
	char *at = got;
	for (int i = 0; i < 3; i++) {
		struct inotify_event *event = (struct inotify_event *)at;
		CHECK(at + sizeof *event <= got + n && event->wd == watch && event->mask == IN_CREATE);
		CHECK(strcmp(event->name, names[i]) == 0);
		at += sizeof *event + event->len;
	}
	CHECK(at == got + n && read(fd, got, sizeof got) == -1 && errno == EAGAIN);
	return finish();
}
