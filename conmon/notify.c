/*
 * The sd-notify relay: <bundle>/notify/notify.sock is mounted into the container, and what comes
 * there goes on to the host's service manager. Only what describes the service's own state passes:
 * a container may not, say, push file descriptors or change the watchdog of the host's unit.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MESSAGE_MAX = 4096 };

static bool may_pass(const char *line, size_t len)
{
	static const char *const whole[] = {
		"READY=1", "RELOADING=1", "STOPPING=1", "WATCHDOG=1", "WATCHDOG=trigger",
	};
	static const char *const prefixes[] = { "STATUS=", "ERRNO=", "BUSERROR=", "MONOTONIC_USEC=" };

	for (size_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++)
		if (strlen(whole[i]) == len && memcmp(line, whole[i], len) == 0)
			return true;
	for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++)
		if (len >= strlen(prefixes[i]) && memcmp(line, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

/* Leaves in message only the lines that may pass; returns their length, 0 if none may. */
size_t notify_filter(char *message, size_t len)
{
	size_t kept = 0, start = 0;

	for (size_t i = 0; i <= len; i++) {
		if (i < len && message[i] != '\n' && message[i] != '\r' && message[i] != '\0')
			continue;
		if (may_pass(message + start, i - start)) {
			if (kept > 0)
				message[kept++] = '\n';
			memmove(message + kept, message + start, i - start);
			kept += i - start;
		}
		start = i + 1;
	}
	return kept;
}

static void on_notify(struct conmon *c, struct source *source, uint32_t events)
{
	char message[MESSAGE_MAX];
	ssize_t n = recv(source->fd, message, sizeof(message), MSG_DONTWAIT);
	size_t len = n > 0 ? notify_filter(message, (size_t)n) : 0;
	int fd;

	(void)events;
	if (len == 0)
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || sendto(fd, message, len, MSG_NOSIGNAL, (struct sockaddr *)&c->notify_host,
			     c->notify_host_len) < 0)
		note(LEVEL_WARN, "cannot pass a notification to the host: %s, ignoring", strerror(errno));
	close_fd(&fd);
}

static int set_host(struct conmon *c)
{
	size_t len = strlen(c->opt.sdnotify_socket);

	if (len == 0 || len >= sizeof(c->notify_host.sun_path))
		return fail(c, EINVAL, "--sdnotify-socket must have 1 to %zu bytes", sizeof(c->notify_host.sun_path) - 1);
	c->notify_host.sun_family = AF_UNIX;
	memcpy(c->notify_host.sun_path, c->opt.sdnotify_socket, len + 1);
	c->notify_host_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
	if (c->notify_host.sun_path[0] == '@') {
		c->notify_host.sun_path[0] = '\0';
		c->notify_host_len--;
	}
	return 0;
}

/* With --sdnotify-socket: makes the container's end, open to every user in there. */
int notify_open(struct conmon *c)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int r;

	if (!c->opt.sdnotify_socket)
		return 0;
	r = set_host(c);
	if (r < 0)
		return r;
	if (c->bundle_fd < 0)
		c->bundle_fd = open(c->opt.bundle ? c->opt.bundle : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (c->bundle_fd < 0)
		return fail(c, errno, "cannot open the bundle for the notify socket");
	if (mkdirat(c->bundle_fd, "notify", 0755) < 0 && errno != EEXIST)
		return fail(c, errno, "cannot make the directory of the notify socket");
	c->notify.ready = on_notify;
	c->notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->notify.fd < 0)
		return fail(c, errno, "cannot make the notify socket");
	(void)unlinkat(c->bundle_fd, "notify/notify.sock", 0);
	(void)snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/notify/notify.sock", c->bundle_fd);
	if (bind(c->notify.fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    fchmodat(c->bundle_fd, "notify/notify.sock", 0777, 0) < 0)
		return fail(c, errno, "cannot bind the notify socket");
	return loop_add(c, &c->notify, EPOLLIN);
}
