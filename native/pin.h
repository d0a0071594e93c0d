/*
 * Namespaces made by the calling thread and pinned by bind mounts, so that a pod needs no process to hold
 * them. pinns does it in a process of its own, the addon on a thread that goes back afterwards.
 *
 * Functions return 0 or -errno; what failed is in `failed` and `detail` then.
 */
#ifndef BERTH_PIN_H
#define BERTH_PIN_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

enum kind { KIND_USER, KIND_NET, KIND_IPC, KIND_UTS, KIND_CGROUP, KIND_MOUNT, KINDS };

struct kind_name {
	const char *name; /* in /proc/<pid>/ns, and long option of pinns */
	char letter;      /* CRI-O's flag */
	int flag;
};
extern const struct kind_name kinds[KINDS];

struct sysctl {
	char *key; /* as a path below /proc/sys */
	const char *value;
};

struct pin {
	const char *path[KINDS]; /* where to pin; a file that is not there yet */
	bool wanted[KINDS];
	const char *hostname; /* for the new UTS namespace; NULL or "" leaves it */
	bool loopback;        /* bring up lo in the new network namespace */
	struct sysctl *sysctls;
	size_t sysctls_count;

	const char *failed;
	char detail[PATH_MAX + 40];
};

/*
 * Makes a sysctl's name, in place, a path below /proc/sys, and checks that name and value can be nothing
 * else. NULL if so, else what is wrong: dots are separators, or slashes if one comes first, as sysctl(8) has
 * it; a value has one line (CVE-2022-0811).
 */
const char *pin_bad_sysctl(char *key, const char *value);

/* The first sysctl that would change the host or a namespace not made here (CVE-2022-0532), NULL if there is none. */
const struct sysctl *pin_foreign_sysctl(const struct pin *p);

/* Unshares what is wanted, but for the user namespace, which the caller is in already, and sets it up. */
int pin_make(struct pin *p);

/* Pins what is wanted from a directory of /proc ("/proc/thread-self/ns"). All or none. */
int pin_all(struct pin *p, const char *ns_dir);

#endif
