/* Preloaded into a test process: makes pwritev as unfriendly as POSIX allows.
 *
 * SHIM_BYTES_MAX   write at most this many bytes a call (0: report 0 bytes written)
 * SHIM_EINTR=1     every other call fails with EINTR
 * SHIM_SLEEP_MS    wait before each call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

static long setting(const char *name) {
    const char *value = getenv(name);
    return value ? atol(value) : -1;
}

static ssize_t unfriendly(int fd, const struct iovec *iov, int count, off_t offset) {
    static int calls;
    long nbytes = setting("SHIM_BYTES_MAX"), sleep_ms = setting("SHIM_SLEEP_MS");
    if (sleep_ms > 0) usleep((useconds_t)sleep_ms * 1000);
    if (setting("SHIM_EINTR") == 1 && ++calls % 2) {
        errno = EINTR;
        return -1;
    }
    if (nbytes == 0) return 0;
    ssize_t (*real)(int, const struct iovec *, int, off_t) = dlsym(RTLD_NEXT, "pwritev");
    if (nbytes < 0) return real(fd, iov, count, offset);
    struct iovec first = {iov->iov_base, iov->iov_len};
    if (first.iov_len > (size_t)nbytes) first.iov_len = (size_t)nbytes;
    return real(fd, &first, 1, offset);
}

ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset) {
    return unfriendly(fd, iov, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *iov, int count, off_t offset) {
    return unfriendly(fd, iov, count, offset);
}
