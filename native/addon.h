/*
 * The whole internal interface of the addon.
 *
 * N-API lives in addon.c (results, errors, asynchronous calls), call.c (arguments) and watch.c (the event
 * loop); everything else is plain C that gets a struct call with parsed arguments and leaves its result
 * there. A sys_ function returns 0 or
 * -errno, and names the system call that failed with call_fail(). It may run on the calling JavaScript thread
 * or on a thread of jobs.c, and must not care.
 */
#ifndef BERTH_ADDON_H
#define BERTH_ADDON_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#define ARGS_MAX 12

/* One argument, by the letter of its signature: i = number; s, b = text, len; S, B = list of text; I = numbers. */
struct text {
	const char *data; /* NUL-terminated */
	size_t len;
};
struct arg {
	int64_t i;
	struct text text;
	union {
		const struct text *list;
		const int64_t *numbers;
	};
	size_t count;
};

/* Memory of one call: freed at its end. */
struct block {
	struct block *next;
};

struct call {
	const struct function *function;
	struct arg arg[ARGS_MAX];
	struct block *blocks;
	char *inline_at;
	size_t inline_left;

	/* Result, by the function's result letter. */
	bool absent;       /* any: JavaScript gets undefined */
	int64_t number;    /* n */
	int64_t *numbers;  /* N, p, f: malloc'ed */
	size_t numbers_count;
	char *bytes;       /* y, p, f: malloc'ed */
	size_t bytes_count;

	/* Error. */
	int error;
	const char *failed;
	char detail[200]; /* what the kernel or we have to add; may be empty */

	char inline_space[2048];
};

/* Where a function may run. */
enum place { ANYWHERE, ONLY_SYNC, ONLY_ASYNC };

struct function {
	const char *name;
	const char *args; /* one letter each */
	char result;      /* v n N y p f */
	enum place place;
	int (*run)(struct call *c);
};

/* Arena of the call. NULL when out of memory. */
void *call_alloc(struct call *c, size_t size);
/* Remembers which system call failed; returns -err. */
int call_fail(struct call *c, const char *failed, int err);
/* Results. Return 0 or -ENOMEM. */
int call_numbers(struct call *c, const int64_t *numbers, size_t count);
int call_bytes(struct call *c, const void *bytes, size_t count);

/* Growing bytes and numbers for results. */
struct buffer {
	char *data;
	size_t len, room;
};
int buffer_add(struct buffer *b, const void *data, size_t len);
/* Appends a file, cut at max bytes. Its length or -errno. */
int64_t append_file(struct buffer *b, const char *path, size_t max);

static inline void close_fd(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
	*fd = -1;
}
static inline void free_pointer(void *p)
{
	free(*(void **)p);
}
static inline void buffer_free(struct buffer *b)
{
	free(b->data);
}
#define CLEAN_FD __attribute__((cleanup(close_fd))) int
#define CLEAN_PTR __attribute__((cleanup(free_pointer)))
#define CLEAN_BUFFER __attribute__((cleanup(buffer_free))) struct buffer

/* Hands a descriptor out of its cleanup. */
static inline int take_fd(int *fd)
{
	int taken = *fd;
	*fd = -1;
	return taken;
}

/* --- jobs.c: threads for what may block ---------- */

struct job {
	struct job *next;
	void (*run)(struct job *job);
};

/* Runs the job on a thread of the common pool. 0 or -errno (no thread can be had). */
int jobs_submit(struct job *job);
/* As jobs_submit, on the thread of a launcher; -ENOENT if it is closed. */
int launcher_submit(int64_t launcher, struct job *job);
/* Makes the current thread leave after this job: it could not be restored to what it was. */
void jobs_spoil_thread(void);
/* cgroup v2 directory of the launcher whose thread this is, or -1. */
int launcher_cgroup_fd(void);
int sys_open_launcher(struct call *c);
int sys_close_launcher(struct call *c);

/* --- system calls that libc lacks or has only lately ---------- */

int sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
/* /proc/self/fd/<fd>: a path for calls that take none but paths. */
struct fd_path {
	char text[32];
};
struct fd_path fd_path(int fd);
int write_file(const char *path, const char *data, size_t len);

/* --- sys_proc.c: processes; sys_ns.c: in other namespaces for a moment */
/* Moves this thread to another network namespace; *home (-1 at first) is where it was. 0 or -errno. */
int netns_enter(int *home, const char *path);
/* Back to where it was; a thread that cannot go back leaves after its job. */
void netns_leave(int *home);
#define CLEAN_NETNS __attribute__((cleanup(netns_leave))) int
int sys_spawn(struct call *c);
int sys_pidfd_open(struct call *c);
int sys_pidfd_signal(struct call *c);
int sys_pidfd_reap(struct call *c);
int sys_ended_children(struct call *c);
int sys_set_subreaper(struct call *c);
int sys_favour_thread(struct call *c);
int sys_pin_namespaces(struct call *c);
int sys_connect_in_netns(struct call *c);
int sys_connect_outcome(struct call *c);
int sys_user_namespace(struct call *c);
int sys_count_fds(struct call *c);

/* --- sys_mount.c */
int sys_mount_fs(struct call *c);
int sys_mount_overlay(struct call *c);
int sys_mount_bind(struct call *c);
int sys_unmount(struct call *c);
/* Where children open a /dev/null that they cannot change. */
const char *null_device(void);

/* --- sys_seccomp.c */
int sys_refuse_call(struct call *c);

/* --- sys_net.c */
int sys_forget_udp(struct call *c);

/* --- sys_fd.c */
int sys_pipe(struct call *c);
int sys_socket_pair(struct call *c);
int sys_connect_unix(struct call *c);
int sys_listen_unix(struct call *c);
int sys_accept_unix(struct call *c);
int sys_receive_fd(struct call *c);
int sys_read(struct call *c);
int sys_write(struct call *c);
int sys_shutdown_write(struct call *c);
int sys_set_window_size(struct call *c);
int sys_lock(struct call *c);
int sys_send_datagram(struct call *c);
int sys_inotify(struct call *c);
int sys_close(struct call *c);
int sys_read_files(struct call *c);
int sys_read_kernel_files(struct call *c);
int sys_open_kernel_files(struct call *c);
int sys_read_open_files(struct call *c);
int sys_close_all(struct call *c);
int sys_fd_path(struct call *c);
int sys_sync_fs(struct call *c);
int sys_spread_directories(struct call *c);
int sys_stat_fs(struct call *c);

/* --- sys_path.c: one object below a root; sys_entry.c: entries of a layer; sys_tree.c: whole trees; sys_host.c */
int sys_open_root(struct call *c);
int sys_open_at(struct call *c);
int sys_read_file_at(struct call *c);
int sys_stat_at(struct call *c);
int sys_read_link_at(struct call *c);
int sys_make_dirs_at(struct call *c);
int sys_write_entry(struct call *c);
int sys_begin_file(struct call *c);
int sys_finish_entry(struct call *c);
int sys_link_at(struct call *c);
int sys_symlink_at(struct call *c);
int sys_mknod_at(struct call *c);
int sys_rename_at(struct call *c);
int sys_unlink_at(struct call *c);
int sys_chown_at(struct call *c);
int sys_chmod_at(struct call *c);
int sys_utimes_at(struct call *c);
int sys_set_xattr_at(struct call *c);
int sys_get_xattr_at(struct call *c);
int sys_list_xattr_at(struct call *c);
int sys_remove_xattr_at(struct call *c);

int sys_list_at(struct call *c);
int sys_remove_tree_at(struct call *c);
int sys_copy_tree(struct call *c);
int sys_tree_usage(struct call *c);
int sys_probe(struct call *c);
int sys_devices(struct call *c);

/* The directory of a path and its last name: what the calls that end in "at" want. */
struct place_in_tree {
	int dir_fd;
	bool owned; /* dir_fd is to be closed */
	char *name;
	char path[4096];
};
/* A path relative to the root, without slashes at either end; the root itself is ".". 0 or -ENAMETOOLONG. */
int clean_path(const struct text *path, char ret[4096]);
/* Whether a name is empty, "." or "..". */
bool odd_name(const char *name, size_t len);
/* -EINVAL for a path with an odd name where resolve says that there is none (RESOLVE_BENEATH). */
int check_names(const char *path, uint64_t resolve);
int place_find(int root, const struct text *path, uint64_t resolve, struct place_in_tree *ret);
static inline void place_done(struct place_in_tree *p)
{
	if (p->owned)
		close_fd(&p->dir_fd);
}
#define CLEAN_PLACE __attribute__((cleanup(place_done))) struct place_in_tree
/*
 * Opens the object itself (O_PATH, link at the end not followed). '' with resolve 0: a duplicate of root. fd
 * or -errno.
 */
int object_open(int root, const struct text *path, uint64_t resolve, uint64_t flags);
/* 13 numbers as RawStat of index.d.ts. 0 or -errno. */
int object_stat(int fd, const char *path, int flags, int64_t ret[13]);
/* A stream over a directory below dir, found as `resolve` (RESOLVE_*) says; NULL with errno. */
DIR *open_dir(int dir, const char *name, uint64_t resolve);
void close_dir(DIR **dir);
#define CLEAN_DIR __attribute__((cleanup(close_dir))) DIR
/* The next name but . and ..; NULL with errno, which is 0 at the end. */
struct dirent *next_entry(DIR *stream);
/* Removes name in dir, whatever it is, without crossing a mount. 0 or -errno. */
int tree_remove(int dir, const char *name);

/* --- call.c */
#include <node_api.h>
void call_init(struct call *c, const struct function *function);
void call_free(struct call *c);
/* The arguments of a call; with copy also those that would move when JavaScript runs on. 0 or -errno. */
int args_from(napi_env env, napi_callback_info info, struct call *c, bool copy);

/* --- watch.c */
struct watches;
struct uv_loop_s;
struct watches *watches_new(napi_env env, struct uv_loop_s *loop);
/* Closes all that are left and frees; calls done(arg) once the loop has let go of them. */
void watches_close(struct watches *w, void (*done)(void *arg), void *arg);
napi_value watch_open(napi_env env, napi_callback_info info);
napi_value watch_arm(napi_env env, napi_callback_info info);
napi_value watch_close(napi_env env, napi_callback_info info);
void throw_errno(napi_env env, int err, const char *failed, const char *detail);

#endif
