/* Preloaded into the program: ends it, as kill -9 does, at a chosen write to its state.
 *
 * What is chosen, and what was written, is in a file of the test that is mapped here (see
 * write_points.rs, which has the same layout). Nothing happens while it is not armed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum armed { IDLE, RECORD, KILL };
enum moment { BEFORE, HALF, AFTER };
enum operation { WRITE = 1, SYNC, RENAME, REMOVE, TRUNCATE, MAKE };
enum file { WAL = 1, MANIFEST, TABLE, BLOB, CURRENT, OPTIONS, LOCK, FORMAT, SPOOL, DIRECTORY, OTHER };

#define EVENTS 8192
struct page {
    uint32_t armed, file, operation, nth, moment, seen, fired, events;
    uint8_t event[EVENTS][2];
};

static struct page *page;
static char state[4096];
static size_t length;

__attribute__((constructor)) static void map(void) {
    const char *points = getenv("NARFS_TEST_POINTS"), *dir = getenv("NARFS_TEST_POINTS_IN");
    if (!points || !dir)
        return;
    if (!realpath(dir, state)) {
        /* It is yet to be made, in a directory that is there. */
        const char *name = strrchr(dir, '/');
        char *above = name ? strndup(dir, name - dir) : 0;
        if (!above || !realpath(above, state) || strlen(state) + strlen(name) >= sizeof state)
            return;
        strcat(state, name);
    }
    length = strlen(state);
    int fd = open(points, O_RDWR | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : mmap(0, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (at != MAP_FAILED)
        page = at;
}

static int ends(const char *name, const char *end) {
    size_t n = strlen(name), e = strlen(end);
    return n >= e && !strcmp(name + n - e, end);
}

static int begins(const char *name, const char *start) {
    return !strncmp(name, start, strlen(start));
}

/* The kind of a file of the state; 0 for what does not count. */
static int kind(const char *path) {
    if (strncmp(path, state, length) || (path[length] != '/' && path[length]))
        return 0;
    const char *inside = path + length, *name = strrchr(path, '/') + 1;
    if (begins(inside, "/tmp/"))
        return SPOOL;
    if (begins(name, "LOG") || ends(name, ".sock"))
        return 0;
    if (ends(name, ".log"))
        return WAL;
    if (begins(name, "MANIFEST"))
        return MANIFEST;
    if (ends(name, ".sst"))
        return TABLE;
    if (ends(name, ".blob"))
        return BLOB;
    if (begins(name, "CURRENT") || ends(name, ".dbtmp"))
        return CURRENT;
    if (begins(name, "OPTIONS"))
        return OPTIONS;
    if (!strcmp(name, "lock") || !strcmp(name, "LOCK"))
        return LOCK;
    if (begins(name, "format"))
        return FORMAT;
    struct stat seen;
    return !stat(path, &seen) && S_ISDIR(seen.st_mode) ? DIRECTORY : OTHER;
}

static int reached(int file, int operation) {
    if (!file)
        return 0;
    uint32_t at = __atomic_fetch_add(&page->events, 1, __ATOMIC_SEQ_CST);
    if (at < EVENTS) {
        page->event[at][0] = file;
        page->event[at][1] = operation;
    }
    if (page->armed != KILL || page->file != (uint32_t)file || page->operation != (uint32_t)operation)
        return 0;
    return __atomic_fetch_add(&page->seen, 1, __ATOMIC_SEQ_CST) == page->nth;
}

static int at_path(const char *path, int operation) {
    return page && page->armed ? reached(kind(path), operation) : 0;
}

static int at_file(int fd, int operation) {
    if (!page || !page->armed)
        return 0;
    char link[32] = "/proc/self/fd/", digits[12], path[4096];
    int n = 0, at = strlen(link);
    do
        digits[n++] = '0' + fd % 10;
    while (fd /= 10);
    while (n)
        link[at++] = digits[--n];
    link[at] = 0;
    ssize_t got = readlink(link, path, sizeof path - 1);
    if (got <= 0)
        return 0;
    path[got] = 0;
    return reached(kind(path), operation);
}

static void die(void) {
    page->fired = 1;
    page->armed = IDLE;
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* The call, with the end before or after it. */
#define CALL(hit, call)                      \
    do {                                     \
        int is_hit = hit;                    \
        if (is_hit && page->moment == BEFORE) \
            die();                           \
        long result = call;                  \
        if (is_hit)                          \
            die();                           \
        return result;                       \
    } while (0)

ssize_t write(int fd, const void *data, size_t n) {
    int hit = at_file(fd, WRITE);
    CALL(hit, syscall(SYS_write, fd, data, hit && page->moment == HALF ? n / 2 : n));
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) {
    int hit = at_file(fd, WRITE);
    CALL(hit, syscall(SYS_pwrite64, fd, data, hit && page->moment == HALF ? n / 2 : n, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    return pwrite(fd, data, n, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    int hit = at_file(fd, WRITE);
    CALL(hit, syscall(SYS_writev, fd, parts, hit && page->moment == HALF ? (n + 1) / 2 : n));
}

int fsync(int fd) { CALL(at_file(fd, SYNC), syscall(SYS_fsync, fd)); }

int fdatasync(int fd) { CALL(at_file(fd, SYNC), syscall(SYS_fdatasync, fd)); }

int ftruncate(int fd, off_t n) { CALL(at_file(fd, TRUNCATE), syscall(SYS_ftruncate, fd, n)); }

int ftruncate64(int fd, off64_t n) { return ftruncate(fd, n); }

int rename(const char *from, const char *to) {
    CALL(at_path(to, RENAME), syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int unlink(const char *path) { CALL(at_path(path, REMOVE), syscall(SYS_unlinkat, AT_FDCWD, path, 0)); }

int mkdir(const char *path, mode_t mode) {
    CALL(at_path(path, MAKE), syscall(SYS_mkdirat, AT_FDCWD, path, mode));
}
