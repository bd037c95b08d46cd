/* For the processes that are started with this library in LD_PRELOAD, ruled by the file TICKRING_TEST_SHIM:
 *
 * | offset | size | meaning |
 * |---|---|---|
 * | 0 | 8 | seconds that their wall clock is ahead of the machine's; other clocks are the machine's |
 * | 8 | 4 | 1 = armed: a process dies just before a certain write, and disarms |
 * | 12 | 4 | 1 = only where the write says that nothing is under way: bytes 16 to 24 equal bytes 24 to 32 |
 * | 16 | 4 | so many of these writes are let through first |
 * | 20 | 4 | the process that died |
 * | 24 | 104 | how the written file's path ends |
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct rule {
    int64_t offset;
    int32_t armed, marks_only, skip, died;
    char ending[104];
};
static volatile struct rule *rule;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("TICKRING_TEST_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *memory = mmap(NULL, sizeof(struct rule), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED) rule = memory;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME && rule) now->tv_sec += rule->offset;
    return failed;
}

static void look(int fd, const void *data, size_t size) {
    if (!rule || !rule->armed) return;
    if (rule->marks_only && (size < 32 || memcmp((const char *)data + 16, (const char *)data + 24, 8))) return;
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    size_t wanted = strlen((const char *)rule->ending);
    if (length < (ssize_t)wanted || memcmp(path + length - wanted, (const char *)rule->ending, wanted)) return;
    if (__sync_fetch_and_sub(&rule->skip, 1) > 0) return;
    if (!__sync_bool_compare_and_swap(&rule->armed, 1, 0)) return;
    rule->died = getpid();
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define PWRITE(name)                                                                           \
    ssize_t name(int fd, const void *data, size_t size, off_t at) {                            \
        static ssize_t (*real)(int, const void *, size_t, off_t);                              \
        if (!real) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, #name); \
        look(fd, data, size);                                                                  \
        return real(fd, data, size, at);                                                       \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
