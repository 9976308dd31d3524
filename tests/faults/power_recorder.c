/* Records what a process does to files below one folder, in order, for tests.faults.power_trace.

   Loaded by LD_PRELOAD into daemons, their workers and trainers; all of them append to one file. A lock around each
   call and its record makes the order of the records the order of the calls, across threads and processes.
   POWER_TRACE names the file, POWER_BELOW the folder. A call that fails is not recorded.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct record {
    char op; /* see tests/faults/power_trace.py */
    char pad[3];
    uint32_t path_bytes, to_bytes, data_bytes;
    uint64_t inode, at;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int trace_fd = -1;
static pid_t trace_pid = 0;
static const char *below = NULL;
static size_t below_bytes = 0;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static int is_watched(const char *path) {
    if (below == NULL) {
        below = getenv("POWER_BELOW");
        if (below == NULL) below = "";
        below_bytes = strlen(below);
    }
    return below_bytes > 0 && strncmp(path, below, below_bytes) == 0 &&
           (path[below_bytes] == '/' || path[below_bytes] == 0);
}

/* The path that `fd` has now, or an empty one. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, PATH_MAX - 1);
    path[size > 0 ? size : 0] = 0;
    return is_watched(path);
}

/* `name` as an absolute path, links in its folder resolved. */
static int path_at(int folder, const char *name, char *path) {
    char parent[PATH_MAX], whole[2 * PATH_MAX];
    if (name[0] == '/') {
        snprintf(whole, sizeof whole, "%s", name);
    } else {
        if (folder == AT_FDCWD) {
            if (getcwd(parent, sizeof parent) == NULL) return 0;
        } else {
            path_of(folder, parent);
        }
        snprintf(whole, sizeof whole, "%s/%s", parent, name);
    }
    char *last = strrchr(whole, '/');
    if (last == whole || strlen(whole) >= PATH_MAX) return 0;
    *last = 0;
    if (realpath(whole, parent) == NULL) return 0;
    if (snprintf(path, PATH_MAX, "%s/%s", parent, last + 1) >= PATH_MAX) return 0;
    return is_watched(path);
}

/* A thread that is between `begin` and `end` is the only one in any process. */
static void begin(void) {
    pthread_mutex_lock(&mutex);
    if (trace_fd < 0 || trace_pid != getpid()) { /* flock belongs to the open file: after a fork one of our own */
        const char *name = getenv("POWER_TRACE");
        trace_fd = name == NULL ? -1 : REAL(open)(name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        trace_pid = getpid();
    }
    if (trace_fd >= 0) flock(trace_fd, LOCK_EX);
}

static void end(void) {
    int saved = errno;
    if (trace_fd >= 0) flock(trace_fd, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = saved;
}

static void note(char op, const char *path, const char *to, uint64_t inode, uint64_t at, const void *data, size_t size) {
    int saved = errno;
    struct record head = {.op = op, .inode = inode, .at = at};
    head.path_bytes = strlen(path);
    head.to_bytes = strlen(to);
    head.data_bytes = data == NULL ? 0 : size;
    struct iovec parts[] = {
        {&head, sizeof head},
        {(void *)path, head.path_bytes},
        {(void *)to, head.to_bytes},
        {(void *)data, head.data_bytes},
    };
    if (REAL(writev)(trace_fd, parts, 4) < 0) abort();
    errno = saved;
}

static uint64_t inode_of(int fd) {
    struct stat facts;
    return fstat(fd, &facts) == 0 ? facts.st_ino : 0;
}

/* For tests: a line in the trace that is no call. */
void power_mark(const char *text) {
    begin();
    note('!', "", "", 0, 0, text, strlen(text));
    end();
}

static int do_open(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    if (!(flags & (O_CREAT | O_TRUNC)) || !path_at(folder, name, path)) return REAL(openat)(folder, name, flags, mode);
    begin();
    struct stat before;
    int was_there = fstatat(folder, name, &before, AT_SYMLINK_NOFOLLOW) == 0;
    int fd = REAL(openat)(folder, name, flags, mode);
    if (fd >= 0 && !was_there)
        note('c', path, "", inode_of(fd), 0, NULL, 0);
    else if (fd >= 0 && (flags & O_TRUNC))
        note('t', path, "", inode_of(fd), 0, NULL, 0);
    end();
    return fd;
}

static mode_t mode_in(int flags, va_list rest) { return flags & O_CREAT ? va_arg(rest, mode_t) : 0; }

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = mode_in(flags, rest);                          \
        va_end(rest);                                                \
        return do_open(AT_FDCWD, path, flags, mode);                 \
    }
#define OPENAT(name)                                                 \
    int name(int folder, const char *path, int flags, ...) {         \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = mode_in(flags, rest);                          \
        va_end(rest);                                                \
        return do_open(folder, path, flags, mode);                   \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

FILE *fopen(const char *name, const char *mode) {
    char path[PATH_MAX];
    if (mode[0] == 'r' || !path_at(AT_FDCWD, name, path)) return REAL(fopen)(name, mode);
    abort(); /* stdio's writes do not pass here; nothing of ours uses them */
}
FILE *fopen64(const char *name, const char *mode) { return fopen(name, mode); }

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(write)(fd, data, size);
    begin();
    ssize_t done = REAL(write)(fd, data, size);
    if (done > 0) note('w', path, "", inode_of(fd), lseek(fd, 0, SEEK_CUR) - done, data, done);
    end();
    return done;
}

#define PWRITE(name, offset_type)                                                   \
    ssize_t name(int fd, const void *data, size_t size, offset_type at) {           \
        char path[PATH_MAX];                                                        \
        if (!path_of(fd, path)) return REAL(name)(fd, data, size, at);              \
        begin();                                                                    \
        ssize_t done = REAL(name)(fd, data, size, at);                              \
        if (done > 0) note('w', path, "", inode_of(fd), at, data, done);            \
        end();                                                                      \
        return done;                                                                \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(writev)(fd, parts, count);
    ssize_t total = 0;
    for (int number = 0; number < count; number++) {
        ssize_t done = write(fd, parts[number].iov_base, parts[number].iov_len);
        if (done < 0) return total > 0 ? total : done;
        total += done;
        if ((size_t)done < parts[number].iov_len) break;
    }
    return total;
}

/* Copies inside the kernel: refused, so that callers fall back on what is recorded. */
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    char path[PATH_MAX];
    if (!path_of(to, path)) return REAL(sendfile)(to, from, at, size);
    errno = EINVAL;
    return -1;
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, (off_t *)at, size); }
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
    char path[PATH_MAX];
    if (!path_of(to, path)) return REAL(copy_file_range)(from, from_at, to, to_at, size, flags);
    errno = ENOSYS;
    return -1;
}

/* A file that grows in other ways than by writing. */
static int do_truncate(int fd, off64_t size, int (*call)(int, off64_t)) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return call(fd, size);
    begin();
    int result = call(fd, size);
    if (result == 0) note('t', path, "", inode_of(fd), size, NULL, 0);
    end();
    return result;
}
int ftruncate(int fd, off_t size) { return do_truncate(fd, size, (int (*)(int, off64_t))real("ftruncate64")); }
int ftruncate64(int fd, off64_t size) { return do_truncate(fd, size, (int (*)(int, off64_t))real("ftruncate64")); }

static int grows(int fd, off64_t end_at) {
    struct stat facts;
    return fstat(fd, &facts) == 0 && end_at > facts.st_size ? ftruncate64(fd, end_at) : 0;
}
int posix_fallocate(int fd, off_t at, off_t size) {
    char path[PATH_MAX];
    return path_of(fd, path) ? (grows(fd, at + size) == 0 ? 0 : errno) : REAL(posix_fallocate)(fd, at, size);
}
int posix_fallocate64(int fd, off64_t at, off64_t size) { return posix_fallocate(fd, at, size); }
int fallocate(int fd, int mode, off_t at, off_t size) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(fallocate)(fd, mode, at, size);
    if (mode == 0) return grows(fd, at + size);
    errno = EOPNOTSUPP;
    return -1;
}
int fallocate64(int fd, int mode, off64_t at, off64_t size) { return fallocate(fd, mode, at, size); }

/* `noted` is what is recorded of a call on one path or two. */
#define MOVE(op, from_folder, from, to_folder, to, call)                                      \
    char path[PATH_MAX], target[PATH_MAX];                                                    \
    int is_ours = path_at(from_folder, from, path);                                           \
    is_ours = path_at(to_folder, to, target) || is_ours;                                      \
    if (!is_ours) return call;                                                                \
    begin();                                                                                  \
    int result = call;                                                                        \
    if (result == 0) note(op, path, target, 0, 0, NULL, 0);                                   \
    end();                                                                                    \
    return result

int rename(const char *from, const char *to) { MOVE('r', AT_FDCWD, from, AT_FDCWD, to, REAL(rename)(from, to)); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    MOVE('r', from_folder, from, to_folder, to, REAL(renameat)(from_folder, from, to_folder, to));
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    if (flags & RENAME_EXCHANGE) abort(); /* nothing of ours swaps */
    MOVE('r', from_folder, from, to_folder, to, REAL(renameat2)(from_folder, from, to_folder, to, flags));
}
int link(const char *from, const char *to) { MOVE('l', AT_FDCWD, from, AT_FDCWD, to, REAL(link)(from, to)); }
int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    MOVE('l', from_folder, from, to_folder, to, REAL(linkat)(from_folder, from, to_folder, to, flags));
}

#define ON_PATH(op, folder, name, call)                                                       \
    char path[PATH_MAX];                                                                      \
    if (!path_at(folder, name, path)) return call;                                            \
    begin();                                                                                  \
    int result = call;                                                                        \
    struct stat facts;                                                                        \
    if (result == 0) note(op, path, "", lstat(path, &facts) == 0 ? facts.st_ino : 0, 0, NULL, 0); \
    end();                                                                                    \
    return result

int mkdir(const char *name, mode_t mode) { ON_PATH('d', AT_FDCWD, name, REAL(mkdir)(name, mode)); }
int mkdirat(int folder, const char *name, mode_t mode) { ON_PATH('d', folder, name, REAL(mkdirat)(folder, name, mode)); }
int unlink(const char *name) { ON_PATH('u', AT_FDCWD, name, REAL(unlink)(name)); }
int unlinkat(int folder, const char *name, int flags) { ON_PATH('u', folder, name, REAL(unlinkat)(folder, name, flags)); }
int rmdir(const char *name) { ON_PATH('u', AT_FDCWD, name, REAL(rmdir)(name)); }

/* The process is held up as by a disk, but the disk of the test is spared. */
#define SYNC(name, op)                                                                        \
    int name(int fd) {                                                                        \
        char path[PATH_MAX];                                                                  \
        if (!path_of(fd, path)) return REAL(name)(fd);                                        \
        begin();                                                                              \
        note(op, path, "", inode_of(fd), 0, NULL, 0);                                         \
        end();                                                                                \
        return 0;                                                                             \
    }
SYNC(fsync, 's')
SYNC(fdatasync, 's')
SYNC(syncfs, 'S')
