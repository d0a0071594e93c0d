/*
 * Threads for calls that may block: made when needed, kept while there is work, gone after some idle seconds.
 *
 * libuv's pool has four threads for the whole process, and four stats of a dead NFS mount end all file and
 * DNS work in it. Here a hung call costs one thread of many. A launcher is a pool of one thread that lives in
 * cgroups of its own: children are born in the cgroups of the thread that makes them, and that spares the
 * milliseconds of moving each one.
 */
#define _GNU_SOURCE
#include <linux/magic.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>

#include "addon.h"

/* More hung calls than this, and later ones wait: by then every volume of the node is dead. */
#define THREADS_MAX 64
#define IDLE_SECONDS 5
/* Recursion into deep trees is bounded; see TREE_DEPTH_MAX in sys_tree.c. */
#define STACK_BYTES (1024 * 1024)
#define LAUNCHERS_MAX 16

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct job *head, **tail;
	unsigned threads, busy, queued, threads_max;
	bool lasting; /* threads never leave for idleness */
	bool closing;
	int cgroup_fd; /* v2 directory for CLONE_INTO_CGROUP, or -1 */
};

static struct pool common = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.tail = &common.head,
	.threads_max = THREADS_MAX,
	.cgroup_fd = -1,
};

static pthread_mutex_t launchers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pool *launchers[LAUNCHERS_MAX];

static _Thread_local bool spoiled;
static _Thread_local struct pool *home;

void jobs_spoil_thread(void)
{
	spoiled = true;
}

int launcher_cgroup_fd(void)
{
	return home != NULL ? home->cgroup_fd : -1;
}

/* Waits for a job; NULL when this thread shall leave. Called with the lock held. */
static struct job *pool_take(struct pool *pool)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += IDLE_SECONDS;
	while (pool->head == NULL && !pool->closing) {
		int r = 0;
		if (pool->lasting)
			pthread_cond_wait(&pool->wake, &pool->lock);
		else
			r = pthread_cond_timedwait(&pool->wake, &pool->lock, &until);
		if (r == ETIMEDOUT && pool->head == NULL)
			return NULL;
	}
	struct job *job = pool->head;
	if (job == NULL)
		return NULL;
	pool->head = job->next;
	if (pool->head == NULL)
		pool->tail = &pool->head;
	pool->queued--;
	pool->busy++;
	return job;
}

static int pool_grow(struct pool *pool);

static void *pool_thread(void *arg)
{
	struct pool *pool = arg;
	home = pool;
	/* So that `top -H` tells them from the event loop, whose name they would have. */
	(void)pthread_setname_np(pthread_self(), pool->lasting ? "launcher" : "syscalls");
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct job *job = pool_take(pool);
		if (job == NULL)
			break;
		pthread_mutex_unlock(&pool->lock);
		job->run(job);
		pthread_mutex_lock(&pool->lock);
		pool->busy--;
		if (spoiled)
			break;
	}
	pool->threads--;
	/* Nobody is made in the place of a thread that is spoiled: it would make its like. The next job makes one. */
	bool last = pool->closing && pool->threads == 0;
	pthread_mutex_unlock(&pool->lock);
	if (last) {
		close_fd(&pool->cgroup_fd);
		free(pool);
	}
	return NULL;
}

/* One more thread, with every signal blocked: signals are for the main thread. Called with the lock held. */
static int pool_grow(struct pool *pool)
{
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pool->threads++;
	int r = pthread_create(&thread, &attr, pool_thread, pool);
	if (r != 0)
		pool->threads--;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

static int pool_submit(struct pool *pool, struct job *job)
{
	int r = 0;
	pthread_mutex_lock(&pool->lock);
	/* Every job gets a thread of its own that is free now: it must not wait behind one that may hang. */
	if (pool->queued + 1 > pool->threads - pool->busy && pool->threads < pool->threads_max)
		r = pool_grow(pool);
	if (pool->threads > 0) {
		/* Somebody will take it, now or later. */
		r = 0;
		job->next = NULL;
		*pool->tail = job;
		pool->tail = &job->next;
		pool->queued++;
		pthread_cond_signal(&pool->wake);
	}
	pthread_mutex_unlock(&pool->lock);
	return r;
}

int jobs_submit(struct job *job)
{
	return pool_submit(&common, job);
}

int launcher_submit(int64_t launcher, struct job *job)
{
	int r = -ENOENT;
	pthread_mutex_lock(&launchers_lock);
	if (launcher >= 1 && launcher <= LAUNCHERS_MAX && launchers[launcher - 1] != NULL)
		r = pool_submit(launchers[launcher - 1], job);
	pthread_mutex_unlock(&launchers_lock);
	return r;
}

/* --- launchers */

struct entering {
	struct job job;
	const struct text *dirs;
	size_t count;
	struct pool *pool;
	int error;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t finished;
};

/* v1: this thread alone moves (`tasks`). v2 has no place for single threads: remembered for CLONE_INTO_CGROUP. */
static int enter_cgroup(struct pool *pool, const char *dir)
{
	CLEAN_FD fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;
	char tid[24];
	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_type == CGROUP2_SUPER_MAGIC) {
		close_fd(&pool->cgroup_fd);
		pool->cgroup_fd = take_fd(&fd);
		return 0;
	}
	CLEAN_FD tasks = openat(fd, "tasks", O_WRONLY | O_CLOEXEC);
	int n = snprintf(tid, sizeof tid, "%ld", syscall(SYS_gettid));
	if (tasks < 0 || write(tasks, tid, (size_t)n) < 0)
		return -errno;
	return 0;
}

static void enter_all(struct job *job)
{
	struct entering *e = (struct entering *)job;
	int r = 0;
	for (size_t i = 0; i < e->count && r == 0; i++)
		r = enter_cgroup(e->pool, e->dirs[i].data);
	pthread_mutex_lock(&e->lock);
	e->error = r;
	e->done = true;
	pthread_cond_signal(&e->finished);
	pthread_mutex_unlock(&e->lock);
}

static struct pool *launcher_new(void)
{
	struct pool *pool = calloc(1, sizeof *pool);
	if (pool == NULL)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	pool->tail = &pool->head;
	pool->threads_max = 1;
	pool->lasting = true;
	pool->cgroup_fd = -1;
	return pool;
}

/* The last thread frees the pool. */
static void launcher_leave(struct pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->closing = true;
	bool empty = pool->threads == 0;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	if (empty) {
		close_fd(&pool->cgroup_fd);
		free(pool);
	}
}

static int launcher_enter(struct pool *pool, const struct text *dirs, size_t count)
{
	struct entering e = { .job.run = enter_all, .dirs = dirs, .count = count, .pool = pool };
	pthread_mutex_init(&e.lock, NULL);
	pthread_cond_init(&e.finished, NULL);
	int r = pool_submit(pool, &e.job);
	if (r < 0)
		return r;
	pthread_mutex_lock(&e.lock);
	while (!e.done)
		pthread_cond_wait(&e.finished, &e.lock);
	pthread_mutex_unlock(&e.lock);
	return e.error;
}

static int launcher_register(struct pool *pool)
{
	int found = -EMFILE;
	pthread_mutex_lock(&launchers_lock);
	for (int i = 0; i < LAUNCHERS_MAX && found < 0; i++) {
		if (launchers[i] == NULL) {
			launchers[i] = pool;
			found = i + 1;
		}
	}
	pthread_mutex_unlock(&launchers_lock);
	return found;
}

int sys_open_launcher(struct call *c)
{
	struct pool *pool = launcher_new();
	if (pool == NULL)
		return call_fail(c, "malloc", ENOMEM);
	int r = launcher_enter(pool, c->arg[0].list, c->arg[0].count);
	if (r == 0)
		r = launcher_register(pool);
	if (r < 0) {
		launcher_leave(pool);
		return call_fail(c, "enter cgroup", -r);
	}
	c->number = r;
	return 0;
}

int sys_close_launcher(struct call *c)
{
	int64_t id = c->arg[0].i;
	struct pool *pool = NULL;
	pthread_mutex_lock(&launchers_lock);
	if (id >= 1 && id <= LAUNCHERS_MAX) {
		pool = launchers[id - 1];
		launchers[id - 1] = NULL;
	}
	pthread_mutex_unlock(&launchers_lock);
	if (pool != NULL)
		launcher_leave(pool);
	return 0;
}
