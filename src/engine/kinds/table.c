/* The kinds, in the order in which they are asked whether a descriptor is theirs. */
#include "engine/kinds/kind.h"

extern const struct kind kind_regfile, kind_pipe, kind_fifo, kind_epoll, kind_eventfd, kind_signalfd, kind_timerfd,
	kind_memfd, kind_inotify, kind_unix, kind_inet, kind_netlink, kind_packet, kind_tty, kind_pidfd, kind_fanotify, kind_uring, kind_mqueue, kind_vsock, kind_uffd, kind_tun;

const struct kind *const kinds[] = {
	&kind_memfd,	&kind_pipe,    &kind_fifo, &kind_epoll, &kind_eventfd, &kind_signalfd, &kind_timerfd,
	&kind_inotify, &kind_fanotify, &kind_unix, &kind_inet, &kind_netlink, &kind_packet, &kind_tty, &kind_pidfd, &kind_uring, &kind_mqueue,
	&kind_vsock, &kind_uffd, &kind_tun,
	&kind_regfile,
};
const size_t kinds_count = ARRAY_SIZE(kinds);

const struct kind *kind_of_type(uint32_t type)
{
	for (size_t i = 0; i < kinds_count; i++)
		if (kinds[i]->type == type)
			return kinds[i];
	return NULL;
}

void **kind_state(struct dump *d, const struct kind *kind)
{
	for (size_t i = 0; i < kinds_count; i++)
		if (kinds[i] == kind)
			return &d->kind_state[i];
	abort();
}
