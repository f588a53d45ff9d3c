/* Sockets of a virtual machine (vsock): fresh, bound and listening, their options, what they say and who they are. */
#include "live.h"
#include <linux/vm_sockets.h>
#include <poll.h>
#include <sys/socket.h>

static unsigned long long number_of(int fd, int name)
{
	unsigned long long value = 0;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, AF_VSOCK, name, &value, &size) == 0);
	return value;
}

static int bound(int type, unsigned port)
{
	int fd = socket(AF_VSOCK, type, 0);
	struct sockaddr_vm at = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
	return fd;
}

static struct sockaddr_vm name_of(int fd)
{
	struct sockaddr_vm at = {};
	socklen_t size = sizeof at;
	CHECK(getsockname(fd, (struct sockaddr *)&at, &size) == 0);
	return at;
}

static int is(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0);
	return value;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int fresh = socket(AF_VSOCK, SOCK_STREAM, 0);
	if (fresh < 0) {
		live_say("skip: no vsock sockets");
		return 0;
	}
	unsigned port = 1 << 20 | (getpid() & 0xffff);
	unsigned long long sizes[3] = {3 << 16, 1 << 12, 9 << 16};
	struct timeval timeout = {7, 0};
	int listener = bound(SOCK_STREAM, port), only = bound(SOCK_STREAM, VMADDR_PORT_ANY), packets = bound(SOCK_SEQPACKET, port + 1);
	struct sockaddr_vm any = name_of(only);
	CHECK(setsockopt(listener, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &sizes[2], 8) == 0 && setsockopt(listener, AF_VSOCK, SO_VM_SOCKETS_BUFFER_MIN_SIZE, &sizes[1], 8) == 0 &&
	      setsockopt(listener, AF_VSOCK, SO_VM_SOCKETS_BUFFER_SIZE, &sizes[0], 8) == 0);
	CHECK(setsockopt(fresh, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW, &timeout, sizeof timeout) == 0);
	CHECK(listen(listener, 3) == 0 && listen(packets, 1) == 0 && fcntl(packets, F_SETFL, O_NONBLOCK) == 0);
	wait_go();
	struct sockaddr_vm at = name_of(listener);
	CHECK(at.svm_port == port && at.svm_cid == VMADDR_CID_ANY && is(listener, SO_ACCEPTCONN) == 1 && is(listener, SO_TYPE) == SOCK_STREAM);
	CHECK(number_of(listener, SO_VM_SOCKETS_BUFFER_SIZE) == sizes[0] && number_of(listener, SO_VM_SOCKETS_BUFFER_MIN_SIZE) == sizes[1] &&
	      number_of(listener, SO_VM_SOCKETS_BUFFER_MAX_SIZE) == sizes[2]);
	at = name_of(packets);
	CHECK(at.svm_port == port + 1 && is(packets, SO_ACCEPTCONN) == 1 && is(packets, SO_TYPE) == SOCK_SEQPACKET);
	CHECK(accept(packets, NULL, NULL) == -1 && errno == EAGAIN);
	at = name_of(only);
	CHECK(at.svm_port == any.svm_port && is(only, SO_ACCEPTCONN) == 0 && listen(only, 1) == 0);
	at = name_of(fresh);
	socklen_t size = sizeof timeout;
	CHECK(at.svm_port == VMADDR_PORT_ANY && getsockopt(fresh, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW, &timeout, &size) == 0 && timeout.tv_sec == 7);
	/* The name is taken: nobody else gets it. */
	at = name_of(listener);
	CHECK(bind(fresh, (struct sockaddr *)&at, sizeof at) == -1 && errno == EADDRINUSE);
	return finish();
}
