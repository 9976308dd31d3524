/* A disk that fails: while the file named by SICK_NOW is there, writes and syncs of files whose paths begin with
   SICK_BELOW do. Loaded by LD_PRELOAD; the file holds the number of the error that the calls end with.
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The error that a call on `path` ends with, or 0. */
static int illness(const char *path) {
    const char *below = getenv("SICK_BELOW"), *now = getenv("SICK_NOW");
    if (below == NULL || now == NULL || strncmp(path, below, strlen(below)) != 0) return 0;
    int fd = REAL(open)(now, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    char text[16] = "";
    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    return size > 0 ? atoi(text) : 0;
}

static int illness_of(int fd) {
    char link[64], path[PATH_MAX];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    path[size > 0 ? size : 0] = 0;
    int error = illness(path);
    errno = saved;
    return error;
}

#define FAIL_IF(expression)                \
    int error = expression;                \
    if (error != 0) {                      \
        errno = error;                     \
        return -1;                         \
    }

ssize_t write(int fd, const void *data, size_t size) {
    FAIL_IF(illness_of(fd));
    return REAL(write)(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    FAIL_IF(illness_of(fd));
    return REAL(writev)(fd, parts, count);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    FAIL_IF(illness_of(fd));
    return REAL(pwrite)(fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    FAIL_IF(illness_of(fd));
    return REAL(pwrite64)(fd, data, size, at);
}
int ftruncate64(int fd, off64_t size) {
    FAIL_IF(illness_of(fd));
    return REAL(ftruncate64)(fd, size);
}
int fsync(int fd) {
    FAIL_IF(illness_of(fd));
    return REAL(fsync)(fd);
}
int fdatasync(int fd) {
    FAIL_IF(illness_of(fd));
    return REAL(fdatasync)(fd);
}

static int do_open(const char *path, int flags, mode_t mode) {
    FAIL_IF(flags & O_CREAT ? illness(path) : 0);
    return REAL(open)(path, flags, mode);
}

#define OPEN(name)                                                 \
    int name(const char *path, int flags, ...) {                   \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;  \
        va_end(rest);                                              \
        return do_open(path, flags, mode);                         \
    }
OPEN(open)
OPEN(open64)
