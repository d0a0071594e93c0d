/* See pin.h. Plain C with libc alone: also part of a static program. */
#define _GNU_SOURCE
#include "pin.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

const struct kind_name kinds[KINDS] = {
	[KIND_USER] = { "user", 'U', CLONE_NEWUSER },
	[KIND_NET] = { "net", 'n', CLONE_NEWNET },
	[KIND_IPC] = { "ipc", 'i', CLONE_NEWIPC },
	[KIND_UTS] = { "uts", 'u', CLONE_NEWUTS },
	[KIND_CGROUP] = { "cgroup", 'c', CLONE_NEWCGROUP },
	[KIND_MOUNT] = { "mnt", 'm', CLONE_NEWNS },
};

const char *pin_bad_sysctl(char *key, const char *value)
{
	if (key[0] == '\0' || key[0] == '/' || key[0] == '.' || strstr(key, "..") != NULL || strstr(key, "//") != NULL)
		return "not a sysctl name";
	if (strchr(value, '\n') != NULL)
		return "a sysctl value has a line break";
	bool slashes = strchr(key, '/') != NULL && strcspn(key, "/") < strcspn(key, ".");
	for (char *at = key; *at != '\0' && !slashes; at++) {
		/* net.ipv4.conf.eth0/1.forwarding: a slash stands for a dot inside a name. */
		*at = *at == '.' ? '/' : *at == '/' ? '.' : *at;
	}
	return strstr(key, "..") != NULL ? "not a sysctl name" : NULL;
}

/* The namespace that a sysctl belongs to; KINDS if it is the whole machine's. */
static enum kind kind_of_sysctl(const char *key)
{
	static const struct {
		const char *prefix;
		enum kind kind;
	} owners[] = {
		{ "net/", KIND_NET }, { "kernel/shm", KIND_IPC }, { "kernel/msg", KIND_IPC }, { "kernel/sem", KIND_IPC },
		{ "fs/mqueue/", KIND_IPC }, { "kernel/hostname", KIND_UTS }, { "kernel/domainname", KIND_UTS },
	};
	for (size_t i = 0; i < sizeof owners / sizeof *owners; i++)
		if (strncmp(key, owners[i].prefix, strlen(owners[i].prefix)) == 0)
			return owners[i].kind;
	return KINDS;
}

const struct sysctl *pin_foreign_sysctl(const struct pin *p)
{
	for (size_t i = 0; i < p->sysctls_count; i++) {
		enum kind kind = kind_of_sysctl(p->sysctls[i].key);
		if (kind == KINDS || !p->wanted[kind])
			return &p->sysctls[i];
	}
	return NULL;
}

static int failed(struct pin *p, const char *what, int err)
{
	p->failed = what;
	return -err;
}

/* --- making */

static int write_once(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return -errno;
	size_t len = strlen(text);
	ssize_t n = write(fd, text, len);
	int r = n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
	close(fd);
	return r;
}

static int set_sysctls(struct pin *p)
{
	for (size_t i = 0; i < p->sysctls_count; i++) {
		const struct sysctl *each = &p->sysctls[i];
		char path[PATH_MAX];
		int n = snprintf(path, sizeof path, "/proc/sys/%s", each->key);
		int r = n < 0 || (size_t)n >= sizeof path ? -ENAMETOOLONG : write_once(path, each->value);
		if (r < 0) {
			snprintf(p->detail, sizeof p->detail, "%.1000s = %.200s", each->key, each->value);
			return failed(p, "sysctl", -r);
		}
	}
	return 0;
}

static int bring_up_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int r = ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
	close(fd);
	return r;
}

int pin_make(struct pin *p)
{
	int flags = 0;
	for (int k = 0; k < KINDS; k++)
		if (p->wanted[k] && k != KIND_USER)
			flags |= kinds[k].flag;
	if (unshare(flags) < 0)
		return failed(p, "unshare", errno);
	if (p->hostname != NULL && p->hostname[0] != '\0' && sethostname(p->hostname, strlen(p->hostname)) < 0) {
		snprintf(p->detail, sizeof p->detail, "%.200s", p->hostname);
		return failed(p, "set hostname", errno);
	}
	int r = p->wanted[KIND_NET] && p->loopback ? bring_up_loopback() : 0;
	return r < 0 ? failed(p, "bring up lo", -r) : set_sysctls(p);
}

/* --- pinning */

static int pin(const char *ns_dir, const char *name, const char *path)
{
	char source[64];
	int fd = open(path, O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	close(fd);
	snprintf(source, sizeof source, "%s/%s", ns_dir, name);
	return mount(source, path, NULL, MS_BIND, NULL) < 0 ? -errno : 0;
}

static void unpin(const char *path)
{
	(void)umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
	(void)unlink(path);
}

int pin_all(struct pin *p, const char *ns_dir)
{
	for (int k = 0; k < KINDS; k++) {
		if (!p->wanted[k])
			continue;
		int r = pin(ns_dir, kinds[k].name, p->path[k]);
		if (r == 0)
			continue;
		snprintf(p->detail, sizeof p->detail, "%s namespace at %s", kinds[k].name, p->path[k]);
		if (r != -EEXIST)
			unpin(p->path[k]);
		while (--k >= 0)
			if (p->wanted[k])
				unpin(p->path[k]);
		return failed(p, "pin", -r);
	}
	return 0;
}
