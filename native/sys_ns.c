/*
 * What needs a thread to be in another namespace for a moment: sockets, pinned namespaces, user namespaces.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "addon.h"
#include "pin.h"

/* --- in another network namespace
 *
 * Namespaces belong to threads. These run on a thread of jobs.c only; one that cannot be brought back leaves.
 */
int netns_enter(int *home, const char *path)
{
	CLEAN_FD there = open(path, O_RDONLY | O_CLOEXEC);
	if (there < 0)
		return -errno;
	if (*home < 0)
		*home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	return *home < 0 || setns(there, CLONE_NEWNET) < 0 ? -errno : 0;
}

void netns_leave(int *home)
{
	if (*home >= 0 && setns(*home, CLONE_NEWNET) < 0)
		jobs_spoil_thread();
	close_fd(home);
}

static int socket_in_netns(struct call *c, const char *netns, int domain, int type)
{
	CLEAN_NETNS home = -1;
	int r = netns_enter(&home, netns);
	if (r < 0)
		return call_fail(c, "setns", -r);
	int fd = socket(domain, type | SOCK_CLOEXEC, 0);
	return fd < 0 ? call_fail(c, "socket", errno) : fd;
}

static int kind_from(const char *name)
{
	for (int k = 0; k < KINDS; k++)
		if (strcmp(kinds[k].name, name) == 0)
			return k;
	return KINDS;
}

static int pin_sysctls(struct call *c, struct pin *p, const struct arg *keys, const struct arg *values)
{
	p->sysctls = call_alloc(c, (keys->count + 1) * sizeof *p->sysctls);
	if (p->sysctls == NULL || keys->count != values->count)
		return call_fail(c, "sysctl", p->sysctls == NULL ? ENOMEM : EINVAL);
	for (size_t i = 0; i < keys->count; i++) {
		char *key = (char *)(uintptr_t)keys->list[i].data; /* a copy of the call's own */
		const char *bad = pin_bad_sysctl(key, values->list[i].data);
		if (bad != NULL) {
			snprintf(c->detail, sizeof c->detail, "%s: %.100s", bad, key);
			return call_fail(c, "sysctl", EINVAL);
		}
		p->sysctls[p->sysctls_count++] = (struct sysctl){ key, values->list[i].data };
	}
	const struct sysctl *foreign = pin_foreign_sysctl(p);
	if (foreign == NULL)
		return 0;
	snprintf(c->detail, sizeof c->detail, "this would change the host, or a namespace that is not made here: %.100s",
		 foreign->key);
	return call_fail(c, "sysctl", EINVAL);
}

struct home {
	int fds[KINDS];
};

static void home_close(struct home *home)
{
	for (int k = 0; k < KINDS; k++)
		close_fd(&home->fds[k]);
}

static int home_open(struct home *home, const struct pin *p)
{
	int r = 0;
	for (int k = 0; k < KINDS; k++) {
		char path[48];
		snprintf(path, sizeof path, "/proc/thread-self/ns/%s", kinds[k].name);
		home->fds[k] = p->wanted[k] ? open(path, O_RDONLY | O_CLOEXEC) : -1;
		if (p->wanted[k] && home->fds[k] < 0)
			r = -errno;
	}
	return r;
}

static void home_return(const struct home *home)
{
	for (int k = 0; k < KINDS; k++)
		if (home->fds[k] >= 0 && setns(home->fds[k], kinds[k].flag) < 0)
			jobs_spoil_thread();
}

static int make_and_pin(struct pin *p)
{
	int r = pin_make(p);
	return r < 0 ? r : pin_all(p, "/proc/thread-self/ns");
}

/* The thread is in the new namespaces for a moment only; their mounts hold them. */
int sys_pin_namespaces(struct call *c)
{
	__attribute__((cleanup(home_close))) struct home home;
	struct pin p = { .hostname = c->arg[2].text.data, .loopback = true };
	memset(&home, -1, sizeof home);
	for (size_t i = 0; i < c->arg[0].count; i++) {
		int kind = kind_from(c->arg[0].list[i].data);
		/* A thread of a process gets into neither, and could not come back from the latter. */
		if (kind == KINDS || kind == KIND_USER || kind == KIND_MOUNT || c->arg[0].count != c->arg[1].count)
			return call_fail(c, "pin", EINVAL);
		p.wanted[kind] = true;
		p.path[kind] = c->arg[1].list[i].data;
	}
	int r = pin_sysctls(c, &p, &c->arg[3], &c->arg[4]);
	if (r < 0)
		return r;
	r = home_open(&home, &p);
	if (r < 0)
		return call_fail(c, "open namespaces", -r);
	r = make_and_pin(&p);
	home_return(&home);
	if (r == 0)
		return 0;
	snprintf(c->detail, sizeof c->detail, "%.190s", p.detail);
	return call_fail(c, p.failed, -r);
}

static int parse_address(const char *host, int64_t port, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	memset(ret, 0, sizeof *ret);
	if (port < 1 || port > 65535)
		return -EINVAL;
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		*ret_len = sizeof *v4;
		return 0;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		*ret_len = sizeof *v6;
		return 0;
	}
	return -EINVAL;
}

/*
 * The descriptor may still be connecting: whoever waits must not hold a thread, since whoever listens decides
 * how long it takes.
 */
int sys_connect_in_netns(struct call *c)
{
	struct sockaddr_storage address;
	socklen_t len = 0;
	if (parse_address(c->arg[1].text.data, c->arg[2].i, &address, &len) < 0)
		return call_fail(c, "inet_pton", EINVAL);
	CLEAN_FD fd = socket_in_netns(c, c->arg[0].text.data, address.ss_family, SOCK_STREAM | SOCK_NONBLOCK);
	if (fd < 0)
		return fd;
	if (connect(fd, (const struct sockaddr *)&address, len) < 0 && errno != EINPROGRESS)
		return call_fail(c, "connect", errno);
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int));
	c->number = take_fd(&fd);
	return 0;
}

int sys_connect_outcome(struct call *c)
{
	struct pollfd poll_fd = { .fd = (int)c->arg[0].i, .events = POLLOUT };
	int r = poll(&poll_fd, 1, 0);
	if (r <= 0)
		return call_fail(c, "connect", r == 0 ? ETIMEDOUT : errno);
	int err = 0;
	socklen_t size = sizeof err;
	if (getsockopt(poll_fd.fd, SOL_SOCKET, SO_ERROR, &err, &size) < 0)
		return call_fail(c, "getsockopt", errno);
	return err == 0 ? 0 : call_fail(c, "connect", err);
}

/* --- user namespaces */

/*
 * Holds the namespace while its maps are written. Shares our memory: does nothing but system calls that never
 * return.
 */
static int hold_namespace(void *arg)
{
	(void)arg;
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	while (syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0) != 0)
		;
	return 0;
}

static int write_map(long pid, const char *name, const struct arg *map)
{
	char path[48], text[4096];
	size_t len = 0;
	if (map->count == 0 || map->count % 3 != 0)
		return -EINVAL;
	for (size_t i = 0; i < map->count; i += 3) {
		int n = snprintf(text + len, sizeof text - len, "%lld %lld %lld\n", (long long)map->numbers[i],
				 (long long)map->numbers[i + 1], (long long)map->numbers[i + 2]);
		if (n < 0 || (size_t)n >= sizeof text - len)
			return -E2BIG;
		len += (size_t)n;
	}
	snprintf(path, sizeof path, "/proc/%ld/%s", pid, name);
	return write_file(path, text, len);
}

int sys_user_namespace(struct call *c)
{
	_Alignas(16) char stack[16 * 1024];
	sigset_t all, before;
	char path[48];
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int pid = clone(hold_namespace, stack + sizeof stack, CLONE_VM | CLONE_NEWUSER | SIGCHLD, NULL);
	int err = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return call_fail(c, "clone user namespace", err);
	int r = write_map(pid, "uid_map", &c->arg[0]);
	if (r == 0)
		r = write_map(pid, "gid_map", &c->arg[1]);
	snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
	int fd = r < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	if (r == 0 && fd < 0)
		r = -errno;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (r < 0)
		return call_fail(c, "write id map", -r);
	c->number = fd;
	return 0;
}
