/*
 * System calls that a seccomp profile tells of instead of refusing them (SECCOMP_RET_USER_NOTIF): whoever made one
 * waits until it is answered here.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include <asm/unistd.h>

#include "addon.h"

struct name {
	int number;
	const char *name;
};

/* Made by the Makefile of what the compiler's headers have. */
static const struct name own_names[] = {
#include "syscalls.inc"
};
#if defined(__x86_64__)
static const struct name compat_names[] = {
#include "syscalls-32.inc"
};
#define OWN_ARCH AUDIT_ARCH_X86_64
#define COMPAT_ARCH AUDIT_ARCH_I386
/* The bit of x32, whose calls are those of x86_64. */
#define NUMBER_MASK 0x3fffffff
#else
static const struct name compat_names[1];
#if defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#else
#define OWN_ARCH 0
#endif
#define COMPAT_ARCH 1
#define NUMBER_MASK 0x7fffffff
#endif

static const char *name_in(const struct name *names, size_t count, int number)
{
	for (size_t i = 0; i < count; i++)
		if (names[i].number == number && names[i].name != NULL)
			return names[i].name;
	return NULL;
}

static const char *name_of(const struct seccomp_data *data)
{
	int number = data->nr & NUMBER_MASK;
	if (data->arch == OWN_ARCH)
		return name_in(own_names, sizeof own_names / sizeof *own_names, number);
	if (data->arch == COMPAT_ARCH)
		return name_in(compat_names, sizeof compat_names / sizeof *compat_names, number);
	return NULL;
}

/* What the kernel writes may be longer than what the headers know of. */
union request {
	struct seccomp_notif is;
	char room[1024];
};
union answer {
	struct seccomp_notif_resp is;
	char room[1024];
};

int sys_refuse_call(struct call *c)
{
	union request request = { .room = { 0 } };
	union answer answer = { .room = { 0 } };
	char text[32];
	struct pollfd ready = { .fd = (int)c->arg[0].i, .events = POLLIN };
	if (poll(&ready, 1, 0) < 0)
		return call_fail(c, "poll", errno);
	/* To receive waits, also on a descriptor that says not to. */
	if ((ready.revents & POLLIN) == 0)
		return call_fail(c, "poll", (ready.revents & (POLLHUP | POLLERR | POLLNVAL)) != 0 ? EPIPE : EAGAIN);
	if (ioctl(ready.fd, SECCOMP_IOCTL_NOTIF_RECV, &request) < 0)
		/* ENOENT: who made the call has been killed meanwhile. */
		return call_fail(c, "ioctl", errno == ENOENT || errno == EINTR ? EAGAIN : errno);
	answer.is.id = request.is.id;
	answer.is.error = -ENOSYS;
	if (ioctl(ready.fd, SECCOMP_IOCTL_NOTIF_SEND, &answer) < 0 && errno != ENOENT)
		return call_fail(c, "ioctl", errno);
	const char *name = name_of(&request.is.data);
	int len = name != NULL ? snprintf(text, sizeof text, "%s", name) :
				 snprintf(text, sizeof text, "call %d", request.is.data.nr);
	return call_bytes(c, text, (size_t)len);
}
